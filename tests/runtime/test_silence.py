"""A wait for another process ends: with the answer, or with who is silent, for how long, and where the run was."""

import pytest
import ray

from fcit_ray.errors import RunFailed
from fcit_ray.runtime import silence
from fcit_ray.runtime.silence import DriverSilence, answer
from fcit_ray.runtime.status import Status


def test_a_silent_driver_is_told_of_by_the_minute_and_given_up_with_its_place() -> None:
    now = 0.0
    watch = DriverSilence("disco", clock=lambda: now)
    now = 59.0
    assert watch.status() is None
    assert watch.driver == "the driver"  # it has not said where it is
    at = {"stage": 1, "num_stages": 8, "task": "IconQA", "round": 3, "num_rounds": 20, "node": "10.0.0.7"}
    watch.heard(Status(label="disco", phase="training", **at))
    now = 100.0
    assert watch.status() is None, "silent for 41 s"
    now = 59.0 + 125.0
    status = watch.status()
    assert status is not None
    assert status.message == "the driver on node 10.0.0.7 has not answered for 2 min"
    assert (status.stage, status.round) == (1, 3)
    now = 59.0 + silence.GIVE_UP_S
    with pytest.raises(RunFailed, match=r"^the driver on node 10\.0\.0\.7 .* 10 min \(stage 2/8, IconQA, round 4/20\)"):
        watch.status()


def test_an_answer_that_does_not_come_is_told_by_who_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(reference: object, timeout: float) -> object:
        if reference == "there":
            return 5
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    assert answer("there", "the foreman") == 5
    with pytest.raises(RunFailed, match=r"^the foreman has not answered for 2 min "):
        answer("never", "the foreman")
