"""A group of workers that Ray Train gives up because a node has taken several of them with it is started anew."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.exceptions

from fcit_ray.runtime import groups
from fcit_ray.runtime.shape import Shape
from fcit_ray.runtime.train_group import TellLost

SILENT = ray.exceptions.ActorUnavailableError("nobody answers", None)


class GaveUp(Exception):
    """As Ray Train's error of its controller has it."""

    def __init__(self, controller_failure: Exception):
        super().__init__(str(controller_failure))
        self.controller_failure = controller_failure


def run(monkeypatch: pytest.MonkeyPatch, *ends: Exception | None, wanted: int = 5) -> tuple[str, int]:
    """The reason that it gives, and how often the group was started, where its starts end like this.

    Args:
        monkeypatch: puts what ends so in Ray Train's place.
        ends: of the starts, one after the other.
        wanted: how often workers that have died may be replaced, as whoever is told says.
    """
    left, told = list(ends), iter(range(wanted))

    def fit() -> None:
        if (error := left.pop(0)) is not None:
            raise error

    monkeypatch.setattr(groups, "TorchTrainer", lambda *_, **__: SimpleNamespace(fit=fit))

    class Told(TellLost):
        def __init__(self) -> None:
            """Without an actor to tell."""

        def all(self, num_workers: int) -> bool:
            return next(told, None) is not None

    reason = groups.run_group(lambda context: None, {}, Shape(2, 0.5, False), storage=Path("x"), name="w", lost=Told())
    return reason, len(ends) - len(left)


def test_workers_that_do_not_answer_are_replaced_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, GaveUp(SILENT), GaveUp(SILENT), None) == ("the workers left before the run was over", 3)


def test_not_more_often_than_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    reason, started = run(monkeypatch, *[GaveUp(SILENT)] * 4, wanted=2)
    assert (reason.startswith("the workers could not run: "), started) == (True, 3)  # the first, and two more


def test_nor_where_the_fault_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, GaveUp(ValueError("no such option")), None) == (
        "the workers could not run: no such option",
        1,
    )
