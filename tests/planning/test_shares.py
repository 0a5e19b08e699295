"""Plans of workers that share GPUs."""

import pytest

from fcit_ray.config.runtime import Runtime
from fcit_ray.errors import ConfigError
from fcit_ray.planning.speed import Device, workers_on

CARD = Device("card", peak=100e12, bandwidth=1000e9, memory=40e9)


def test_a_worker_has_its_share_of_memory_and_speed() -> None:
    quarter = CARD.shared(Runtime(gpus_per_worker=0.25))
    assert (quarter.name, quarter.memory, quarter.peak, quarter.bandwidth) == ("0.25 of card", 10e9, 25e12, 250e9)
    assert CARD.shared(Runtime()) is CARD


def test_of_groups_that_differ_the_least_memory_counts_and_the_mean_speed() -> None:
    keys = {"gpus_per_worker": 0.5, "worker_groups": [{"num_workers": 2}, {"num_workers": 2, "gpus_per_worker": 1}]}
    device = CARD.shared(Runtime.model_validate(keys))
    assert (device.memory, device.peak) == (20e9, 75e12)  # half of 40; (2 * 50 + 2 * 100) / 4


def test_a_cpu_is_not_shared_out() -> None:
    cpu = Device("CPU", 1e11)
    assert cpu.shared(Runtime(gpus_per_worker=0.25)) is cpu


def test_how_many_workers_gpus_carry() -> None:
    # Of 0.4 two go on a GPU: what is left of two GPUs makes no fifth.
    assert [workers_on(2, Runtime(gpus_per_worker=share)) for share in (1.0, 0.25, 0.4, 0.1)] == [2, 8, 4, 20]
    with pytest.raises(ConfigError, match=r"runtime.worker_groups: says how many workers there are, and --gpus too"):
        workers_on(2, Runtime.model_validate({"worker_groups": [{"num_workers": 1}]}))
