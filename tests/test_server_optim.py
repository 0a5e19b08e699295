"""What the server makes of a round's mean delta."""

import pytest
import torch

from fcit_ray.config import ConfigError
from fcit_ray.server_optim import FedAvg, make_server_optimizer


def test_fedavg_adds_the_mean_delta():
    params = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([5.0])}
    optimizer = FedAvg()
    memory = optimizer.init(params)
    after, memory_after = optimizer.step(params, {"a": torch.tensor([0.5, -4.0])}, memory)
    assert after["a"].tolist() == [1.5, -2.0]
    assert after["b"].tolist() == [5.0]
    assert memory_after == memory == {}
    assert params["a"].tolist() == [1.0, 2.0]


def test_the_default_section_is_fedavg():
    assert make_server_optimizer({"name": "fedavg"}) == FedAvg()


def test_another_name_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"server\.name: unknown 'fedadgrad'; one of fedavg"):  # OpenFedLLM's slip
        make_server_optimizer({"name": "fedadgrad"})
    with pytest.raises(ConfigError, match=r"server\.lr: unknown key; fedavg takes: none"):
        make_server_optimizer({"name": "fedavg", "lr": 1.0})
