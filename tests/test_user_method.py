"""What a new method costs: one file and one YAML outside the package, and nothing inside it."""

import sys

import pytest
import torch
from repository import ROOT
from small import SmallPopulation, small_bank, small_setting, trainer

from fcit_ray.config.reading import load_config
from fcit_ray.experiment.components import make
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.disco import Disco
from fcit_ray.params import params_sha256

HERE = ROOT / "tests" / "user_method"


@pytest.fixture
def method(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    config = load_config([ROOT / "configs" / "miniature.yaml", HERE / "few_subspaces.yaml"])
    yield make("method", config.method)
    sys.modules.pop("few_subspaces", None)


def learned(method):
    setting = small_setting()
    bank = small_bank(2)
    return simulate(
        Federation(method, FedAvg(), SmallPopulation(((0, 0), (1, 1))), setting),
        bank.params(),
        trainer(bank, method, setting),
    )


def test_it_is_named_by_its_import_path_and_trains_as_what_it_derives_from(method):
    own = type(method)(num_subspaces=2)
    assert params_sha256(learned(own).params) == params_sha256(learned(Disco(num_subspaces=2)).params)


def test_its_own_hook_answers(method):
    knowledge = {"tokens": torch.eye(3), "mass": torch.ones(3, dtype=torch.float64)}
    features = torch.tensor([[1.0, 0.9, 0.0]])
    # cosines 1, 0.9 and 0 over sqrt(1.81): the third weighs nothing any more, the others e^(0.1 / (0.05 * 1.345)) : 1
    gate = method.gate(knowledge, features, 3)
    assert gate[0, 2] == 0
    assert (gate[0, 0] / gate[0, 1]).item() == pytest.approx(4.42, abs=0.01)
    assert gate.sum().item() == pytest.approx(1)


def test_the_package_does_not_know_it():
    for file in (ROOT / "fcit_ray").rglob("*.py"):
        assert "FewSubspaces" not in file.read_text()
