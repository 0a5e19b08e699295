"""Work handed out under leases: pulled by workers, longest first, handed out again when a worker is lost.

Plain threads and no Ray, so that tests can lose workers at will.
"""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.errors import RunFailed

_TOLD = 64
"""Pieces that whoever sends workers is told of at a time."""


@dataclass(frozen=True)
class Lease:
    """One piece of work in one worker's hands.

    Attributes:
        token: names this hand-out; an answer under an older token of the same work is as good (work is deterministic).
        work: what to do.
    """

    token: int
    work: Any


@dataclass(frozen=True)
class Progress:
    """How far a batch of work is.

    Attributes:
        pieces: done, those in hand by their part.
        num_pieces: in all.
        size: sum of the sizes of those done.
        total_size: of all.
        part: of the only piece, done and in all in its own units; (0, 0) where there are more.
    """

    pieces: float
    num_pieces: int
    size: float
    total_size: float
    part: tuple[int, int]


@dataclass
class _Item:
    work: Any
    size: float
    batch: "Batch"
    result: Any = None
    done: bool = False
    part: tuple[int, int] = (0, 0)
    worker: int | None = None
    deadline: float = 0.0


Admit = Callable[[Any, Any], Any]
"""Called with a piece of work and its result as that arrives; returns what is kept of the result."""


class Batch:
    """Pieces of work that were handed in together (`WorkQueue.open`).

    Attributes:
        urgency: of two pieces that wait, one of the more urgent batch goes first, whatever their sizes.
        admit: see `WorkQueue.open`.
    """

    def __init__(self, queue: "WorkQueue", urgency: int, admit: Admit):
        self._queue = queue
        self.urgency = urgency
        self.admit = admit

    def wait(self) -> list[Any]:
        """The results, in the order of the works, once all are there.

        Raises:
            RunFailed: a worker reported an error that no other worker would escape, or a result was not admitted, or
                the queue was finished meanwhile.
        """
        return self._queue.wait(self)

    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        return self._queue.is_done(self)

    def progress(self) -> Progress:
        """How far it is."""
        return self._queue.progress(self)


