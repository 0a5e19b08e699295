"""FFA-LoRA: A keeps its bits for ever, so averaging B is averaging the products."""

import dataclasses

import torch
from dense import A, B, close, learned, matrix, numbers, start, trained
from small import TRAIN, SmallPopulation, small_bank, small_setting

from fcit_ray.federated.lora.base import FactorAverage
from fcit_ray.federated.lora.ffa import FFA
from fcit_ray.methods.disco import Disco
from fcit_ray.params import params_sha256


def of(factor, params):
    return {name: value for name, value in params.items() if f".lora_{factor}." in name}


def test_a_keeps_its_bits_and_b_learns():
    train = TRAIN.model_copy(update={"weight_decay": 0.5})  # which would shrink whatever the optimiser holds
    state, _, updates, initial = learned(FFA(), SmallPopulation(((0, 1),)), train=train)
    assert params_sha256(of("A", state.params)) == params_sha256(of("A", initial))
    assert len(of("A", initial)) == 6
    assert all(value.any() for value in of("B", state.params).values())
    assert not any(of("A", update.delta) for update in updates)
    # and the rule that trains both does move A
    both = learned(FactorAverage(), SmallPopulation(((0, 1),)), train=train)[0]
    assert params_sha256(of("A", both.params)) != params_sha256(of("A", initial))


def test_every_client_can_draw_a_from_the_seed_alone():
    # Hence A need not travel: any bank of the run's seed has it, whatever was learned meanwhile.
    state, _, _, _ = learned(FFA(), SmallPopulation(((0, 1),)), method=Disco(num_subspaces=2))
    assert params_sha256(of("A", small_bank(2).params())) == params_sha256(of("A", state.params))


def test_as_long_as_a_has_no_gradient_it_is_the_average_of_factors_to_the_bit():
    # B starts at zero, so in the first step A's gradient is zero and AdamW leaves it where it is; with 3 and 4 records
    # and a batch of 4, one round is one step.
    train = TRAIN.model_copy(update={"batch_size": 4, "max_grad_norm": 1e9})
    setting = small_setting(num_stages=1, num_rounds=1)
    population = SmallPopulation(((0, 1),))
    states = [learned(rule, population, setting=setting, train=train)[0] for rule in (FFA(), FactorAverage())]
    assert params_sha256(states[0].params) == params_sha256(states[1].params)
    assert any(value.any() for value in of("B", states[0].params).values())


def test_the_mean_of_b_is_the_mean_of_the_products():
    params = start(FFA())
    counts = (10, 30, 5)
    updates, values = zip(*[trained(FFA(), params, k, n) for k, n in enumerate(counts)], strict=True)
    after = close(FFA(), params, updates)
    mean = sum(n / 45 * matrix(value) for n, value in zip(counts, values, strict=True))
    torch.testing.assert_close(matrix(after), mean, rtol=1e-5, atol=1e-5)
    assert torch.equal(after[A], params[A])


def test_noise_on_b_enters_the_product_linearly():
    # Twice the noise on what a client sends is twice the error of the model: there is no product of two noises.
    params = start(FFA())
    update = trained(FFA(), params, 0)[0]
    noise = numbers(*update.delta[B].shape, seed=0)
    clean = matrix(close(FFA(), params, [update]))
    errors = [
        matrix(close(FFA(), params, [dataclasses.replace(update, delta={B: update.delta[B] + z * noise})])) - clean
        for z in (1.0, 2.0)
    ]
    torch.testing.assert_close(errors[1], 2 * errors[0], rtol=1e-4, atol=1e-4)
