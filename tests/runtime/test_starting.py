"""Ray beside the checks: one start or end at a time, whatever becomes of who wanted it."""

import gc
import threading
from types import SimpleNamespace

import pytest

from fcit_ray.runtime import starting
from fcit_ray.runtime.asking import AsksRay
from fcit_ray.runtime.starting import RayBeside


class StandInRay:
    """Starts when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = threading.Event()
        self.asked = threading.Event()
        self.may_start = threading.Event()
        self.ended = 0
        monkeypatch.setattr(starting, "connect", self.connect)
        monkeypatch.setattr(starting, "asked_still", lambda: False)  # in this process other tests may have left threads
        monkeypatch.setattr(starting, "inside_ray", lambda *where: None)
        monkeypatch.setattr(starting.ray, "is_initialized", self.there.is_set)
        monkeypatch.setattr(starting.ray, "shutdown", self.shutdown)

    def connect(self) -> None:
        self.asked.set()
        assert self.may_start.wait(10.0)
        self.there.set()

    def shutdown(self) -> None:
        self.ended += 1
        self.there.clear()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandInRay:
    return StandInRay(monkeypatch)


def refused(ray: StandInRay) -> None:
    """A command that is refused while Ray starts."""

    def mistaken() -> None:
        assert ray.asked.wait(10.0)
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"), RayBeside():
        mistaken()


def test_an_error_does_not_wait_for_ray_and_the_next_run_finds_none_that_is_about_to_end(ray: StandInRay) -> None:
    refused(ray)
    assert not ray.there.is_set(), "the error did not wait"
    threading.Timer(0.1, ray.may_start.set).start()
    again = RayBeside()
    assert ray.ended == 1
    assert not again._was_there


def test_the_end_of_the_process_does_not_wait_for_a_start_that_nobody_wants(ray: StandInRay) -> None:
    refused(ray)
    starting.stop_ray()
    assert not ray.there.is_set()
    ray.may_start.set()


def test_a_cluster_that_was_there_stays(ray: StandInRay) -> None:
    ray.there.set()
    with RayBeside() as beside:
        pass
    beside.leave()
    starting.stop_ray()
    with pytest.raises(ValueError, match="a mistake"), RayBeside():
        raise ValueError("a mistake")
    assert ray.there.is_set()
    assert ray.ended == 0


def test_ray_is_not_ended_under_a_thread_that_may_ask_it_and_no_collector_runs_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Ray ends a process, with 1 and no word, in which anything asks it after its end: a finished run ended so once.
    ended: list[bool] = []
    there = SimpleNamespace(is_initialized=lambda: True, shutdown=lambda: ended.append(gc.isenabled()))
    monkeypatch.setattr(starting, "ray", there)
    monkeypatch.setattr(starting, "inside_ray", lambda *names: None)
    monkeypatch.setattr(starting, "_ours", threading.Event())
    starting._ours.set()
    over = threading.Event()
    asking = AsksRay(over.wait, (60.0,))
    monkeypatch.setattr(threading, "enumerate", lambda: [asking] if asking.is_alive() else [])
    asking.start()
    try:
        assert (starting.stop_ray(), ended) == (False, [])
    finally:
        over.set()
        asking.join()
    assert (starting.stop_ray(), ended, gc.isenabled()) == (True, [False], True)
