"""Errors of other processes read as if they had been raised here."""

import pickle

import pytest
import ray.exceptions

from fcit_ray.errors import DataError, RunFailed
from fcit_ray.runtime.errors import failure, origin


def wrapped(error: Exception) -> ray.exceptions.RayTaskError:
    """As Ray brings an error from a task."""
    return ray.exceptions.RayTaskError("task", "a wall of text", error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DataError("train.json, record 3: no image"), "train.json, record 3: no image"),
        (FloatingPointError("loss is nan in stage 0, round 1"), "loss is nan in stage 0, round 1"),
        (FloatingPointError("a gate is nan"), "here: a gate is nan"),
    ],
)
def test_an_error_that_says_all_comes_without_traceback_from_however_deep(error: Exception, told: str) -> None:
    outer = ray.exceptions.UserCodeException("in a map")
    outer.__cause__ = error
    for seen in (error, wrapped(error), outer, wrapped(outer)):
        failed = failure(seen, "here")
        assert (str(failed), failed.details) == (told, "")
    assert origin(wrapped(wrapped(error))) is error


def test_a_mistake_is_told_by_place_and_line_and_its_traceback_kept_for_the_log() -> None:
    def mistake() -> None:
        raise KeyError("lost")

    try:
        mistake()
    except KeyError as error:
        failed = failure(error, "stage 0, round 1")
    line = mistake.__code__.co_firstlineno + 1
    assert str(failed) == f"stage 0, round 1: {__file__}, line {line}, in mistake: KeyError: 'lost'"
    assert failed.details.startswith("Traceback")
    assert failed.details.endswith("KeyError: 'lost'")


def test_a_failure_keeps_its_details_on_the_way_through_other_processes() -> None:
    failed = pickle.loads(pickle.dumps(RunFailed("why", "a traceback")))
    assert (str(failed), failed.details) == ("why", "a traceback")
