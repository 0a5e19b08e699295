"""Files that are either whole or absent, whenever the process dies: temporary sibling, fsync, rename, fsync."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fcit_ray.storage.location import refuse_uri

PARTIAL = ".partial"
"""Ends the (hidden) name of what is still being written; whoever finds one may delete it."""


def partial(path: Path) -> Path:
    """The hidden sibling in which `path` is prepared: same folder, hence same file system, hence a rename is atomic."""
    return path.with_name(f".{path.name}{PARTIAL}")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's list of names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename within one folder, so that the new name survives a power cut."""
    os.replace(source, target)
    sync(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write or replace a UTF-8 file as a whole: a reader sees the old bytes or the new ones, never a part."""
    temporary = partial(path)
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    rename(temporary, path)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A hidden sibling to write a folder's files into; it takes the target's name when all of them are on the disk.

    A folder that has the name already is replaced, in two renames. If anything is raised within, nothing is left of
    the new one, and the old one is as it was.

    Args:
        target: its parents are made.

    Raises:
        OSError: the disk is full, or the like.
        UserError: it was a URI.
    """
    refuse_uri(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = partial(target), target.with_name(f"{partial(target).name}-old")
    for left in (temporary, old):
        if left.exists():
            shutil.rmtree(left)  # by a process that was killed
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            sync(path)
        sync(temporary)
        if target.exists():
            os.replace(target, old)
        rename(temporary, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if old.exists():
        shutil.rmtree(old)
