"""Unequal ranks: what a client lacks is and stays zero; the three ways to weigh, by hand."""

import pytest
import torch
from dense import RANK, A, B, answer, close, learned, start, trained
from small import TRAIN, SmallPopulation, client, job_batches, random_params, small_bank, small_setting

from fcit_ray.federated.client import run_client
from fcit_ray.federated.lora.hlora import HLoRA
from fcit_ray.federated.lora.zero_pad import ZeroPad
from fcit_ray.methods.finetune import Finetune
from fcit_ray.types import Assignment, ClientJob

# Two clients of rank 1 and 2, ten and thirty samples; one input, one output.
# Client 0 has A = [2], B = [3]; client 1 has A = [4; 6], B = [1, 2].
RULES = {weights: ZeroPad(ranks=(1, 2), weights=weights) for weights in ("samples", "norm", "dimension")}
ZERO = {A: torch.zeros(2, 1), B: torch.zeros(1, 2)}
UPDATES = [answer(0, 10, a=[[2.0], [0.0]], b=[[3.0, 0.0]]), answer(1, 30, a=[[4.0], [6.0]], b=[[1.0, 2.0]])]


@pytest.mark.parametrize(
    ("weights", "a", "b"),
    [
        # (10*2 + 30*4)/40 = 3.5 and 30*6/40 = 4.5; (10*3 + 30*1)/40 = 1.5 and 30*2/40 = 1.5
        ("samples", [3.5, 4.5], [1.5, 1.5]),
        # |3*2| = 6 and |1*4 + 2*6| = 16, of 22: (6*2 + 16*4)/22 and 16*6/22; (6*3 + 16*1)/22 and 16*2/22
        ("norm", [76 / 22, 96 / 22], [34 / 22, 32 / 22]),
        # the second rank is client 1's alone: 6 and 2
        ("dimension", [3.5, 6.0], [1.5, 2.0]),
    ],
)
def test_the_three_means_by_hand(weights, a, b):
    after = close(RULES[weights], ZERO, UPDATES)
    torch.testing.assert_close(after[A].flatten(), torch.tensor(a))
    torch.testing.assert_close(after[B].flatten(), torch.tensor(b))


def test_the_padded_baseline_counts_every_client():
    # The released slip: a name misspelt, and the baseline keeps client 0 alone, scaled by its share: A = 2 / 4.
    after = close(RULES["samples"], ZERO, UPDATES)
    assert after[A][0].item() != 0.5
    assert after[A][1].item() != 0.0


@pytest.mark.parametrize("weights", ["samples", "dimension"])
def test_from_other_values_than_zero_the_means_are_the_same(weights):
    # Values, not changes, are averaged: a rank that client 0 lacks counts as 0 (or not at all), however large it was.
    rule, zero = RULES[weights], close(RULES[weights], ZERO, UPDATES)
    params = {A: torch.tensor([[8.0], [16.0]]), B: torch.tensor([[32.0, 64.0]])}
    moved = []
    for update in UPDATES:
        given = rule.give(params, update.client)
        moved.append(type(update)(**{**vars(update), "delta": {n: v - given[n] for n, v in update.delta.items()}}))
    after = close(rule, params, moved)
    torch.testing.assert_close(after[A], zero[A])
    torch.testing.assert_close(after[B], zero[B])


def test_each_rank_of_a_and_of_b_is_the_mean_over_those_who_have_it():
    # The released slip: the branch for B skips segments. Ranks 1, 2, 2, 4 make three of them: 0, 1, 2-3.
    rule = ZeroPad(ranks=(1, 2, 2, 4), weights="dimension")
    params, counts = start(rule), (10, 20, 30, 5)
    updates, values = zip(*[trained(rule, params, k, n) for k, n in enumerate(counts)], strict=True)
    after = close(rule, params, updates)
    for rank in range(RANK):
        have = [(n, v) for n, r, v in zip(counts, rule.ranks, values, strict=True) if r > rank]
        total = sum(n for n, _ in have)
        row = sum(n / total * v[A].double()[rank] for n, v in have)
        column = sum(n / total * v[B].double()[:, rank] for n, v in have)
        torch.testing.assert_close(after[A][rank].double(), row, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after[B][:, rank].double(), column, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", RULES)
def test_a_rank_that_nobody_has_keeps_its_value(weights):
    # Padded, row and column would both be zero, and so would the gradient of each: lost for ever.
    rule = RULES[weights]
    params = start(rule)
    after = close(rule, params, [trained(rule, params, index)[0] for index in range(2)])
    assert torch.equal(after[A][2:], params[A][2:])
    assert torch.equal(after[B][:, 2:], params[B][:, 2:])
    assert not torch.equal(after[A][:2], params[A][:2])


@pytest.mark.parametrize("weights", RULES)
def test_a_round_without_full_ranks_does_not_end_them(weights):
    # Client 0, of rank 1, is alone in the first stage; client 1, of all 4, joins it in the second.
    rule = ZeroPad(ranks=(1, 4), weights=weights)
    population = SmallPopulation(((0,), (0, 0)))
    first, both = (learned(rule, population, setting=small_setting(stages, 1))[0] for stages in (1, 2))
    last = [name for name in first.params if ".lora_B." in name]
    assert not any(first.params[name][:, 1:].any() for name in last)
    assert all(both.params[name][:, 1:].any() for name in last)


def test_a_rank_whose_only_owner_has_no_samples_keeps_its_value():
    params = start(RULES["dimension"])
    updates = [trained(RULES["dimension"], params, index, count)[0] for index, count in ((0, 10), (1, 0))]
    after = close(RULES["dimension"], params, updates)
    assert torch.equal(after[A][1], params[A][1])
    assert not torch.equal(after[A][0], params[A][0])


def test_norms_weigh_as_dense_products_do():
    rule = ZeroPad(ranks=(1, 2, 4), weights="norm")
    params = start(rule)
    updates, values = zip(*[trained(rule, params, k, 10 * (k + 1)) for k in range(3)], strict=True)
    norms = [(v[B].double() @ v[A].double()).norm() for v in values]
    after = close(rule, params, updates)
    for name in (A, B):
        expected = sum(norm / sum(norms) * v[name].double() for norm, v in zip(norms, values, strict=True))
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=1e-5)


