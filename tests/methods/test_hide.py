"""HiDe-LLaVA: which layers merge and which choose, the anchors, the softmax, and Finetune where there is one stage."""

import math

import pytest
import torch
from small import (
    COLLATOR,
    END,
    IMAGE,
    MODEL,
    PAD,
    TRAIN,
    SmallPopulation,
    client,
    factors,
    job_batches,
    random_params,
    sample,
    small_bank,
    small_setting,
    trainer,
    watching,
)

from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation, simulate, travelling
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.hide import Hide, last_layer
from fcit_ray.methods.merged_loras import MergedLoras
from fcit_ray.models.names import adapter_index
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment, ClientJob, ClientUpdate

FOUR = MODEL.model_copy(update={"rank": 8, "alpha": 16.0})  # four adapters of rank 2, scaling 2
FEATURES = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])


def prompts(lengths):
    """Three questions whose features point apart."""
    batch = COLLATOR.prompts([sample(index, length) for index, length in enumerate(lengths)])
    return {**batch, "features": FEATURES}


PROMPTS = prompts([4, 5, 6])
TOKENS = {"eos_token_id": END, "pad_token_id": PAD}


def hide_bank(num_adapters, config=MODEL, method=None):
    bank = small_bank(num_adapters, config=config)
    (method or Hide()).install(bank, small_setting(num_stages=num_adapters))
    return bank


def learned(method, schedule):
    setting = small_setting(num_stages=len(schedule))
    bank = small_bank(method.num_adapters(setting))
    method.install(bank, setting)
    federation = Federation(method, FedAvg(), SmallPopulation(schedule), setting)
    return simulate(federation, bank.params(), trainer(bank, method, setting)), bank


def answered(bank, method, params, knowledge, batch=PROMPTS):
    """The layers' weights, inputs and outputs for the prompts as `answer` asks them."""
    bank.pack(method.deploy(params, knowledge))
    with watching(bank) as caught:
        bank.generate(batch, method.gate(knowledge, batch["features"], bank.num_adapters), 1, **TOKENS)
    return caught


def knowing(*anchors):
    return {
        "anchors": torch.tensor(anchors, dtype=torch.float32),
        "mass": torch.full((len(anchors),), 10.0, dtype=torch.float64),
    }


def update(stage, who):
    return ClientUpdate(stage=stage, round=0, client=who, assignment=Assignment(train=(stage,)), delta={})


# Identities


def test_a_stream_of_one_stage_is_finetune_and_merged_loras_to_the_bit():
    outcomes = []
    for method in (Hide(), Finetune(), MergedLoras()):
        state, bank = learned(method, ((0, 1),))
        outputs = {path: y for path, (_, _, y) in answered(bank, method, state.params, state.knowledge).items()}
        outcomes.append((params_sha256(state.params), params_sha256(outputs)))
    assert len(set(outcomes)) == 1


def test_installing_the_route_changes_no_bit_of_training():
    # Second of two stages, with dropout; the bank without the route is what merged LoRAs train on.
    params = random_params(small_bank(2).params())
    assignment = Assignment(train=(1,))
    job = ClientJob(
        stage=1,
        round=0,
        client=client(1, [1, 0], 4),
        assignment=assignment,
        params=travelling(params, assignment),
        knowledge={},
        memory={},
        seed=5,
    )
    deltas = [
        run_client(job, job_batches(job), bank, Hide(), TRAIN, small_setting()).delta
        for bank in (hide_bank(2), small_bank(2))
    ]
    assert params_sha256(deltas[0]) == params_sha256(deltas[1])


def test_a_bank_that_has_answered_trains_as_one_that_has_not():
    # A gate left behind would weigh the adapters of training.
    method, bank = Hide(), hide_bank(2)
    params = random_params(bank.params())
    answered(bank, method, params, knowing([1, 0, 0, 0], [0, 1, 0, 0]))
    batch = COLLATOR.train([sample(index) for index in range(2)])
    losses = []
    for one in (bank, hide_bank(2)):
        one.load(params)
        one.activate(Assignment(train=(1,)), with_projector=False)
        one.model.eval()
        losses.append(one.forward(batch).loss)
    assert torch.equal(*losses)


# Answering


def test_the_last_layer_is_the_largest_number_not_the_last_name():
    paths = [f"language_model.layers.{n}.mlp.{name}" for n in (0, 2, 9, 10) for name in ("up_proj", "down_proj")]
    assert last_layer(paths) == {"language_model.layers.10.mlp.up_proj", "language_model.layers.10.mlp.down_proj"}
    assert last_layer(reversed(paths)) == last_layer(paths)
    assert last_layer(["layers.0"]) == {"layers.0"}
    with pytest.raises(ValueError, match=r"layers\.<n>; language_model\.head is in none"):
        last_layer([*paths, "language_model.head"])


