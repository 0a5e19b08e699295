"""Errors as the user reads them. They live by themselves so that catching one imports neither torch nor ray."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something given that cannot be used: the message says what, where, and what was expected."""


class DataError(UserError):
    """Data that cannot be used: which file, which record, what was found, what was expected."""


class RunFailed(RuntimeError):
    """The run cannot go on; the message says why.

    Attributes:
        details: the traceback of a mistake in the code, for the log; empty where the message says all.
    """

    def __init__(self, message: str, details: str = ""):
        super().__init__(message)
        self.details = details


def place(stage: int, round: int, client: int | None = None) -> str:
    """Where in a run something happened, for messages; the numbers are those of the run's records."""
    whom = "" if client is None else f", client {client}"
    return f"stage {stage}, round {round}{whom} (counted from 0)"


def blame(where: str, error: Exception) -> RunFailed:
    """The failure of a run by what a hook or a client raised there.

    What the user can mend says all by itself, and so does a number that is not finite; anything else is a mistake in
    the code: the message is the last line of its traceback with the line of code that it leads to.
    """
    if isinstance(error, RunFailed):
        return error
    if isinstance(error, (UserError, FloatingPointError)):
        said = str(error)
        return RunFailed(said if " in stage " in said else f"{where}: {said}")
    details = "".join(traceback.format_exception(error)).strip()
    last = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    # A mistake mostly shows in a library; the line to look at is the last one before it.
    own = [frame for frame in frames if "site-packages" not in frame.filename and "<" not in frame.filename]
    if not own:
        return RunFailed(f"{where}: {last}", details)
    return RunFailed(f"{where}: {own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}: {last}", details)


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Whatever is raised within names where.

    Raises:
        RunFailed: instead of it.
    """
    try:
        yield
    except Exception as error:
        raise blame(where, error) from error
