"""One process at a time in a folder of a store, which knows no locks.

Whoever wants a folder puts a claim there, an object of its own, and lists what claims there are; with another live one
beside it, it takes its own away again. As a store shows every object that is there in any listing that begins later, of
two that come at once at most one finds itself alone. The holder writes its claim anew every `BEAT_S` seconds; one that
was not for `STALE_S` is nobody's any more. Ages are told by the store's clock alone, never by two machines' clocks.
"""

import atexit
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from typing import Any, Final

from fcit_ray.errors import RunFolderError
from fcit_ray.storage.mirror import Mirror

BEAT_S: Final = 5.0
"""Seconds between two signs of life of a holder."""
STALE_S: Final = 60.0
"""Seconds without one after which a claim is nobody's."""
FOLDER: Final = ".locks"
_POLL_S: Final = 1.0

_log = logging.getLogger(__name__)


class Claimed(Exception):
    """Somebody else holds the folder; the message says who."""


class Claim:
    """What this process holds; lost where it gives no sign of life for `STALE_S`, or somebody took it for dead."""

    def __init__(self, mirror: Mirror, kind: str):
        self._mirror = mirror
        self._name = f"{FOLDER}/{kind}/{uuid.uuid4().hex}.json"
        self._over = threading.Event()
        self._said = _myself()
        self._beat_at = time.monotonic()
        self._beats, self._holds = 0, False
        self._beating = threading.Lock()
        self.lost = ""

    @property
    def name(self) -> str:
        """Of the object."""
        return self._name

    def put(self) -> None:
        """Write the object, for the first time or again."""
        began = time.monotonic()
        self._beats += 1
        said = {**self._said, "holds": self._holds, "beat": self._beats}
        self._mirror.write_text(self._name, json.dumps(said) + "\n")
        self._beat_at = began

    def keep(self) -> None:
        """Nobody else is there: give signs of life until `release`, from a thread."""
        self._holds = True
        atexit.register(self.release)  # before the store's client is shut down
        threading.Thread(target=self._keep, name=f"holds {self._mirror.uri}", daemon=True).start()

    def check(self) -> None:
        """Refuse to write where the claim may be another's by now.

        Raises:
            RunFolderError: it is, or that cannot be said.
        """
        if not self.lost and time.monotonic() - self._beat_at > STALE_S / 2:
            self._beat()
        if self.lost:
            raise RunFolderError(
                f"{self._mirror.uri}: this process has lost its hold on the folder ({self.lost}), so it writes nothing "
                "more there; --resume goes on from what was brought there"
            )

    def release(self) -> None:
        """Give it up."""
        if self._over.is_set():
            return
        self._over.set()
        atexit.unregister(self.release)
        if self.check in self._mirror.guards:
            self._mirror.guards.remove(self.check)
        with self._beating:
            try:
                self._mirror.drop(self._name)
            except RunFolderError as error:
                _log.warning("%s; it is nobody's after %.0f s", error, STALE_S)

    def _keep(self) -> None:
        while not self._over.wait(BEAT_S):
            if self.lost:
                return
            try:
                self._beat()
            except RunFolderError as error:
                _log.warning("no sign of life was given: %s", error)

    def _beat(self) -> None:
        with self._beating:
            if self._over.is_set():
                return
            if self._mirror.read_text(self._name) is None:
                self.lost = f"no sign of life came through for {STALE_S:.0f} s, and another took it over"
                return
            self.put()


def claim(mirror: Mirror, kind: str, *, refuse_live: bool) -> Claim:
    """Take a folder, once nobody else has it; all that this process brings there is under that condition then.

    A holder that is alive is told by a sign of life that comes while we wait; one that is dead, by none.

    Args:
        mirror: of the folder.
        kind: of the claim; those of several kinds do not exclude each other.
        refuse_live: whether a holder that gives a sign of life is waited for no longer.

    Raises:
        Claimed: another process has it, and has not gone for so long as it takes a dead one to be known as such.
        RunFolderError: the store cannot be written.
    """
    ours = Claim(mirror, kind)
    deadline = time.monotonic() + STALE_S + 2 * BEAT_S
    first: dict[str, Any] = {}
    while True:
        ours.put()
        others = _others(mirror, kind, ours.name)
        if not others:
            ours.keep()
            mirror.guards.append(ours.check)
            return ours
        mirror.drop(ours.name)
        alive = [said for name, said in others.items() if said.get("holds") and said != first.get(name, said)]
        if time.monotonic() >= deadline or (alive and refuse_live):
            raise Claimed(_who([*alive, *others.values()][0]))
        if not first:
            _log.warning(
                "%s: held by %s; waiting until it goes, or has given no sign of life for %.0f s",
                mirror.uri, _who(next(iter(others.values()))), STALE_S,
            )  # fmt: skip
        first = others | first
        time.sleep(_POLL_S + random.random())


def _others(mirror: Mirror, kind: str, own: str) -> dict[str, dict[str, Any]]:
    """What the live claims of others say, by name; those that are nobody's are deleted."""
    infos = mirror.infos(f"{FOLDER}/{kind}")
    now = infos[own].mtime_ns if own in infos else None
    found = {}
    for name, info in infos.items():
        if name == own:
            continue
        text = mirror.read_text(name)
        if text is None:
            continue  # gone meanwhile
        try:
            said = json.loads(text)
            assert isinstance(said, dict)
        except (ValueError, AssertionError):
            said = {}
        old = now is not None and info.mtime_ns is not None and now - info.mtime_ns > STALE_S * 1e9
        if old or _is_dead(said):
            mirror.drop(name)
        else:
            found[name] = said
    return found


def _is_dead(said: dict[str, Any]) -> bool:
    """Whether a process of this very machine and container is gone, which need not be waited for."""
    if said.get("where") != _where() or not isinstance(said.get("pid"), int):
        return False
    return _started(said["pid"]) != said.get("started")


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "where": _where(),
        "started": _started(os.getpid()),
    }


def _where() -> str:
    """The boot of the machine and the namespace of its process numbers; they tell containers of one host apart."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return uuid.uuid4().hex  # like no other's


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the boot; None if there is none of that number."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _who(said: dict[str, Any]) -> str:
    if not {"pid", "host", "since"} <= said.keys():
        return "a process that has not said which"
    return f"process {said['pid']} on {said['host']}, since {said['since']}"
