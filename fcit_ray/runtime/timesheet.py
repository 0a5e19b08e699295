"""Where the workers' time goes: who had work in hand for how long, what of it was training, the rest by cause."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fcit_ray.runtime.messages import TrainWork
from fcit_ray.runtime.pieces import Lease
from fcit_ray.runtime.shared_steps import HelpWork

Kind = Literal["train", "help", "answer"]

CAUSES = ("compute_s", "help_s", "exchange_s", "starved_s", "other_s", "answer_s", "idle_s", "server_s")
"""Into which a worker's time in a round falls; docs/reference/run-folder.md defines them."""

_TOLD = ("compute_s", "exchange_s", "starved_s")


@dataclass
class _Worker:
    hours: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    kind: Kind | None = None
    since: float = 0.0

    def count(self, now: float) -> None:
        """What it has had in hand until now."""
        if self.kind is not None:
            self.hours[self.kind] += now - self.since
        self.since = now


@dataclass(frozen=True)
class _Reading:
    at: float
    hours: Mapping[int, Mapping[str, float]]


class Timesheet:
    """Hours of the workers; safe from any thread.

    Args:
        num_workers: in the group, whether they have started or not.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, num_workers: int, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._workers = {worker: _Worker() for worker in range(num_workers)}
        self._has: dict[int, int] = {}  # token to worker
        self._readings: list[_Reading] = []

    def begins(self, worker: int, lease: Lease) -> None:
        """A worker has been given work."""
        with self._lock:
            known = self._workers.setdefault(worker, _Worker())
            self._has[lease.token] = worker
            known.count(self._clock())
            kinds: dict[type, Kind] = {TrainWork: "train", HelpWork: "help"}
            known.kind = kinds.get(type(lease.work), "answer")

    def is_free(self, worker: int) -> None:
        """A worker asks for work, or has been lost: what it had in hand, it has no more."""
        with self._lock:
            known = self._workers.setdefault(worker, _Worker())
            known.count(self._clock())
            known.kind = None

    def told(self, token: int, metrics: Mapping[str, float]) -> None:
        """What the worker says of the time that a piece of work took it; once for each piece."""
        with self._lock:
            worker = self._has.pop(token, None)
            if worker is not None:
                for key in _TOLD:
                    self._workers[worker].hours[key] += metrics.get(key, 0.0)

    def open_round(self) -> None:
        """A round begins; its time counts from the end of the round before, if there was one."""
        if not self._readings:
            self.mark()
        del self._readings[1:]  # of a round that was given up

    def mark(self) -> None:
        """The first call in a round: training begins; the second: it is over."""
        with self._lock:
            now = self._clock()
            for worker in self._workers.values():
                worker.count(now)
            self._readings.append(_Reading(now, {rank: dict(known.hours) for rank, known in self._workers.items()}))

    def close_round(self) -> list[dict[str, Any]]:
        """The round is over. Of each worker `worker` (its rank) and the seconds of each of `CAUSES`."""
        self.mark()
        first, began, over, last = self._readings
        self._readings = [last]
        return [
            {"worker": worker, **_by_cause(*(_of(reading, worker) for reading in (first, began, over, last)))}
            for worker in sorted(last.hours)
        ]


def _of(reading: _Reading, worker: int) -> tuple[float, Mapping[str, float]]:
    return reading.at, reading.hours.get(worker, {})


def _by_cause(*marks: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    (begin, before), (began, planned), (over, trained), (end, after) = marks

    def in_hand(one: Mapping[str, float], other: Mapping[str, float]) -> float:
        return sum(other.get(kind, 0.0) - one.get(kind, 0.0) for kind in ("train", "help", "answer"))

    def spent(key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    told = {key: spent(key) for key in _TOLD}
    return {
        **told,
        "help_s": spent("help"),
        "other_s": spent("train") - sum(told.values()),
        "answer_s": spent("answer"),
        "idle_s": over - began - in_hand(planned, trained),
        "server_s": (end - begin) - (over - began) - in_hand(before, planned) - in_hand(trained, after),
    }