def test_products_of_nothing_are_weighed_by_samples():
    # B is zero at the start; who was trained without an effect on it has no norm to be weighed by.
    params = {A: torch.zeros(2, 1), B: torch.zeros(1, 2)}
    updates = [answer(0, 10, a=[[2.0], [0.0]], b=[[0.0, 0.0]]), answer(1, 30, a=[[4.0], [6.0]], b=[[0.0, 0.0]])]
    after = close(RULES["norm"], params, updates)
    assert after[A].flatten().tolist() == [3.5, 4.5]


# What a client has


def test_a_client_is_given_its_first_ranks_and_zeros():
    params = start(ZeroPad())
    rule = ZeroPad(ranks=(1, 3))
    for index, rank in ((0, 1), (1, 3), (2, 1), (7, 3)):  # in turn
        given = rule.give(params, client(index, [1.0]))
        assert torch.equal(given[A][:rank], params[A][:rank])
        assert torch.equal(given[B][:, :rank], params[B][:, :rank])
        assert not given[A][rank:].any()
        assert not given[B][:, rank:].any()
    assert all(given is params[name] for name, given in ZeroPad().give(params, client(0, [1.0])).items())


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("rule", [ZeroPad(ranks=(2,)), HLoRA(ranks=(2,))], ids=repr)
def test_training_leaves_the_missing_ranks_at_exactly_zero(rule, weight_decay):
    # Gradients there are products with zeros; AdamW without a gradient moves nothing, and its decay shrinks zero.
    bank = small_bank()
    train = TRAIN.model_copy(update={"weight_decay": weight_decay, "epochs": 4})
    job = ClientJob(
        stage=0,
        round=0,
        client=client(0, [1.0], 6),
        assignment=Assignment(train=(0,)),
        params=random_params(bank.params()),  # the server's own have all four ranks
        knowledge={},
        memory={},
        seed=0,
    )
    update = run_client(job, job_batches(job, train), bank, Finetune(), train, small_setting(), None, rule)
    assert update.metrics["steps"] == 12
    local = bank.params()
    for name, value in update.delta.items():
        if ".lora_A." in name:
            assert not value[2:].any()
            assert not local[name][2:].any()
            assert value[:2].any(dim=1).all()
        elif ".lora_B." in name:
            assert not value[:, 2:].any()
            assert not local[name][:, 2:].any()
            assert value[:, :2].any(dim=0).all()


def test_in_a_run_the_server_keeps_the_largest_rank_and_small_clients_send_little():
    rule = ZeroPad(ranks=(1, 4), weights="dimension")
    state, _, updates, initial = learned(rule, SmallPopulation(((0, 1),)))
    a = next(name for name in state.params if ".lora_A." in name)
    assert not torch.equal(state.params[a][3], initial[a][3])  # client 1 alone trains the last rank
    own = [sum(v.any(dim=1).sum() for n, v in update.delta.items() if ".lora_A." in n) for update in updates[:2]]
    assert own == [6, 24]  # rows with a change: rank 1 and rank 4 in six layers
    # 240 numbers a rank, 416 of the projector, four bytes each
    assert [rule.bytes_up(update) for update in updates[:2]] == [4 * (240 + 416), 4 * (960 + 416)]


def test_the_rule_over_clients_is_asked_for_padded_values():
    # A median of the values 0 (padded), 6 and 6 in the second rank is 6, whatever rule computes it: so any may.
    def median(items, weights):
        return {n: torch.stack([item[n] for item in items]).median(0).values for n in items[0]}

    updates = [UPDATES[0], UPDATES[1], answer(1, 30, a=[[5.0], [6.0]], b=[[1.0, 2.0]])]
    delta = RULES["samples"].combine(ZERO, updates, [1.0] * 3, median, 0)
    assert delta[A].flatten().tolist() == [4.0, 6.0]
