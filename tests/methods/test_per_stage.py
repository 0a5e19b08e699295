"""What methods with an adapter per stage share, and the merge of factors."""

from dataclasses import dataclass

import pytest
import torch
from small import client, small_bank, small_setting

from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import Algorithm
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.crossing import reasons
from fcit_ray.federated.local_optim import Plain
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.hide import Hide
from fcit_ray.methods.merged_loras import MergedLoras
from fcit_ray.methods.olora import OLora
from fcit_ray.methods.per_stage import merge_factors, of_adapter
from fcit_ray.models.names import lora_factor

ALL = [OLora(), MergedLoras(), Hide()]


@dataclass(frozen=True, kw_only=True)
class TrainsB(LoraRule):
    def trains(self, name):
        return lora_factor(name) != "A"


@dataclass(frozen=True, kw_only=True)
class Adds(LoraRule):
    declares = frozenset({Trait.ADDS_RESIDUAL})

    def install(self, bank):
        bank.add_residuals()


def reason(method, rule):
    return reasons(Algorithm(method, Plain(), FedAvg(), Aggregation(lora=rule))).get("method")


@pytest.mark.parametrize("method", ALL)
def test_there_is_an_adapter_per_stage_and_a_bank_of_at_least_one(method):
    assert method.num_adapters(small_setting(num_stages=6)) == 6
    assert method.num_adapters(small_setting(num_stages=0)) == 1  # zero-shot
    with pytest.raises(ConfigError, match="4 cannot be shared out over 3 adapters"):
        small_bank(method.num_adapters(small_setting(num_stages=3)))


@pytest.mark.parametrize("method", ALL)
def test_clients_of_different_tasks_train_the_adapter_of_their_stage(method):
    assignments = method.assign({}, 2, [client(0, [1, 0], task=5), client(1, [0, 1], task=3)])
    assert [assignment.train for assignment in assignments] == [(2,), (2,)]


@pytest.mark.parametrize("method", [MergedLoras(), Hide()])
def test_what_a_lora_rule_adds_beside_the_adapters_cannot_be_merged(method):
    assert "elsewhere" in reason(method, Adds())
    assert reason(method, TrainsB()) is None
    assert reason(OLora(), Adds()) is None  # it adds everything up anyway


def test_orthogonality_needs_an_a_that_is_trained():
    assert "does not train A" in reason(OLora(), TrainsB())
    assert reason(OLora(l1=0), TrainsB()) is None


PARAMS = {
    f"layers.{layer}.up_proj.lora_{factor}.s{k}.weight": torch.tensor([[value]])
    for layer in (0, 1)
    for k, (a, b) in enumerate([(2.0, 3.0), (4.0, 5.0), (100.0, 0.0)])
    for factor, value in (("A", a), ("B", b))
} | {"multi_modal_projector.weight": torch.tensor([[7.0]])}


def layer(params, index):
    return {k: [params[f"layers.{index}.up_proj.lora_{f}.s{k}.weight"].item() for f in "AB"] for k in range(3)}


def test_factors_of_the_trained_adapters_are_summed_into_the_first():
    # A: 2 + 4, B: 3 + 5, without the untrained third's 100; the sum's product is 48 = 2*3 + 4*5 + 2*5 + 4*3.
    merged = merge_factors(PARAMS, 2, 1.0)
    assert layer(merged, 0) == layer(merged, 1) == {0: [6.0, 8.0], 1: [0.0, 0.0], 2: [0.0, 0.0]}
    assert merged["multi_modal_projector.weight"].item() == 7.0
    # halved: 3 and 4
    assert layer(merge_factors(PARAMS, 2, 0.5), 0)[0] == [3.0, 4.0]


def test_a_layer_that_is_not_merged_keeps_its_adapters():
    merged = merge_factors(PARAMS, 2, 1.0, lambda path: path == "layers.0.up_proj")
    assert layer(merged, 0)[0] == [6.0, 8.0]
    assert layer(merged, 1) == {0: [2.0, 3.0], 1: [4.0, 5.0], 2: [100.0, 0.0]}


def test_merging_leaves_the_global_values_as_they_were():
    merge_factors(PARAMS, 2, 1.0)
    assert layer(PARAMS, 0) == {0: [2.0, 3.0], 1: [4.0, 5.0], 2: [100.0, 0.0]}


def test_a_parameter_of_another_adapter_differs_in_the_adapter_alone():
    assert of_adapter("layers.1.up_proj.lora_A.s1.weight", 12) == "layers.1.up_proj.lora_A.s12.weight"
    with pytest.raises(AssertionError, match="belongs to no adapter"):
        of_adapter("multi_modal_projector.weight", 1)