def test_all_layers_but_the_last_sum_the_factors_and_the_last_mixes_the_products():
    # Three of four stages trained; the fourth adapter still has its random A, and B = 0. Scaling 16 / 8 = 2, float64.
    method, bank = Hide(temperature=1.0), hide_bank(4, FOUR)  # warm: all three have a share
    params = random_params(bank.params())
    params |= {name: torch.zeros_like(value) for name, value in params.items() if ".lora_B.s3." in name}
    knowledge = knowing([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1])
    caught = answered(bank, method, params, knowledge)
    gate = method.gate(knowledge, FEATURES, 4).double()
    assert (gate[0] - gate[1]).abs().max() > 0.1  # the samples differ
    last = {path for path in caught if ".layers.1." in path}
    assert len(last) == 3
    assert len(caught) == 6
    for path, (weight, x, y) in caught.items():
        pairs = [factors(params, path, k) for k in range(3)]
        summed = sum(b for _, b in pairs) @ sum(a for a, _ in pairs)
        for index in range(3):
            mixed = sum(gate[index, k] * (b @ a) for k, (a, b) in enumerate(pairs))
            right, wrong = (mixed, summed) if path in last else (summed, mixed)
            torch.testing.assert_close(y[index], x[index] @ (weight + 2.0 * right).T, rtol=1e-4, atol=2e-4)
            assert (y[index] - x[index] @ (weight + 2.0 * wrong).T).abs().max() > 0.01
        if path not in last:  # nor is it the sum of the products, which has no cross terms
            products = sum(b @ a for a, b in pairs)
            assert (y - x @ (weight + 2.0 * products).T).abs().max() > 0.01


def test_the_merge_weight_is_of_each_factor():
    # 0.5 of each of two sums: a quarter of their product, in float64; at the default nothing is weighed.
    bank = hide_bank(2)
    params = random_params(bank.params())
    knowledge = knowing([1, 0, 0, 0], [0, 1, 0, 0])
    merged = Hide(merge_weight=0.5).deploy(params, knowledge)
    assert params_sha256(Hide().deploy(params, knowledge)) == params_sha256(
        Hide(merge_weight=1.0).deploy(params, knowledge)
    )
    for path in bank.layers:
        (a0, b0), (a1, b1) = (factors(params, path, k) for k in range(2))
        a, b = factors(merged, path, 0)
        if path in last_layer(bank.layers):
            assert torch.equal(a, a0)
            assert torch.equal(b, b0)
        else:
            torch.testing.assert_close(b @ a, 0.25 * (b0 + b1) @ (a0 + a1))


def test_the_gate_reaches_the_last_layer_alone():
    method, bank = Hide(), hide_bank(2)
    params = random_params(bank.params())
    one = answered(bank, method, params, knowing([1, 1, 1, 1], [-1, -1, -1, -1]))
    swapped = answered(bank, method, params, knowing([-1, -1, -1, -1], [1, 1, 1, 1]))
    for path, (_, _, y) in one.items():
        assert torch.equal(y, swapped[path][2]) is (".layers.0." in path), path


def test_before_any_training_the_base_answers():
    method, bank = Hide(), hide_bank(2)
    knowledge = method.init(bank.params(), small_setting())
    for weight, x, y in answered(bank, method, bank.params(), knowledge).values():
        torch.testing.assert_close(y, x @ weight.T, rtol=1e-4, atol=1e-5)


def test_samples_of_a_batch_are_mixed_apart():
    method, bank = Hide(temperature=1.0), hide_bank(2)
    params = random_params(bank.params())
    knowledge = knowing([1, 0, 0, 0], [0, 1, 0, 0])
    batch = prompts([5, 5, 5])  # of one length: padding plays no part
    together = answered(bank, method, params, knowledge, batch)
    gate = method.gate(knowledge, FEATURES, 2)
    assert (gate[0] - gate[1]).abs().max() > 0.1
    for index in range(3):
        one = {name: value[index : index + 1] for name, value in batch.items()}
        alone = answered(bank, method, params, knowledge, one)
        for path, (_, _, y) in alone.items():
            torch.testing.assert_close(together[path][2][index], y[0], rtol=1e-4, atol=1e-4)


