"""Attempts at pieces of work that fail: counted, told of, and the workers that sleep in them replaced."""

import threading
from collections.abc import Callable, Iterable

from fcit_ray.federated.failing import Attempt, overdue, verdict
from fcit_ray.runtime.pieces import Failed, Item


class Attempts:
    """Beside a `WorkQueue`, under its lock; it tells outside of it.

    Args:
        lease_s: seconds of silence after which an attempt has failed.
        place: where in the run a piece of work belongs, for messages.
        told: called with every attempt that fails.
        end: called with a worker that sleeps in an attempt which was given up: it is to be replaced.

    Attributes:
        nodes: where workers are, by rank.
    """

    def __init__(
        self,
        lease_s: float,
        place: Callable[[object], str],
        told: Callable[[Failed], None],
        end: Callable[[int], None],
    ):
        self._lease_s = lease_s
        self._place = place
        self._told = told
        self._end = end
        self._news: list[Failed] = []
        self._asleep: list[int] = []
        self.nodes: dict[int, str] = {}

    def late(self, items: Iterable[Item], now: float) -> list[tuple[Item, str]]:
        """Those of pieces in hand whose attempts are given up, and why. Lock held."""
        found = []
        for item in items:
            if item.worker is None or item.done or item.arrives:
                continue
            why = overdue(
                item.batch.rule,
                spent_s=now - item.began,
                unheard_s=now - item.heard,
                lease_s=self._lease_s,
                size=item.size,
                rates=item.batch.rates,
                planned=len(item.batch.items),
            )
            if why is not None:
                found.append((item, why))
        return found

    def failed(self, item: Item, reason: str, message: str = "", died: bool = False) -> Failed:
        """The attempt at a piece that is in hand has failed: nobody has it in hand now. Lock held; `tell` follows.

        Args:
            item: the piece.
            reason: what happened, without the place.
            message: the same with the place, where that is known already.
            died: the worker's process is gone.
        """
        assert item.worker is not None, "nobody was at it"
        place = f"{self._place(item.work)}: "
        reason = reason or message.removeprefix(place)
        item.attempts.append(Attempt(item.worker, self.nodes.get(item.worker, ""), reason, died))
        item.worker, item.part = None, (0, 0)
        found = verdict(item.batch.rule, item.attempts)
        failed = Failed(item.work, tuple(item.attempts), found, message or place + reason)
        self._news.append(failed)
        return failed

    def sleeps(self, worker: int) -> None:
        """A worker answers no more. Lock held; `tell` follows."""
        self._asleep.append(worker)

    def tell(self, lock: threading.Condition) -> None:
        """Say what has failed, and have those replaced that sleep; the lock is not held meanwhile."""
        with lock:
            news, self._news = self._news, []
            asleep, self._asleep = self._asleep, []
        for failed in news:
            self._told(failed)
        for worker in asleep:
            self._end(worker)
