"""Finetune, and DISCO with a single subspace, which must be Finetune to the bit."""

import pytest
import torch
from small import SmallPopulation, client, small_bank, small_setting, trainer

from fcit_ray.experiment.components import AXES, make, part_class
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment, ClientUpdate


def learned(method, schedule=((0, 0), (1, 2))):
    setting = small_setting()
    bank = small_bank(method.num_adapters(setting))
    federation = Federation(method, FedAvg(), SmallPopulation(schedule), setting)
    return simulate(federation, bank.params(), trainer(bank, method, setting)), bank


def test_everybody_trains_the_one_adapter():
    setting = small_setting()
    clients = [client(0, [1, 0]), client(1, [0, 1])]
    assert Finetune().num_adapters(setting) == 1
    assert Finetune().assign({}, 3, clients) == [Assignment(train=(0,))] * 2
    assert Finetune().gate({}, torch.ones(2, 2), 1) is None


def test_factors_are_averaged_each_on_its_own():
    # (10 * 1 + 30 * 3) / 40 = 2.5 for A and (10 * 4 + 30 * 0) / 40 = 1 for B; not the mean of the products B A
    def update(index, count, a, b):
        delta = {"a": torch.tensor([a]), "b": torch.tensor([b])}
        assignment = Assignment(train=(0,))
        return ClientUpdate(stage=0, round=0, client=client(index, [1], count), assignment=assignment, delta=delta)

    knowledge = {"anything": 1}
    updates = [update(0, 10, 1.0, 4.0), update(1, 30, 3.0, 0.0)]
    delta = Aggregation().combine({}, updates, 0)
    assert (delta["a"].item(), delta["b"].item()) == (2.5, 1.0)
    assert Finetune().absorb(knowledge, updates) == knowledge


def test_disco_with_one_subspace_is_finetune_to_the_bit():
    # Two stages of three different tasks, dropout and projector included.
    finetune, _ = learned(Finetune())
    disco, _ = learned(Disco(num_subspaces=1))
    assert params_sha256(disco.params) == params_sha256(finetune.params)
    assert (finetune.stage, finetune.round) == (2, 0)
    # the identity says something only if something was learned
    assert params_sha256(finetune.params) != params_sha256(small_bank().params())


def test_disco_with_two_subspaces_is_not():
    disco, _ = learned(Disco(num_subspaces=2), ((0, 0), (1, 1)))
    finetune, _ = learned(Finetune(), ((0, 0), (1, 1)))
    projector = "model.multi_modal_projector.linear_1.weight"
    assert not torch.equal(disco.params[projector], finetune.params[projector])


@pytest.mark.parametrize("name", AXES["method"].parts)
def test_a_methods_page_opens_with_its_source(name):
    doc = __import__(part_class("method", name).__module__, fromlist=["x"]).__doc__
    assert "Source:" in doc
    assert "arXiv" in doc
    assert make("method", {"name": name}) == part_class("method", name)()
