"""One process at a time in a run folder: a lock of the operating system on a file in it.

The lock belongs to the process, not to the file: it is gone the moment the process is, however it died, and a copy of
the folder carries none. Who holds it stands in the file, for the message that others get. On NFS the same call locks
among the machines that mount the folder; where a file system has no locks at all the log says so. A folder in a store
is held by a claim beside (`storage/claims.py`), as its working copies are each one process's.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

from fcit_ray.storage.claims import Claim, Claimed, claim
from fcit_ray.storage.mirror import Mirror

_POLL_S: Final = 0.2
_WITHOUT_LOCKS: Final = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}

# By file, what keeps this process's locks: a descriptor closed is a lock given up.
_held: dict[str, int] = {}
_claims: dict[str, Claim] = {}
_log = logging.getLogger(__name__)


class Locked(Exception):
    """Somebody else holds the lock; the message says who."""


def acquire(file: Path, wait_s: float = 0.0, mirror: Mirror | None = None) -> bool:
    """Take the lock until `release` or the end of this process; taken by it already, it stays so.

    Args:
        file: created if absent; its folder must exist.
        wait_s: how long to wait for the holder to go.
        mirror: of a folder in a store, which the file is in the working copy of. There a holder that is alive is
            refused, or waited for if `wait_s` is above 0; one that has died without a word is always waited for.

    Returns:
        Whether it was taken just now.

    Raises:
        Locked: another process has it.
        OSError: the file cannot be opened.
        RunFolderError: the store cannot be written.
    """
    key = str(file.resolve())
    if key in _held:
        return False
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, file, wait_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(_myself()) + "\n").encode(), 0)
        if mirror is not None:
            kind = file.name.removeprefix(".").removesuffix(".lock")
            try:
                _claims[key] = claim(mirror, kind, refuse_live=not wait_s)
            except Claimed as holder:
                raise Locked(str(holder)) from None
    except BaseException:
        os.close(descriptor)
        raise
    _held[key] = descriptor
    return True


def release(file: Path, mirror: Mirror | None = None) -> None:
    """Give the lock up, if this process has it."""
    if mirror is not None and (held := _claims.pop(str(file.resolve()), None)):
        held.release()
    descriptor = _held.pop(str(file.resolve()), None)
    if descriptor is not None:
        os.close(descriptor)


def _lock(descriptor: int, file: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Locked(_holder(descriptor)) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            _log.warning("%s: this file system has no locks; see to it that one process alone works here", file.parent)
            return
        time.sleep(_POLL_S)


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said yet which"
