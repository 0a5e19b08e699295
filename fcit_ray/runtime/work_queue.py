"""Work handed out under leases: pulled by workers, longest first, handed out again when an attempt at it fails.

Plain threads and no Ray, so that tests can lose workers at will.
"""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from fcit_ray.config.failures import Failures
from fcit_ray.errors import RunFailed, UpdateRefused
from fcit_ray.federated.failing import DIED, tried
from fcit_ray.runtime.attempts import Attempts
from fcit_ray.runtime.pieces import Admit, Batch, Failed, Item, Lease, Progress, progress_of

_TOLD = 64
"""Pieces that whoever sends workers is told of at a time."""
_HEARD_S = 10.0
"""A worker that was heard of so lately is there; free ones ask every few seconds."""


class WorkQueue:
    """Between the server's loop (`open`, `run`) and the workers (`join`, `next`, `submit`); safe from any thread.

    Several batches may be open at a time: the rounds of a stage, and behind them the questions of the stage before.

    Attributes:
        nap_s: seconds after which a waiting worker looks again by itself.

    Args:
        lease_s: seconds of silence after which an attempt has failed.
        clock: seconds, monotonic; replaced in tests.
        failures: how often a piece is tried.
        place, told, end: see `Attempts`; told and end are called outside of every lock.
    """

    nap_s = 1.0

    def __init__(
        self,
        lease_s: float,
        clock: Any = time.monotonic,
        *,
        failures: Failures | None = None,
        place: Callable[[Any], str] = str,
        told: Callable[[Failed], None] = lambda failed: None,
        end: Callable[[int], None] = lambda worker: None,
    ):
        self._clock = clock
        self._rule = Failures(retries=(failures or Failures()).retries)
        self._attempts = Attempts(lease_s, place, told, end)
        self._changed = threading.Condition()
        # Of the batches that are open, by token. Tokens are unique over the queue's life: a late answer is known.
        self._items: dict[int, Item] = {}
        self._next_token = 0
        self._heard: dict[int, float] = {}
        self._over = False
        self._failure: RunFailed | None = None

    def open(
        self,
        works: Sequence[Any],
        sizes: Sequence[float],
        admit: Admit | None = None,
        urgency: int = 0,
        rule: Failures | None = None,
    ) -> Batch:
        """Hand in work; returns at once.

        Args:
            works: what to hand out, each as a `Lease`.
            sizes: expected effort, in any unit that the open batches share; the largest is handed out first.
            admit: called with a piece of work and its result as that arrives, in the thread that brings it, outside of
                every lock; what it returns is kept as the result. `UpdateRefused` is a failed attempt, any other
                `RunFailed` ends the run.
            urgency: see `Batch`.
            rule: what becomes of pieces whose attempts fail; by default they are tried again, and then the run stops.
        """
        with self._changed:
            batch = Batch(self, urgency, admit or (lambda work, result: result), rule or self._rule)
            for work, size in zip(works, sizes, strict=True):
                batch.items.append(Item(work, size, batch, self._named()))
            self._items |= {item.token: item for item in batch.items}
            self._changed.notify_all()
            return batch

    def run(
        self, works: Sequence[Any], sizes: Sequence[float], admit: Admit | None = None, rule: Failures | None = None
    ) -> list[Any]:
        """Have the work done: `open` it and `wait` for it."""
        return self.open(works, sizes, admit, rule=rule).wait()

    def wait(self, batch: Batch) -> list[Any]:
        """See `Batch.wait`."""
        while True:
            self._give_up()
            with self._changed:
                if all(item.done for item in batch.items):
                    self.check()
                    for item in batch.items:
                        self._items.pop(item.token, None)  # a late twin finds nothing
                    return [item.result for item in batch.items]
                self.check()
                if self._over:
                    raise RunFailed("no more work is done, and some of this is left")
                self._changed.wait(timeout=1.0)

    def is_done(self, batch: Batch) -> bool:
        """See `Batch.is_done`."""
        with self._changed:
            return all(item.done for item in batch.items)

    def waiting(self, known: Sequence[tuple[float, float]], timeout_s: float) -> list[tuple[float, float]]:
        """Urgency and size of the largest pieces that nobody has in hand, the largest first.

        Args:
            known: the last answer; one that differs is waited for.
            timeout_s: how long.
        """
        self._give_up()
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._failure or self._waiting() != list(known), timeout_s)
            return self._waiting()

    def _waiting(self) -> list[tuple[float, float]]:
        free = (item for item in self._items.values() if not item.done and item.worker is None)
        return heapq.nlargest(_TOLD, [(item.batch.urgency, item.size) for item in free])

    def join(self, worker: int, node: str = "") -> None:
        """A worker (re)starts, or is lost: what it had in hand before is handed out again.

        Args:
            worker: its rank.
            node: where it is, for messages.
        """
        with self._changed:
            self._heard.pop(worker, None)
            for item in [*self._items.values()]:
                if item.worker == worker and not item.done and not item.arrives:
                    self._fail(item, DIED, died=True)
            if node:
                self._attempts.nodes[worker] = node
            self._changed.notify_all()
        self._attempts.tell(self._changed)

    def next(self, worker: int, timeout_s: float) -> Lease | None:
        """The largest piece of work not in hand, or None if there is none within the time or the run has ended."""
        deadline = self._clock() + timeout_s
        while True:
            self._give_up()
            with self._changed:
                self._heard[worker] = self._clock()
                lease = None if self._over or self._failure is not None else self._pick(worker)
                if lease is not None:
                    return lease
                left = deadline - self._clock()
                if self._over or self._failure is not None or left <= 0:
                    return None
                self._changed.wait(timeout=min(left, self.nap_s))

    def submit(self, token: int, result: Any) -> bool:
        """Take a result; False if it was not admitted, or its attempt was given up, or the batch is over."""
        with self._changed:
            item = self._items.get(token)
            if item is None or item.done:
                return False
            item.arrives = True
        try:
            result = item.batch.admit(item.work, result)  # Outside of the lock: it may take a while.
        except UpdateRefused as refused:
            item.arrives = False
            self.failed(token, str(refused), reason=refused.reason)
            return False
        except RunFailed as failure:
            self.fail(str(failure), failure.details)
            return False
        with self._changed:
            if item.done or self._items.get(token) is not item:
                return False
            item.result, item.done = result, True
            item.batch.rates.append((self._clock() - item.began) / max(item.size, 1))
            self._changed.notify_all()
            return True

    def failed(self, token: int, message: str, details: str = "", reason: str = "") -> None:
        """An attempt has failed.

        Args:
            token: of it.
            message: what happened, in a sentence that names the place.
            details: for the log, should it end the run.
            reason: the same without the place.
        """
        with self._changed:
            item = self._items.get(token)
            if item is None or item.done or item.worker is None:
                return  # it was given up before, or the batch is over
            self._fail(item, reason, message, details)
        self._attempts.tell(self._changed)

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
                item.heard = self._clock()  # whoever tells is alive

    def progress(self, batch: Batch | None = None, urgency: int = 0) -> Progress:
        """How far a batch is; without one, all that are open and of this urgency."""
        with self._changed:
            if batch is not None:
                return progress_of(batch.items)
            return progress_of([item for item in self._items.values() if item.batch.urgency == urgency])

    # Within; what says so wants the lock held.

    def _pick(self, worker: int) -> Lease | None:
        """What a free worker does now, if there is anything. Lock held."""
        token = self._free(worker)
        if token is None:
            return None
        item = self._items[token]
        item.worker, item.part = worker, (0, 0)
        item.began = item.heard = self._clock()
        return Lease(token, item.work)

    def _free(self, worker: int) -> int | None:
        """The piece that this worker would be given. Lock held."""
        here = self._workers()
        free = [
            token
            for token, item in self._items.items()
            if not item.done and item.worker is None and (worker not in item.failed or here <= item.failed)
        ]
        return max(free, key=self._rank, default=None)

    def _rank(self, token: int) -> tuple[int, bool, float, int]:
        """The more urgent batch first, in it what has not failed yet, then the largest, of equals the earlier one."""
        item = self._items[token]
        return (item.batch.urgency, not item.failed, item.size, -token)

    def _workers(self) -> set[int]:
        """Those that are there. Lock held."""
        now = self._clock()
        heard = {worker for worker, when in self._heard.items() if now - when <= _HEARD_S}
        return heard | {item.worker for item in self._items.values() if item.worker is not None and not item.done}

    def _named(self) -> int:
        self._next_token += 1
        return self._next_token - 1

    def _give_up(self) -> None:
        """Attempts of which nothing is heard, or which take too long, have failed; their workers sleep."""
        with self._changed:
            for item, why in self._attempts.late([*self._items.values()], self._clock()):
                assert item.worker is not None
                self._heard.pop(item.worker, None)
                self._attempts.sleeps(item.worker)
                self._fail(item, why)
        self._attempts.tell(self._changed)

    def _fail(self, item: Item, reason: str, message: str = "", details: str = "", died: bool = False) -> None:
        """The attempt at a piece that is in hand has failed. Lock held; `tell` follows."""
        failed = self._attempts.failed(item, reason, message, died)
        # Another attempt has another name, by which what is still said of this one is known.
        del self._items[item.token]
        item.token = self._named()
        self._items[item.token] = item
        if failed.verdict == "drop":
            item.done = item.dropped = True
        elif failed.verdict == "stop":
            self.fail(f"{failed.message} ({tried(item.attempts)})", details)
        self._changed.notify_all()
