"""Folders on the local disk that are each one process's copy of a folder in a store, and go when it does."""

import atexit
import fcntl
import hashlib
import os
import re
import shutil
from pathlib import Path

_of: set[str] = set()  # the folders in stores that this process has had working copies of


def told(text: str) -> str:
    """A text for the user: where it names a working copy (of this process or another's), the store's folder."""
    for uri in _of:
        text = re.sub(rf"[^\s'\"()=,;:]*/{_digest(uri)}-\d+-\d+", lambda _, uri=uri: uri, text)  # type: ignore[misc]
    return text


def working_copy(uri: str) -> Path:
    """A new folder that is locked as long as this process lives; those whose processes are gone are deleted."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fcit_ray" / "runs"
    home.mkdir(parents=True, exist_ok=True)
    for left in home.iterdir():
        descriptor = _lock(left)
        if descriptor is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    number = 0
    while True:
        path = home / f"{_digest(uri)}-{os.getpid()}-{number}"
        number += 1
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue  # of a process of another machine or container that shares this home
        descriptor = _lock(path)
        if descriptor is not None and path.is_dir():  # nobody has taken it for one that was left
            atexit.register(shutil.rmtree, path, ignore_errors=True)
            _of.add(uri)
            return path


def _digest(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def _lock(folder: Path) -> int | None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or no locks here: then nothing is deleted
        os.close(descriptor)
        return None
    return descriptor