class WorkQueue:
    """Between the server's loop (`open`, `run`) and the workers (`join`, `next`, `submit`); safe from any thread.

    Several batches may be open at a time: the rounds of a stage, and behind them the questions of the stage before.

    Attributes:
        nap_s: seconds after which a waiting worker looks again by itself.

    Args:
        lease_s: seconds after which work that was not answered is given to another worker too.
        clock: seconds, monotonic; replaced in tests.
    """

    nap_s = 1.0

    def __init__(self, lease_s: float, clock: Any = time.monotonic):
        self._lease_s = lease_s
        self._clock = clock
        self._changed = threading.Condition()
        # Of the batches that are open, by token. Tokens are unique over the queue's life: a late answer is known.
        self._items: dict[int, _Item] = {}
        self._next_token = 0
        self._over = False
        self._failure: RunFailed | None = None

    def open(self, works: Sequence[Any], sizes: Sequence[float], admit: Admit | None = None, urgency: int = 0) -> Batch:
        """Hand in work; returns at once.

        Args:
            works: what to hand out, each as a `Lease`.
            sizes: expected effort, in any unit that the open batches share; the largest is handed out first.
            admit: called with a piece of work and its result as that arrives, in the thread that brings it, outside of
                every lock; what it returns is kept as the result, and what it raises ends the run.
            urgency: see `Batch`.
        """
        with self._changed:
            batch = Batch(self, urgency, admit or _any)
            items = (_Item(work, size, batch) for work, size in zip(works, sizes, strict=True))
            self._items |= dict(enumerate(items, self._next_token))
            self._next_token += len(works)
            self._changed.notify_all()
            return batch

    def run(self, works: Sequence[Any], sizes: Sequence[float], admit: Admit | None = None) -> list[Any]:
        """Have the work done: `open` it and `wait` for it."""
        return self.open(works, sizes, admit).wait()

    def wait(self, batch: Batch) -> list[Any]:
        """See `Batch.wait`."""
        with self._changed:
            mine = {token: item for token, item in self._items.items() if item.batch is batch}
            while not all(item.done for item in mine.values()):
                self.check()
                if self._over:
                    raise RunFailed("no more work is done, and some of this is left")
                self._changed.wait(timeout=1.0)
            self.check()
            for token in mine:
                self._items.pop(token, None)  # a late twin finds nothing
            return [item.result for item in mine.values()]

    def is_done(self, batch: Batch) -> bool:
        """See `Batch.is_done`."""
        with self._changed:
            return all(item.done for item in self._items.values() if item.batch is batch)

    def waiting(self, known: Sequence[tuple[float, float]], timeout_s: float) -> list[tuple[float, float]]:
        """Urgency and size of the largest pieces that nobody has in hand, the largest first.

        Args:
            known: the last answer; one that differs is waited for.
            timeout_s: how long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._failure or self._waiting() != list(known), timeout_s)
            return self._waiting()

    def _waiting(self) -> list[tuple[float, float]]:
        now = self._clock()
        free = (item for item in self._items.values() if not item.done)
        pieces = [(item.batch.urgency, item.size) for item in free if item.worker is None or item.deadline <= now]
        return heapq.nlargest(_TOLD, pieces)

    def join(self, worker: int) -> None:
        """A worker (re)starts: what it had in hand before is handed out again."""
        with self._changed:
            for item in self._items.values():
                if item.worker == worker and not item.done:
                    item.worker = None
            self._changed.notify_all()

    def next(self, worker: int, timeout_s: float) -> Lease | None:
        """The largest piece of work not in hand, or None if there is none within the time or the run has ended."""
        deadline = self._clock() + timeout_s
        with self._changed:
            while True:
                lease = None if self._over or self._failure is not None else self._pick(worker)
                if lease is not None:
                    return lease
                left = deadline - self._clock()
                if self._over or self._failure is not None or left <= 0:
                    return None
                self._changed.wait(timeout=min(left, self.nap_s))

    def submit(self, token: int, result: Any) -> bool:
        """Take a result; False if it was not admitted or not wanted any more (a twin came first, the batch is over)."""
        with self._changed:
            item = self._items.get(token)
        if item is None or item.done:
            return False
        try:
            result = item.batch.admit(item.work, result)  # Outside of the lock: it may take a while.
        except RunFailed as failure:
            self.fail(str(failure), failure.details)
            return False
        with self._changed:
            if item.done or self._items.get(token) is not item:
                return False
            item.result, item.done = result, True
            self._changed.notify_all()
            return True

    def fail(self, message: str, details: str = "") -> None:
        """End the run: everybody waiting gets `RunFailed`, of the first failure."""
        with self._changed:
            self._failure = self._failure or RunFailed(message, details)
            self._changed.notify_all()

    def check(self) -> None:
        """Raise `RunFailed` if somebody reported a failure."""
        if self._failure is not None:
            raise RunFailed(str(self._failure), self._failure.details)

    def finish(self) -> None:
        """No more work will come."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        with self._changed:
            return self._over or self._failure is not None

    def tell(self, token: int, done: int, total: int) -> None:
        """A worker is so far with a piece of work, in units of its own."""
        with self._changed:
            if item := self._items.get(token):
                item.part = (done, total)
                item.deadline = self._clock() + self._lease_s  # whoever tells is alive

    def progress(self, batch: Batch | None = None, urgency: int = 0) -> Progress:
        """How far a batch is; without one, all that are open and of this urgency."""
        with self._changed:
            items = [
                item
                for item in self._items.values()
                if (item.batch is batch if batch is not None else item.batch.urgency == urgency)
            ]
            parts = [1.0 if item.done else item.part[0] / max(item.part[1], 1) for item in items]
            return Progress(
                pieces=sum(parts),
                num_pieces=len(items),
                size=sum(item.size for item in items if item.done),
                total_size=sum(item.size for item in items),
                part=items[0].part if len(items) == 1 else (0, 0),
            )

    def _pick(self, worker: int) -> Lease | None:
        """What a free worker does now, if there is anything."""
        token = self._free()
        if token is None:
            return None
        item = self._items[token]
        item.worker, item.deadline = worker, self._clock() + self._lease_s
        return Lease(token, item.work)

    def _free(self) -> int | None:
        now = self._clock()
        free = [
            token
            for token, item in self._items.items()
            if not item.done and (item.worker is None or item.deadline <= now)
        ]
        return max(free, key=self._rank, default=None)

    def _rank(self, token: int) -> tuple[int, float, int]:
        """The more urgent batch first, in it the largest piece, of equals the earlier one."""
        item = self._items[token]
        return (item.batch.urgency, item.size, -token)


def _any(work: Any, result: Any) -> Any:
    """Every result is good, and kept as it is."""
    return result
