"""The workers of a run as its driver knows them: what they are, how to end one, how many have died."""

import threading
from collections.abc import Collection
from typing import Any


class Members:
    """Safe from any thread.

    Args:
        most_deaths: that the run bears.

    Attributes:
        attention: kernels that they use.
        frozen: names of the parameters that their model has and no client trains.
    """

    def __init__(self, most_deaths: int):
        self._most_deaths = most_deaths
        self._lock = threading.Lock()
        self._actors: dict[int, Any] = {}
        self._ended: set[int] = set()
        self._deaths = 0
        self.attention: set[str] = set()
        self.frozen: frozenset[str] = frozenset()

    def join(self, worker: int, attention: str, frozen: frozenset[str], actor: Any) -> None:
        """One is there, or there again."""
        with self._lock:
            self._actors[worker] = actor
            self._ended.discard(worker)
            if attention:
                self.attention.add(attention)
            self.frozen |= frozen

    def end(self, worker: int) -> Any:
        """One is about to be ended, which is no death; returns its actor, None if that is not known."""
        with self._lock:
            self._ended.add(worker)
            return self._actors.pop(worker, None)

    def died(self, workers: Collection[int]) -> bool:
        """These are gone; whether that is one death more than the run bears.

        Several at a time (a node) count once; those that were ended do not count.
        """
        with self._lock:
            innocent = self._ended & set(workers)
            self._ended -= innocent
            self._deaths += innocent != set(workers)
            return self._deaths > self._most_deaths
