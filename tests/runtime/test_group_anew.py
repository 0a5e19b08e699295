"""A group of workers that Ray Train gives up because a node has taken several of them with it is started anew."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions

from fcit_ray.runtime import groups

SILENT = ray.exceptions.ActorUnavailableError("nobody answers", None)


class GaveUp(Exception):
    """As Ray Train's error of its controller has it."""

    def __init__(self, controller_failure: Exception):
        super().__init__(str(controller_failure))
        self.controller_failure = controller_failure


def run(
    monkeypatch: pytest.MonkeyPatch, *ends: Exception | None, wanted: bool = True, most: int = 5
) -> tuple[str, int]:
    """The reason that it gives, and how often the group was started, where its starts end like this."""
    left = list(ends)

    def fit(*_: Any) -> None:
        if (error := left.pop(0)) is not None:
            raise error

    monkeypatch.setattr(groups, "_fit", fit)
    shape = SimpleNamespace(num_workers=2)
    lost: Any = SimpleNamespace(all=lambda num_workers: wanted)
    reason = groups.run_group(
        lambda context: None, {}, shape, storage=Path("x"), name="w", lost=lost, max_failures=most  # type: ignore[arg-type]
    )  # fmt: skip
    return reason, len(ends) - len(left)


def test_workers_that_do_not_answer_are_replaced_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, GaveUp(SILENT), GaveUp(SILENT), None) == ("the workers left before the run was over", 3)


def test_not_more_often_than_workers_may_die(monkeypatch: pytest.MonkeyPatch) -> None:
    reason, started = run(monkeypatch, *[GaveUp(SILENT)] * 4, most=2)
    assert (reason.startswith("the workers could not run: "), started) == (True, 3)  # the first, and two more


def test_nor_where_nobody_wants_them_or_the_fault_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, GaveUp(SILENT), None, wanted=False)[1] == 1
    assert run(monkeypatch, GaveUp(ValueError("no such option")), None) == (
        "the workers could not run: no such option",
        1,
    )
