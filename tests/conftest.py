"""One thread a process: two spinning pools on a busy two-core machine run many times slower."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest

gc.disable()  # until all is imported and collected: it would walk over what never dies again and again
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the cluster runs in one process, so that there is one; the others meanwhile in another."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.xdist_group("cluster"))


def pytest_collection_finish() -> None:
    """As `fcit_ray.importing.swift_imports`, for the tests' own processes."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def no_ray_is_left_starting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that is refused leaves Ray's start to a thread, which is over before the next test begins."""
    yield
    if starting := sys.modules.get("fcit_ray.runtime.starting"):
        with starting._changing:
            pass
