"""Symbolic links that lead out of a folder: data from elsewhere must not read the rest of the machine."""

import os
import stat
from collections.abc import Iterable
from functools import lru_cache


def led_out(root: str, name: str, allowed: Iterable[str] = ()) -> str:
    """Where links lead a file that is named from a root on, if that is neither below the root nor allowed.

    Costs one look at the file's own entry: where folders lead is found once a process.

    Args:
        root: the folder that names start at.
        name: relative to the root; or absolute, when its folder, which a configuration has named, may be anywhere.
        allowed: further folders that links may lead to.

    Returns:
        The target's path; empty if it may be read, or is not there.
    """
    root = os.path.abspath(root)  # what is known of folders outlives a change of the working directory
    path = os.path.join(root, name)
    folder, base = os.path.split(path)
    real = _real(folder)
    try:
        linked = stat.S_ISLNK(os.lstat(path).st_mode)
    except (OSError, ValueError):  # it is not there, or a name that no file can have: whoever opens it says so
        linked = False
    target = os.path.realpath(path) if linked else os.path.join(real, base)
    start = real if os.path.isabs(name) and not _within(path, root) else _real(root)
    return "" if any(_within(target, each) for each in (start, *map(_real, allowed))) else target


def how_to_allow(root: str, name: str, target: str) -> str:
    """What is wrong with a file that is led out, in words that follow its name, and what to do about it.

    Args:
        root: the folder that names start at.
        name: of the file.
        target: what `led_out` said of it.
    """
    folder = _first_outside(root, name) or os.path.dirname(target)
    return (
        f"leads by a link out of the data root, to {target}; name the folder that it may lead to in "
        f"benchmark.follow_links_to, such as [{folder}], or put the file itself there"
    )


def _first_outside(root: str, name: str) -> str:
    """The folder that a link on the way to a file leads to, the first outside; empty if it is the file's own."""
    place, start = os.path.abspath(root), _real(os.path.abspath(root))
    for part in os.path.dirname(name).split("/"):
        place = os.path.join(place, part)
        if not _within(_real(place), start):
            return _real(place)
    return ""


@lru_cache(maxsize=2**14)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
