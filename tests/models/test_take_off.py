"""A base that has carried one bank carries another: what that computes does not depend on what was there before."""

from typing import Any

import pytest
import torch
from small import (
    COLLATOR,
    FEATURE_DIM,
    MODEL,
    SmallPopulation,
    random_params,
    sample,
    small_base,
    small_setting,
    trainer,
)
from torch import nn

from fcit_ray.experiment.components import AXES, make
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.lora.fedex import FedEx
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.models.bank import AdapterBank
from fcit_ray.params import params_sha256
from fcit_ray.types import ServerState

SETTING = small_setting(num_stages=2)
RANK = MODEL.model_copy(update={"rank": 8})
SCHEDULE = ((0, 0), (1, 1))


def trained_on(base: nn.Module, name: str, lora: Any = None) -> tuple[ServerState, AdapterBank]:
    method = make("method", {"name": name})
    bank = AdapterBank(base, RANK, method.num_adapters(SETTING), 0, FEATURE_DIM)
    method.install(bank, SETTING)
    aggregation = Aggregation(lora=lora) if lora else Aggregation()
    aggregation.lora.install(bank)
    federation = Federation(method, FedAvg(), SmallPopulation(SCHEDULE), SETTING, aggregation=aggregation)
    return simulate(federation, bank.params(), trainer(bank, method, SETTING)), bank


def worn(base: nn.Module) -> nn.Module:
    """A base after a life: packed and answered with, gated by a router, with residuals, checkpointed, a teacher's."""
    _, bank = trained_on(base, "moelora")
    base = bank.take_off()
    state, bank = trained_on(base, "disco")
    bank.recompute(True)
    bank.pack(random_params(state.params))
    prompts = COLLATOR.prompts([sample(0), sample(1)])
    bank.generate(prompts, torch.ones(2, bank.num_adapters) / 2, 3, eos_token_id=2, pad_token_id=0)
    base = bank.take_off()
    _, bank = trained_on(base, "finetune", FedEx())
    return bank.take_off()


@pytest.fixture(scope="module")
def old() -> nn.Module:
    return worn(small_base())


def test_the_base_is_as_it_was_loaded(old: nn.Module) -> None:
    new = small_base()
    assert [name for name, _ in old.named_modules()] == [name for name, _ in new.named_modules()]
    assert old.state_dict().keys() == new.state_dict().keys()
    for name, value in new.state_dict().items():
        assert torch.equal(old.state_dict()[name], value), name
    assert not any(p.requires_grad or p.grad is not None for p in old.parameters())
    assert not any(module.training for module in old.modules())
    # transformers hooks a model at its first pass to catch hidden states, bank or not
    hooks = [hook for m in old.modules() for hook in [*m._forward_hooks.values(), *m._forward_pre_hooks.values()]]
    assert {hook.__name__ for hook in hooks} == {"output_capturing_hook"}


@pytest.mark.parametrize("name", AXES["method"].parts)
def test_every_method_learns_the_same_bits_on_it(old: nn.Module, name: str) -> None:
    fresh, _ = trained_on(small_base(), name)
    again, bank = trained_on(old, name)
    assert params_sha256(again.params) == params_sha256(fresh.params)
    bank.take_off()


def test_a_projector_that_was_put_into_float32_gets_its_type_back() -> None:
    base = small_base().to(torch.bfloat16)
    bank = AdapterBank(base, MODEL.model_copy(update={"dtype": "bfloat16"}), 1, 0, FEATURE_DIM)
    name = "model.multi_modal_projector.linear_1.weight"
    assert bank.params()[name].dtype is torch.float32
    assert dict(bank.take_off().named_parameters())[name].dtype is torch.bfloat16
