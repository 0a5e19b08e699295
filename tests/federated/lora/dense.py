"""One layer of 7 inputs and 5 outputs with a LoRA of rank 4, clients' answers for it, and its matrix in float64.

Not square, so that nothing transposed goes unnoticed.
"""

from dataclasses import replace

import torch
from small import TRAIN, client, job_batches, small_bank, small_setting

from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.lora.fedex import FedEx
from fcit_ray.federated.lora.flora import FLoRA
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import add, weighted_mean
from fcit_ray.types import Assignment, ClientUpdate

IN, OUT, RANK = 7, 5, 4
A, B, R, P = "layer.lora_A.s0.weight", "layer.lora_B.s0.weight", "layer.residual", "projector.weight"


def numbers(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def start(rule, rank=RANK):
    """Global values after some rounds: no factor is zero, but FLoRA's B always is."""
    params = {A: numbers(rank, IN, seed=1), B: numbers(OUT, rank, seed=2), P: numbers(3, seed=3)}
    if isinstance(rule, FLoRA):
        params[B] = torch.zeros(OUT, rank)
    if isinstance(rule, FedEx | FLoRA):
        params[R] = numbers(OUT, IN, seed=4)
    return params


def answer(index, count, **values):
    """A client's update from zero, with the values given as nested lists for A and B."""
    delta = {{"a": A, "b": B, "p": P}[name]: torch.tensor(value) for name, value in values.items()}
    who = client(index, [1.0], count)
    return ClientUpdate(stage=0, round=0, client=who, assignment=Assignment(train=(0,)), delta=delta)


def trained(rule, params, index, count=10, seed=None):
    """A client's update after steps that moved everything it has; seeds make equal clients."""
    blank = answer(index, count)
    given = rule.give(params, blank.client)
    moves = {
        name: numbers(*value.shape, seed=100 + 10 * (index if seed is None else seed) + place)
        for place, (name, value) in enumerate(sorted(params.items()))
        if rule.trains(name) and name != R
    }
    # What a client does not have is zero and stays zero (shown by training in test_zero_pad).
    own = rule.give({name: torch.ones_like(value) for name, value in params.items()}, blank.client)
    moved = {name: move * own[name] for name, move in moves.items()}
    return replace(blank, delta=moved), {name: given[name] + moved.get(name, 0) for name in given}


def matrix(params):
    """B A, and the residual if there is one, in float64."""
    product = params[B].double() @ params[A].double()
    return product + params[R].double() if R in params else product


def close(rule, params, updates, weights=None, seed=0):
    """Global values after a round."""
    weights = [float(u.client.num_examples) for u in updates] if weights is None else weights
    return add(params, rule.combine(params, updates, weights, weighted_mean, seed))


def learned(rule, population, *, setting=None, bank=None, train=None, method=None):
    """A whole simulated run on the small bank: (state, bank, updates, initial values)."""
    train, method = train or TRAIN, method or Finetune()
    setting = setting or small_setting(num_stages=1, num_rounds=2)
    bank = bank or small_bank(method.num_adapters(setting))
    rule.install(bank)
    updates = []

    def work(job):
        update = run_client(job, job_batches(job, train), bank, method, train, setting, None, rule)
        updates.append(update)
        return update

    run = Federation(method, FedAvg(), population, setting, aggregation=Aggregation(lora=rule))
    initial = bank.params()
    return simulate(run, initial, work), bank, updates, initial