def test_answers_are_the_same_with_and_without_the_cache():
    method, bank = Hide(), hide_bank(2)
    params = random_params(bank.params())
    knowledge = knowing([1, 0, 0, 0], [0, 1, 0, 0])
    bank.pack(method.deploy(params, knowledge))
    model = bank.model.get_base_model()
    # Weights drawn at random may answer the image's placeholder, for which there is no second image.
    model.generation_config.suppress_tokens = [IMAGE]
    gate = method.gate(knowledge, FEATURES, 2)
    with_cache = bank.generate(PROMPTS, gate, 8, **TOKENS)
    model.generation_config.use_cache = False
    assert torch.equal(with_cache, bank.generate(PROMPTS, gate, 8, **TOKENS))
    assert with_cache.shape[1] > 2


# The softmax


def test_the_weights_by_hand():
    # f = (3, 4) has length 5; its cosines to (1, 0) and (0, 2) are 0.6 and 0.8; over 0.1: 6 and 8.
    # w = 1 / (1 + e^2) = 1 / 8.389056 = 0.119203 and 0.880797. The third stage is still to come.
    gate = Hide().gate(knowing([1, 0], [0, 2]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]), 3)
    torch.testing.assert_close(gate[0], torch.tensor([0.119203, 0.880797, 0.0]), rtol=0, atol=1e-6)
    # f = (1, 0): cosines 1 and 0, so 1 / (1 + e^-10), where e^-10 = 0.0000454
    torch.testing.assert_close(gate[1], torch.tensor([1 - 4.54e-5, 4.54e-5, 0.0]), rtol=0, atol=1e-7)


def test_a_cold_temperature_leaves_the_nearest_and_a_hot_one_all():
    features = torch.tensor([[3.0, 4.0]])
    assert Hide(temperature=1e-4).gate(knowing([1, 0], [0, 1]), features, 2).tolist() == [[0.0, 1.0]]
    even = Hide(temperature=1e6).gate(knowing([1, 0], [0, 1]), features, 2)
    torch.testing.assert_close(even, torch.full((1, 2), 0.5), rtol=0, atol=1e-6)


# The anchors


def test_an_anchor_is_the_mean_over_all_samples_seen_in_its_stage():
    # Round 1: (10 (1, 0) + 30 (0, 1)) / 40 = (0.25, 0.75).
    # Round 2: (40 (0.25, 0.75) + 40 (1, 0)) / 80 = (0.625, 0.375).
    method = Hide()
    knowledge = method.init({}, small_setting())
    knowledge = method.absorb(knowledge, [update(0, client(0, [1, 0], 10)), update(0, client(1, [0, 1], 30))])
    assert knowledge["anchors"].tolist() == [[0.25, 0.75]]
    knowledge = method.absorb(knowledge, [update(0, client(2, [1, 0], 40))])
    assert knowledge["anchors"].tolist() == [[0.625, 0.375]]
    assert knowledge["mass"].tolist() == [80.0]
    # The next stage has its own, and leaves the first where it is.
    after = method.absorb(knowledge, [update(1, client(0, [0, 1], 5))])
    assert after["anchors"].tolist() == [[0.625, 0.375], [0.0, 1.0]]
    assert after["mass"].tolist() == [80.0, 5.0]
    assert len(knowledge["anchors"]) == 1  # a value, not a place


def test_a_stage_that_mixes_tasks_has_one_adapter_and_one_anchor():
    # Clients of 3 and 4 records; stage 0 is of tasks 0 and 1, stage 1 of task 2 alone.
    state, _ = learned(Hide(), ((0, 1), (2, 2)))
    expected = torch.tensor([[3 / 7, 4 / 7, 0, 0], [0, 0, 1, 0]])
    torch.testing.assert_close(state.knowledge["anchors"], expected)
    assert state.knowledge["mass"].tolist() == [14.0, 14.0]  # two rounds of seven
    trained = {adapter_index(name) for name, value in state.params.items() if ".lora_B." in name and value.any()}
    assert trained == {0, 1}


def test_the_mean_of_many_rounds_does_not_lose_the_small_ones():
    # In bfloat16, or in a plain average of rounds, it would: one client of 1 and one of 999 samples, ten times.
    method = Hide()
    knowledge = method.init({}, small_setting())
    for _ in range(10):
        knowledge = method.absorb(knowledge, [update(0, client(0, [1, 0], 1))])
        knowledge = method.absorb(knowledge, [update(0, client(1, [0, 1], 999))])
    torch.testing.assert_close(knowledge["anchors"], torch.tensor([[0.001, 0.999]]), rtol=0, atol=1e-6)
    assert math.isclose(knowledge["mass"].item(), 10_000)
