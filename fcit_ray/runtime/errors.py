"""Errors of other processes, as the user should read them."""

import ray.exceptions

from fcit_ray.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    JavaError,
    ModelError,
    RunFailed,
    RunFolderError,
    blame,
)

MENDABLE = (ConfigError, DataError, ModelError, RunFolderError, CheckpointError, RunFailed, JavaError)
"""Their messages say all; a traceback would only hide them."""
CERTAIN = (ConfigError, DataError, ModelError, RunFolderError, CheckpointError, JavaError)
"""What every worker would meet, and no other attempt mends: a broken record, a full disk. The run ends at once."""


class AttemptFailed(RunFailed):
    """A piece of work has failed in this worker; another attempt may not."""


def origin(error: BaseException) -> BaseException:
    """The error under Ray's wrapping: what the code in the task raised."""
    seen = error
    while True:
        inner = seen.cause if isinstance(seen, ray.exceptions.RayTaskError) else None
        if inner is None and isinstance(seen, ray.exceptions.RayError):
            inner = seen.__cause__
        if not isinstance(inner, BaseException):
            return seen
        seen = inner


def failure(error: BaseException, where: str) -> RunFailed:
    """What to tell of an error: its message where that says all, the line of code of a mistake (in a method, say).

    Args:
        error: as it came, from this process or another.
        where: in the run; left out where the message says it by itself.
    """
    root = origin(error)
    if isinstance(root, RunFailed):
        return root
    if isinstance(root, MENDABLE):
        return RunFailed(str(root))
    if isinstance(root, ray.exceptions.RayTaskError):  # what it was could not be brought over
        text = root.traceback_str.strip()
        return RunFailed(f"{where}: {text.splitlines()[-1]}", text)
    return blame(where, root) if isinstance(root, Exception) else RunFailed(f"{where}: {root!r}")
