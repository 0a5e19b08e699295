"""Errors as the user reads them. They live by themselves so that catching one imports neither torch nor ray."""

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """Something given that cannot be used: the message says what, where, and what was expected."""


class ConfigError(UserError):
    """A configuration that cannot be used, with one line per offending key."""


class ModelError(UserError):
    """A model folder that cannot be used: which, what was found, what was expected."""


class CheckpointError(UserError):
    """A state that cannot be saved, or a checkpoint that cannot be trusted."""


class JavaError(RuntimeError):
    """Java is not there, or one of its programs failed: which one, what it said, what to do."""


class DataError(UserError):
    """Data that cannot be used: which file, which record, what was found, what was expected."""


class RunFolderError(UserError):
    """A run folder that cannot be used as asked."""


class ExportError(UserError):
    """An export that cannot be made, or one that cannot be trusted: what is in the way, what to do."""


class RunFailed(RuntimeError):
    """The run cannot go on; the message says why.

    Attributes:
        details: the traceback of a mistake in the code, for the log; empty where the message says all.
    """

    def __init__(self, message: str, details: str = ""):
        super().__init__(message)
        self.details = details


class UpdateRefused(RunFailed):
    """A client's update cannot enter the federation.

    Attributes:
        reason: the message without the place, and without what to do.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


class ClusterLost(RunFailed):
    """The cluster is gone, and no other run could go on there either."""


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


_REASONS = {
    errno.EACCES: "no permission to use it",
    errno.EPERM: "no permission to use it",
    errno.EROFS: "lies on a file system that is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENAMETOOLONG: "the name, or the whole path, is longer than the file system takes",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "is a folder, not a file",
    errno.ELOOP: "its links lead in a circle",
}
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def disk_reason(error: OSError, path: Path | str) -> str:
    """Why a path could not be used, in a few words."""
    if error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR):
        for above in (Path(path), *Path(path).parents):
            at = "" if above == Path(path) else f"{above} "
            if os.path.islink(above) and not os.path.exists(above):
                there = os.path.lexists(above.parent / os.readlink(above))
                return f"{at}is a link to {os.readlink(above)}, which {'leads nowhere' if there else 'is not there'}"
            if error.errno == errno.EEXIST and above.is_file():
                return f"{at}is a file, not a folder"
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)
