"""One client's local training: the schedule by hand, what moves and what stays, what is sent, and what goes wrong."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from small import (
    COLLATOR,
    FLOATS_PER_RANK,
    MODEL,
    PROJECTOR_FLOATS,
    TRAIN,
    client,
    job_batches,
    sample,
    shard,
    small_bank,
    small_setting,
)
from transformers import get_cosine_schedule_with_warmup

from fcit_ray.data.loading.shards import training_batches
from fcit_ray.federated.admission import check_update
from fcit_ray.federated.client import learning_rate_factor, run_client
from fcit_ray.federated.lora.base import FactorAverage
from fcit_ray.federated.lora.fedsa import FedSA
from fcit_ray.federated.lora.ffa import FFA
from fcit_ray.federated.method import Method
from fcit_ray.params import norm, num_bytes, params_sha256
from fcit_ray.types import Assignment, ClientJob

SETTING = small_setting()


@pytest.fixture(scope="module")
def bank():
    return small_bank(2)


def make_job(bank, train=(0,), frozen=(), num_examples=4, seed=5, params=None, **place):
    """A job with all parameters, so that a test can see whatever moves."""
    return ClientJob(
        **{"stage": 0, "round": 0, **place},
        client=client(1, [1, 0], num_examples),
        assignment=Assignment(train, frozen),
        params=params or small_bank(2).params(),
        knowledge={},
        memory={},
        seed=seed,
    )


def run(bank, job, train=TRAIN, method=None, batches=None):
    return run_client(job, batches or job_batches(job, train), bank, method or Method(), train, SETTING)


# The schedule


def test_the_learning_rate_rises_then_falls_along_half_a_cosine():
    # 10 steps, a fifth of them warm-up: 0, 1/2, then cos over 8 steps: (1 + cos(pi k / 8)) / 2 for k = 0..7.
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors[:3] == [0.0, 0.5, 1.0]
    assert factors[6] == pytest.approx(0.5)  # k = 4: cos(pi / 2) = 0
    assert factors[4] == pytest.approx(0.853553, abs=1e-6)  # k = 2: cos(pi / 4) = 0.707107
    assert factors[9] == pytest.approx(0.038060, abs=1e-6)  # k = 7: cos(7 pi / 8) = -0.923880
    assert learning_rate_factor(10, 10, 0.2) == pytest.approx(0.0)


def test_warm_up_is_rounded_up_to_whole_steps():
    # 3 % of 34 steps is 1.02: two steps
    assert [learning_rate_factor(step, 34, 0.03) for step in (0, 1, 2)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("total", [2, 7, 34, 100])
@pytest.mark.parametrize("warmup_frac", [0.0, 0.03, 0.5])
def test_rates_are_those_of_hugging_faces_schedule(total, warmup_frac):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, math.ceil(total * warmup_frac), total)
    for step in range(total):
        assert learning_rate_factor(step, total, warmup_frac) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_a_client_of_one_step_learns_from_it():
    assert learning_rate_factor(0, 1, 0.0) == 1.0
    assert learning_rate_factor(0, 1, 0.03) == 1.0
    assert learning_rate_factor(0, 1, 0.99) == 1.0
    assert learning_rate_factor(0, 2, 0.0) == 1.0


def test_no_step_is_ever_negative_or_above_the_peak():
    for total in (1, 2, 3, 7, 40):
        for warmup in (0.0, 0.03, 0.5, 0.99):
            factors = [learning_rate_factor(step, total, warmup) for step in range(total)]
            assert all(0 <= factor <= 1 for factor in factors), (total, warmup)
            assert max(factors) > 0, (total, warmup)  # no client sends back what it was sent


@pytest.fixture
def rates(monkeypatch):
    """What AdamW is given and how its rates go."""
    seen = {}
    real = torch.optim.AdamW

    class Spy(real):
        def __init__(self, groups, **options):
            super().__init__(groups, **options)
            seen.update(options, groups=[list(group["params"]) for group in self.param_groups], lrs=[])

        def step(self, *args, **kwargs):
            seen["lrs"].append([group["lr"] for group in self.param_groups])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    return seen


def test_both_learning_rates_reach_the_optimizer_and_follow_the_schedule(bank, rates):
    # The released slip: a projector learning rate is declared and the projector trains at the adapters'.
    # Two steps without warm-up: full, then (1 + cos(pi / 2)) / 2 = half.
    run(bank, make_job(bank), TRAIN.model_copy(update={"warmup_frac": 0.0, "weight_decay": 0.25}))
    first, second = rates["lrs"]
    assert first == [TRAIN.lr, TRAIN.projector_lr] == [1e-2, 1e-3]
    assert second == pytest.approx([0.5e-2, 0.5e-3])
    assert rates["weight_decay"] == 0.25
    sizes = [sum(parameter.numel() for parameter in group) for group in rates["groups"]]
    assert sizes == [MODEL.rank // 2 * FLOATS_PER_RANK, PROJECTOR_FLOATS]


def test_adamws_first_step_moves_by_the_learning_rate(bank):
    # In Adam's first step the update is g / (|g| + eps): one learning rate against the gradient's sign, wherever |g|
    # is well above 1e-8. One step, so that lr and projector_lr can be read off what moved.
    train = TRAIN.model_copy(update={"batch_size": 4})
    delta = run(bank, make_job(bank), train).delta
    for name, value in delta.items():
        peak = train.projector_lr if "projector" in name else train.lr
        if ".lora_A." in name:  # B is zero, so A has no gradient yet
            assert torch.equal(value, torch.zeros_like(value))
        else:
            assert value.abs().max() == pytest.approx(peak, rel=1e-3), name


# What moves, what is sent


def test_delta_is_local_minus_global_of_what_was_trained(bank):
    job = make_job(bank)
    update = run(bank, job)
    local = bank.params()
    assert update.delta.keys() == {name for name in job.params if ".s1." not in name}
    for name, value in update.delta.items():
        assert torch.equal(value, local[name] - job.params[name])
        assert value.dtype == torch.float32
    assert num_bytes(update.delta) == 4 * (2 * FLOATS_PER_RANK + PROJECTOR_FLOATS)  # rank 2 each
    assert norm(update.delta) > 0


def test_idle_adapters_do_not_move_even_with_weight_decay(bank):
    job = make_job(bank, train=(1,))
    run(bank, job, TRAIN.model_copy(update={"weight_decay": 0.5}))
    after = bank.params()
    for name, value in job.params.items():
        if ".s0." in name:
            assert torch.equal(after[name], value), name
        elif ".lora_A." in name:
            assert not torch.equal(after[name], value), name


def test_frozen_adapters_take_part_but_do_not_move(bank):
    params = {name: value + (0.1 if ".s0." in name else 0) for name, value in small_bank(2).params().items()}
    alone = run(bank, make_job(bank, train=(1,), params=params))
    together = run(bank, make_job(bank, train=(1,), frozen=(0,), params=params))
    after = bank.params()
    assert together.delta.keys() == alone.delta.keys() == {name for name in params if ".s0." not in name}
    assert all(torch.equal(after[name], params[name]) for name in params if ".s0." in name)
    assert together.metrics["first_loss"] != alone.metrics["first_loss"]


def test_weight_decay_shrinks_what_is_trained_and_has_no_gradient(bank):
    # B is zero, so A has no gradient in the first step; AdamW then multiplies it by 1 - lr * decay = 1 - 0.01 * 0.5.
    job = make_job(bank)
    update = run(bank, job, TRAIN.model_copy(update={"weight_decay": 0.5, "batch_size": 4}))
    for name, value in update.delta.items():
        if ".lora_A." in name:
            torch.testing.assert_close(value, -0.005 * job.params[name], rtol=1e-3, atol=1e-7)


def test_a_projector_rate_of_zero_freezes_the_projector_and_sends_none(bank):
    job = make_job(bank)
    update = run(bank, job, TRAIN.model_copy(update={"projector_lr": 0.0, "weight_decay": 0.5}))
    assert not [name for name in update.delta if bank.is_projector(name)]
    assert num_bytes(update.delta) == 4 * 2 * FLOATS_PER_RANK
    after = bank.params()
    assert all(torch.equal(after[name], value) for name, value in job.params.items() if bank.is_projector(name))


def test_the_base_does_not_move(bank):
    def base():
        return {name: value.clone() for name, value in bank.model.state_dict().items() if "lora_" not in name}

    before = base()
    run(bank, make_job(bank))
    after = base()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("multi_modal_projector" in name for name in moved)


def test_the_job_is_a_value(bank):
    job = make_job(bank)
    digest = params_sha256(job.params)
    run(bank, job)
    assert params_sha256(job.params) == digest


# Randomness


def test_the_same_job_has_the_same_bits_whatever_was_drawn_before(bank):
    one = run(bank, make_job(bank))
    torch.rand(17)
    bank.pack(small_bank(2, seed=3).params())
    assert params_sha256(run(bank, make_job(bank)).delta) == params_sha256(one.delta)


def test_dropout_follows_the_jobs_seed(bank):
    batches = job_batches(make_job(bank))  # the same records in the same order for both
    one, other = (run(bank, make_job(bank, seed=seed), batches=batches) for seed in (5, 6))
    assert params_sha256(one.delta) != params_sha256(other.delta)
    place = replace(make_job(bank), stage=3, round=2)  # only the seed counts
    assert params_sha256(run(bank, place, batches=batches).delta) == params_sha256(one.delta)


# Metrics and hooks


def test_metrics_are_of_the_steps_taken(bank):
    # 5 records in twos are 3 steps an epoch, 6 in two epochs
    train = TRAIN.model_copy(update={"epochs": 2})
    losses = []

    @dataclass(frozen=True, kw_only=True)
    class Watching(Method):
        def loss(self, run, batch, output):
            losses.append(output.loss.item())
            return output.loss

    update = run(bank, make_job(bank, num_examples=5), train, Watching())
    metrics = update.metrics
    assert metrics["steps"] == 6.0 == len(losses)
    assert metrics["first_loss"] == losses[0]
    assert metrics["last_loss"] == losses[-1]
    assert metrics["loss"] == pytest.approx(sum(losses) / 6)
    assert metrics["delta_norm"] == norm(update.delta)
    assert metrics["seconds"] > 0


def test_training_lowers_the_loss(bank):
    update = run(bank, make_job(bank), TRAIN.model_copy(update={"epochs": 20, "lr": 5e-2}))
    assert update.metrics["last_loss"] < update.metrics["first_loss"] / 2


def test_hooks_see_the_run_and_their_answers_come_back(bank):
    @dataclass(frozen=True, kw_only=True)
    class Reporting(Method):
        def report(self, run):
            assert run.setting == SETTING
            assert run.trained.keys() == {name for name in run.job.params if ".s1." not in name}
            records = sum(len(batch["input_ids"]) for batch in run.batches())
            moved = any(not torch.equal(p.detach(), run.job.params[n]) for n, p in run.trained.items())
            return {"records": records, "moved": moved}, {"times": run.memory.get("times", 0) + 1}

    update = run(bank, replace(make_job(bank), memory={"method": {"times": 4}}), method=Reporting())
    assert update.report == {"records": 4, "moved": True}
    assert update.memory == {"method": {"times": 5}}


def test_hooks_are_told_the_servers_knowledge_and_it_is_moved_once(bank):
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Listening(Method):
        def loss(self, run, batch, output):
            seen.append(run.told("anchor"))
            return output.loss

    knowledge = {"anchor": {"w": torch.tensor([1.0, 2.0])}}
    run(bank, replace(make_job(bank), knowledge=knowledge), method=Listening())
    assert seen[0]["w"].tolist() == [1.0, 2.0]
    assert seen[0]["w"].device == bank.device
    assert seen[1] is seen[0]


def test_gradients_are_clipped(bank):
    seen = []
    train = TRAIN.model_copy(update={"max_grad_norm": 1e-3})

    @dataclass(frozen=True, kw_only=True)
    class Watching(Method):
        def report(self, run):
            seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in run.trained.values())))
            return {}, {}

    run(bank, make_job(bank), train, Watching())
    assert seen[0] == pytest.approx(1e-3, rel=1e-3)


# Faults


@pytest.mark.parametrize(("value", "told"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_loss_that_is_no_number_says_where(bank, value, told):
    @dataclass(frozen=True, kw_only=True)
    class Breaking(Method):
        def loss(self, run, batch, output):
            return output.loss * (value if run.trained and run.job.round == 3 and len(seen) == 1 else 1.0)

    seen = []

    def batches():
        for batch in job_batches(job)():
            yield batch
            seen.append(batch)

    job = make_job(bank, stage=2, round=3)
    with pytest.raises(FloatingPointError, match=f"loss is {told} in stage 2, round 3, client 1, step 1; lower"):
        run(bank, job, method=Breaking(), batches=batches)


def test_a_gradient_that_is_no_number_says_where(bank):
    # The loss of the last step is finite, its gradient is not: sqrt has slope infinity at zero. No later loss would
    # tell, and the update would make the whole server's state not a number.
    @dataclass(frozen=True, kw_only=True)
    class Breaking(Method):
        def loss(self, run, batch, output):
            return output.loss + torch.sqrt(output.loss - output.loss.detach())

    with pytest.raises(FloatingPointError, match="gradient is nan in stage 0, round 0, client 1, step 0"):
        run(bank, make_job(bank), TRAIN.model_copy(update={"batch_size": 4}), Breaking())


def test_a_shard_that_disagrees_with_its_job_is_noticed(bank):
    job = make_job(bank, num_examples=6)
    batches = training_batches(shard(0, 1, 4), COLLATOR, 2, job.seed, 1)
    with pytest.raises(AssertionError, match="2 steps instead of 3"):
        run(bank, job, batches=batches)


def test_a_record_without_an_answer_is_noticed(bank):
    # All labels ignored: the mean over no tokens is not a number.
    record = sample(0)
    record["labels"][:] = -100
    with pytest.raises(FloatingPointError, match="loss is nan"):
        run(bank, make_job(bank, num_examples=1), batches=lambda: iter([COLLATOR.train([record])]))


@pytest.mark.parametrize("lora", [FactorAverage(), FFA(), FedSA()], ids=["factors", "ffa", "fedsa"])
@pytest.mark.parametrize(("records", "warmup_frac"), [(1, 0.99), (4, 0.5), (4, 0.99)], ids=str)
def test_no_client_sends_back_what_it_was_sent_however_few_its_steps(lora, records, warmup_frac):
    """So that an exact copy can be refused: the first step of a warm-up has a rate of zero, and B begins at zero."""
    train = TRAIN.model_copy(update={"warmup_frac": warmup_frac, "projector_lr": 0.0})
    bank = small_bank(2)
    job = make_job(bank, num_examples=records)
    update = run_client(job, job_batches(job, train), bank, Method(), train, SETTING, lora=lora)
    check_update(job, update, frozenset(update.delta))
