"""Which workers are there still, by Ray's own books: who has died, and whose node is going.

Ray Train tells of deaths too, and sooner; but while it waits for room to put another worker in the place of one it
looks at none. Both questions are asked of what Ray keeps private: a release that answers neither is done without.
"""

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.runtime.cluster import inside_ray

_LOOK_S = 5.0


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
        dead: whether an actor is dead, by its id.
        draining: nodes that are going.
    """

    def __init__(
        self,
        lost: Callable[[Sequence[Any]], None],
        going: Callable[[Sequence[Any]], None] = lambda workers: None,
        dead: Callable[[str], bool] = is_dead,
        draining: Callable[[], Collection[str]] = draining_nodes,
    ):
        self._lost, self._begin_to_go, self._dead, self._draining = lost, going, dead, draining
        self._lock = threading.Lock()
        self._seats: dict[Hashable, Seat] = {}
        self._told: set[Hashable] = set()
        self._going: frozenset[str] = frozenset()
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

    def leave(self, worker: Hashable) -> bool:
        """Somebody else tells that a worker has died; returns whether that is news."""
        with self._lock:
            self._seats.pop(worker, None)
            known = worker in self._told
            self._told.discard(worker)
            return not known

    def is_going(self, worker: Hashable) -> bool:
        """Whether a worker's node is marked as draining."""
        with self._lock:
            return worker in self._seats and self._seats[worker].node in self._going

    def look(self) -> None:
        """Look once; calls `lost` and `going`."""
        draining = frozenset(self._draining())
        with self._lock:
            seats = dict(self._seats)
            going = [worker for worker, seat in seats.items() if seat.node in draining - self._going]
            self._going = draining
        dead = [worker for worker, seat in seats.items() if self._dead(seat.actor)]
        with self._lock:
            dead = [worker for worker in dead if self._seats.get(worker) == seats[worker]]  # none that was replaced
            for worker in dead:
                del self._seats[worker]
            self._told.update(dead)
        if dead:
            self._lost(dead)
        if going := [worker for worker in going if worker not in dead]:
            self._begin_to_go(going)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.look()
