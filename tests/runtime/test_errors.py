"""Errors of other processes read as if they had been raised here."""

import pytest
import ray.exceptions

from fcit_ray.data.layout import DataError
from fcit_ray.runtime.errors import explain, origin


def wrapped(error: Exception) -> ray.exceptions.RayTaskError:
    """As Ray brings an error from a task."""
    return ray.exceptions.RayTaskError("task", "a wall of text", error).as_instanceof_cause()


@pytest.mark.parametrize("error", [DataError("train.json, record 3: no image"), FloatingPointError("loss is nan")])
def test_an_error_that_says_all_comes_without_traceback_from_however_deep(error: Exception) -> None:
    assert explain(error) == str(error)
    assert explain(wrapped(error)) == str(error)
    outer = ray.exceptions.UserCodeException("in a map")
    outer.__cause__ = error
    assert explain(outer) == str(error)
    assert explain(wrapped(outer)) == str(error)
    assert origin(wrapped(wrapped(error))) is error


def test_a_mistake_comes_with_its_traceback() -> None:
    try:
        raise KeyError("lost")
    except KeyError as error:
        text = explain(error)
    assert text.startswith("Traceback")
    assert text.endswith("KeyError: 'lost'")
    assert "test_errors.py" in text
