"""Which workers are there still, by Ray's own books: who has died, and whose node is going.

Ray Train tells of deaths too, and sooner; but while it waits for room to put another worker in the place of one it
looks at none. Both questions are asked of what Ray keeps private: a release that answers neither is done without.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.runtime.cluster import inside_ray

GOING_S = 0.5
"""Between two questions for work of a worker whose node is draining: it gets none."""
_LOOK_S = 5.0
_SAY_S = 60.0


@dataclass(frozen=True)
class Seat:
    """Where a worker is.

    Attributes:
        actor: id of its actor, hexadecimal.
        node: id of its node, hexadecimal.
    """

    actor: str
    node: str


def is_dead(actor: str) -> bool:
    """Whether Ray has an actor down as dead, for good."""
    actors = inside_ray("state", "actors")
    known = actors(actor) if callable(actors) else None
    return known is not None and known.get("State") == "DEAD"


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that are marked as draining: a spot instance to be taken back, one that the autoscaler ends."""
    draining = getattr(inside_ray("state", "state"), "get_draining_nodes", None)
    return frozenset(draining()) if callable(draining) else frozenset()


class Presence:
    """Looks every few seconds after the workers that have come in.

    Args:
        lost: called with those that have died.
        going: called with the workers of nodes that have begun to drain.
        alone: called every minute that nobody is there any more, with the seconds.
        dead: whether an actor is dead, by its id.
        draining: nodes that are going.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        lost: Callable[[Sequence[Any]], Any],
        going: Callable[[Sequence[Any]], None] = lambda workers: None,
        alone: Callable[[float], Any] = lambda seconds: None,
        dead: Callable[[str], bool] = is_dead,
        draining: Callable[[], Collection[str]] = draining_nodes,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._lost, self._begin_to_go, self._alone = lost, going, alone
        self._dead, self._draining, self._clock = dead, draining, clock
        self._lock = threading.Lock()
        self._seats: dict[Hashable, Seat] = {}
        self._known: set[Hashable] = set()  # whoever has come once
        self._told: set[Hashable] = set()
        self._going: frozenset[str] = frozenset()
        self._empty_since: float | None = None  # before the first has come the driver itself says what it waits for
        self._minutes = 0
        self._over = threading.Event()

    def watch(self) -> None:
        """Begin to look, in a thread, until `close`."""
        threading.Thread(target=self._watch, name="presence", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def come(self, worker: Hashable, seat: Seat) -> None:
        """A worker is there; it takes the place of whoever had its number."""
        with self._lock:
            self._seats[worker] = seat
            self._known.add(worker)
            self._empty_since, self._minutes = None, 0

    def have_come(self, workers: Collection[Hashable]) -> bool:
        """Whether all of these have been there once."""
        with self._lock:
            return self._known.issuperset(workers)

    @property
    def num_there(self) -> int:
        """Workers that are there now, as far as is known."""
        return len(self._seats)

    def leave(self, worker: Hashable) -> bool:
        """Somebody else tells that a worker has died; returns whether that is news."""
        with self._lock:
            self._remove(worker)
            known = worker in self._told
            self._told.discard(worker)
            return not known

    def is_going(self, worker: Hashable) -> bool:
        """Whether a worker's node is marked as draining."""
        with self._lock:
            return worker in self._seats and self._seats[worker].node in self._going

    def look(self) -> None:
        """Look once; calls `lost`, `going` and `alone`."""
        draining = frozenset(self._draining())
        with self._lock:
            seats = dict(self._seats)
            going = [worker for worker, seat in seats.items() if seat.node in draining - self._going]
            self._going = draining
        dead = [worker for worker, seat in seats.items() if self._dead(seat.actor)]
        with self._lock:
            dead = [worker for worker in dead if self._seats.get(worker) == seats[worker]]  # none that was replaced
            for worker in dead:
                self._remove(worker)
            self._told.update(dead)
        if dead:
            self._lost(dead)
        if going := [worker for worker in going if worker not in dead]:
            self._begin_to_go(going)
        empty = None if self._empty_since is None else self._clock() - self._empty_since
        if empty is not None and empty >= _SAY_S * (self._minutes + 1):
            self._minutes = int(empty // _SAY_S)
            self._alone(empty)

    def _remove(self, worker: Hashable) -> None:
        if self._seats.pop(worker, None) is not None and not self._seats:
            self._empty_since = self._clock()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            try:
                self.look()
            except Exception:  # of many types, while the head does not answer: the next look tells
                logging.getLogger("ray").exception("the workers could not be looked after")
