"""One thread a process: two spinning pools on a busy two-core machine run many times slower."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the cluster runs in one process, so that there is one; the others meanwhile in another."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.xdist_group("cluster"))
