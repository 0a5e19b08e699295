"""The head of the cluster that this process is connected to: whether it still answers, and what follows where not.

Imports little, as Ray Train's controller does.
"""

import os
import socket
import threading
import time
from types import TracebackType
from typing import Self

import ray

from fcit_ray.errors import ClusterLost

_PROBE_S = 3.0
_LOST_S = 15.0
"""After which a head that does not answer is given up; Ray itself would end this process after a minute, unasked."""


def head() -> str:
    """Its address, host:port."""
    return str(ray.get_runtime_context().gcs_address)


def host_and_port(address: str) -> tuple[str, int] | None:
    """Of `host:port`, with or without a scheme, the host perhaps in brackets; None if it is something else."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        return None
    return host.strip("[]"), int(port)


def silence(place: tuple[str, int]) -> str:
    """Why nobody can be reached at a host and port; empty if somebody can."""
    try:
        with socket.create_connection(place, timeout=_PROBE_S):
            return ""
    except OSError as error:
        return error.strerror or str(error)


class HeadWatch:
    """Looks every few seconds, in a thread of its own, whether the cluster's head still answers; a context manager."""

    def __init__(self, address: str, lost_s: float = _LOST_S, every_s: float = 2.0):
        self._address, self._lost_s, self._every_s = address, lost_s, every_s
        self._over = threading.Event()
        self._silent_since: float | None = None

    def __enter__(self) -> Self:
        place = host_and_port(self._address)
        if place is not None:
            threading.Thread(target=self._look, args=(place,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def check(self) -> None:
        """Raise `ClusterLost` if it has not answered for a while."""
        silent_since = self._silent_since
        if silent_since is not None and time.monotonic() - silent_since >= self._lost_s:
            raise self._lost()

    def check_now(self) -> None:
        """Raise `ClusterLost` if it does not answer at this moment: something else has been lost already."""
        place = host_and_port(self._address)
        if place is not None and silence(place):
            raise self._lost()

    def _lost(self) -> ClusterLost:
        return ClusterLost(
            f"the Ray cluster's head at {self._address} does not answer any more (stopped, or its machine lost); the "
            "finished rounds are kept: once a cluster is there, --resume goes on from the last checkpoint"
        )

    def _look(self, place: tuple[str, int]) -> None:
        while not self._over.wait(self._every_s):
            if not silence(place):
                self._silent_since = None
            elif self._silent_since is None:
                self._silent_since = time.monotonic()


def watch_head() -> HeadWatch:
    """A watch of the cluster that this process is connected to."""
    return HeadWatch(head())


_leaving = threading.Lock()


def leave_with_the_head() -> None:
    """End this process, an actor's, once the head is given up, as the process that started the run then ends too.

    Ray's own end comes a minute after the head's; until then a worker holds its GPU, of a run that is no more.
    """
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return  # not inside an actor
    if not _leaving.acquire(blocking=False):
        return  # somebody watches for that already
    watched = watch_head()

    def look() -> None:
        with watched as watch:
            while ray.is_initialized():
                try:
                    watch.check()
                except ClusterLost:
                    os._exit(1)
                time.sleep(1.0)

    threading.Thread(target=look, name="head", daemon=True).start()
