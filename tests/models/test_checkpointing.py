"""Gradient checkpointing gives the same bits, whatever a method puts into a layer; answering knows nothing of it."""

import pytest
import torch
from small import COLLATOR, MODEL, TRAIN, job_batches, random_params, sample, small_bank, small_setting

from fcit_ray.errors import ConfigError
from fcit_ray.federated.client import run_client
from fcit_ray.federated.method import Method
from fcit_ray.methods.lwf import Lwf
from fcit_ray.methods.moelora import MoELoRA
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment, Client, ClientJob

SETTING = small_setting()
CLIENT = Client(1, 0, 4, torch.ones(4))
CHECKPOINTED = TRAIN.model_copy(update={"gradient_checkpointing": True})


def gradients(bank, checkpointed: bool, projector: bool = True):
    trained = bank.activate(Assignment(train=(0,)), with_projector=projector)
    bank.recompute(checkpointed)
    bank.model.train()
    for parameter in trained.values():
        parameter.grad = None
    torch.manual_seed(3)
    batch = COLLATOR.train([sample(1, 5), sample(2, 6)])
    inside = 0

    def count(module, args):
        nonlocal inside
        inside += 1

    handle = bank.model.get_base_model().model.language_model.layers[0].mlp.register_forward_pre_hook(count)
    bank.forward(batch).loss.backward()
    handle.remove()
    return {name: parameter.grad.clone() for name, parameter in trained.items()}, inside


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("projector", [True, False])  # without it the first layer's input needs no gradient
def test_gradients_are_the_same_bits_with_and_without(dropout, projector):
    bank = small_bank(2, config=MODEL.model_copy(update={"dropout": dropout}))
    bank.load(random_params(bank.params()))
    plain, once = gradients(bank, False, projector)
    kept, twice = gradients(bank, True, projector)
    assert (once, twice) == (1, 2)  # a layer is computed again
    assert plain.keys() == kept.keys()
    assert all(torch.equal(plain[name], kept[name]) for name in plain)
    assert all(value.any() for name, value in plain.items())
    assert gradients(bank, False, projector)[1] == 1


@pytest.mark.parametrize("method", [Method(), MoELoRA(num_experts=2), Lwf()])
def test_a_clients_update_is_the_same_bits_with_and_without(method):
    def update(train):
        bank = small_bank(method.num_adapters(SETTING))
        method.install(bank, SETTING)
        params = random_params(bank.params())
        job = ClientJob(
            stage=1, round=0, client=CLIENT, assignment=method.assign({}, 1, [CLIENT])[0], params=params,
            knowledge={"teacher": random_params(params, 1)} if isinstance(method, Lwf) else {}, memory={}, seed=5,
        )  # fmt: skip
        return run_client(job, job_batches(job, train), bank, method, train, SETTING)

    plain, kept = update(TRAIN), update(CHECKPOINTED)
    assert params_sha256(plain.delta) == params_sha256(kept.delta)
    assert plain.metrics["loss"] == kept.metrics["loss"]


def test_answers_after_checkpointed_training_are_the_same_and_use_the_cache():
    answers = []
    for checkpointed in (False, True):
        bank = small_bank(2)
        bank.load(random_params(bank.params()))
        gradients(bank, checkpointed)
        bank.pack(bank.params())
        lengths = []
        layer = bank.model.get_base_model().model.language_model.layers[0]
        layer.mlp.register_forward_pre_hook(lambda module, args, lengths=lengths: lengths.append(args[0].shape[1]))
        batch = COLLATOR.prompts([sample(1), sample(2)])
        answers.append(bank.generate(batch, torch.full((2, 2), 0.5), 4, eos_token_id=2, pad_token_id=0))
        assert set(lengths[1:]) == {1}  # after the prompt one token at a time
    assert torch.equal(*answers)


def test_an_architecture_that_cannot_says_so():
    bank = small_bank(1)
    bank.model.get_base_model().supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"train.gradient_checkpointing: Llava.* does not support it"):
        bank.recompute(True)
    bank.recompute(False)
