"""Merged LoRAs: the two merges against float64, who trains on what, and Finetune where there is one stage."""

import pytest
import torch
from small import (
    COLLATOR,
    END,
    MODEL,
    PAD,
    SmallPopulation,
    client,
    factors,
    random_params,
    sample,
    small_bank,
    small_setting,
    trainer,
    watching,
)

from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.merged_loras import MergedLoras
from fcit_ray.models.names import adapter_index
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment, ClientUpdate

FOUR = MODEL.model_copy(update={"rank": 8, "alpha": 16.0})  # four adapters of rank 2, scaling 2
PROMPTS = COLLATOR.prompts([sample(index, 4 + index) for index in range(3)])
BOTH = pytest.mark.parametrize("merge", ["products", "factors"])


def learned(method, schedule):
    setting = small_setting(num_stages=len(schedule))
    bank = small_bank(method.num_adapters(setting))
    federation = Federation(method, FedAvg(), SmallPopulation(schedule), setting)
    jobs, train = [], trainer(bank, method, setting)
    state = simulate(federation, bank.params(), lambda job: jobs.append(job) or train(job))
    return state, bank, jobs


def answered(bank, method, params, knowledge):
    """The layers' weights, inputs and outputs for the prompts as `answer` asks them, and the tokens."""
    bank.pack(method.deploy(params, knowledge))
    gate = method.gate(knowledge, PROMPTS["features"], bank.num_adapters)
    with watching(bank) as caught:
        bank.generate(PROMPTS, gate, 1, eos_token_id=END, pad_token_id=PAD)
    return caught, bank.generate(PROMPTS, gate, 6, eos_token_id=END, pad_token_id=PAD)


@BOTH
def test_a_stream_of_one_stage_is_finetune_to_the_bit(merge):
    method = MergedLoras(merge=merge)
    merged, bank, _ = learned(method, ((0, 1),))
    finetune, other, _ = learned(Finetune(), ((0, 1),))
    assert params_sha256(merged.params) == params_sha256(finetune.params)
    ours, our_tokens = answered(bank, method, merged.params, merged.knowledge)
    theirs, their_tokens = answered(other, Finetune(), finetune.params, finetune.knowledge)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[path][2], theirs[path][2]) for path in ours)
    assert torch.equal(our_tokens, their_tokens)


def test_a_stage_trains_alone():
    # Its clients are not even sent the earlier adapters.
    state, _, jobs = learned(MergedLoras(), ((0, 1), (1, 2)))
    for job in jobs:
        assert job.assignment == Assignment(train=(job.stage,))
        assert {adapter_index(name) for name in job.params} == {job.stage, None}
    trained = {adapter_index(name) for name, value in state.params.items() if ".lora_B." in name and value.any()}
    assert trained == {0, 1}
    assert state.knowledge == {"stages": 2}


def test_the_stage_under_way_counts():
    who = client(0, [1, 0])

    def update(stage):
        return ClientUpdate(stage=stage, round=0, client=who, assignment=Assignment((stage,)), delta={})

    method = MergedLoras()
    knowledge = method.init({}, small_setting())
    seen = [knowledge["stages"]]
    for stage in (0, 0, 1, 1, 2):
        knowledge = method.absorb(knowledge, [update(stage), update(stage)])
        seen.append(knowledge["stages"])
    assert seen == [0, 1, 1, 2, 2, 3]


def test_of_four_adapters_three_trained_count_a_third_each():
    gate = MergedLoras().gate({"stages": 3}, torch.zeros(2, 5), 4)
    torch.testing.assert_close(gate, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]] * 2), rtol=0, atol=1e-7)
    assert MergedLoras(merge="factors").gate({"stages": 3}, torch.zeros(2, 5), 4) is None


@BOTH
def test_before_any_training_the_base_answers(merge):
    method, bank = MergedLoras(merge=merge), small_bank(4, config=FOUR)
    caught, _ = answered(bank, method, bank.params(), {"stages": 0})
    for weight, x, y in caught.values():
        torch.testing.assert_close(y, x @ weight.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("merge", "value"), [("products", 13.0), ("factors", 12.0)])
def test_the_two_merges_by_hand(merge, value):
    # A = 2 and 4, B = 3 and 5. Products: (2 * 3 + 4 * 5) / 2 = 13. Factors: 3 * 4 = 12.
    method = MergedLoras(merge=merge)
    params = {
        f"layers.0.up_proj.lora_{factor}.s{k}.weight": torch.tensor([[number]])
        for k, pair in enumerate([(2.0, 3.0), (4.0, 5.0)])
        for factor, number in zip("AB", pair, strict=True)
    }
    deployed = method.deploy(params, {"stages": 2})
    gate = method.gate({"stages": 2}, torch.zeros(1, 3), 2)
    weights = [1.0, 1.0] if gate is None else gate[0].tolist()
    products = [torch.mul(*factors(deployed, "layers.0.up_proj", k)).item() for k in (0, 1)]
    assert sum(weight * product for weight, product in zip(weights, products, strict=True)) == value


@BOTH
def test_every_layer_answers_as_the_formula_says(merge):
    # Three of four stages trained; the fourth adapter still has its random A, and B = 0. In float64.
    method, bank = MergedLoras(merge=merge), small_bank(4, config=FOUR)
    params = random_params(bank.params())
    params |= {name: torch.zeros_like(value) for name, value in params.items() if ".lora_B.s3." in name}
    caught, _ = answered(bank, method, params, {"stages": 3})
    assert len(caught) == 6
    for path, (weight, x, y) in caught.items():
        pairs = [factors(params, path, k) for k in range(3)]
        products = sum(b @ a for a, b in pairs) / 3
        of_factors = (sum(b for _, b in pairs) / 3) @ (sum(a for a, _ in pairs) / 3)
        right, wrong = (products, of_factors) if merge == "products" else (of_factors, products)
        torch.testing.assert_close(y, x @ (weight + 2.0 * right).T, rtol=1e-4, atol=1e-4)
        assert (y - x @ (weight + 2.0 * wrong).T).abs().max() > 0.01
