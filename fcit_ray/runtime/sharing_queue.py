"""The work queue of a run whose workers help each other: a free one may compute a micro-batch of another's client."""

import time
from typing import Any

from fcit_ray.federated.packing import Started, is_long
from fcit_ray.federated.sharing import Step
from fcit_ray.runtime.foreman import HELP
from fcit_ray.runtime.shared_steps import SharedSteps, TurnNote
from fcit_ray.runtime.work_queue import Lease, WorkQueue

_HEARD_S = 10.0
"""A worker that was heard of so lately is there; free ones ask every few seconds."""


class SharingQueue(WorkQueue):
    """A `WorkQueue` whose pieces may be shared while they are in hand.

    Rounds that are under way come before work that is less urgent: a free worker answers questions of the stage before
    when no client can use it.

    Args:
        lease_s, clock: see `WorkQueue`.
        most: workers that one client may have; None: as many as shorten it.
    """

    def __init__(self, lease_s: float, clock: Any = time.monotonic, most: int | None = None):
        super().__init__(lease_s, clock)
        self._steps = SharedSteps(self._changed, clock, lease_s, most)
        self._heard: dict[int, float] = {}

    # What everybody calls, with those who help in mind.

    def join(self, worker: int) -> None:
        with self._changed:
            self._steps.forget(worker)
        super().join(worker)

    def submit(self, token: int, result: Any) -> bool:
        if self._steps.give(token, result):
            return True
        admitted = super().submit(token, result)
        with self._changed:
            self._steps.close(token)
        return admitted

    def _pick(self, worker: int) -> Lease | None:
        self._heard[worker] = self._clock()
        token, count = self._free(), len(self._workers())
        if token is None:
            offer = self._steps.offer(worker, 0.0, False, count)
        else:
            urgency = self._items[token].batch.urgency
            offer = self._steps.offer(worker, 0.0, False, count, urgency + 1)
            offer = offer or self._steps.offer(worker, self._left(urgency, shared=False), True, count, urgency)
        return Lease(*offer) if offer is not None else super()._pick(worker)

    # What leaders call.

    def wants(self, token: int, worker: int) -> bool:
        """Whether a client's leader is to share its steps: somebody is free for it, or it is longer than all else."""
        with self._changed:
            self._heard[worker] = self._clock()
            item = self._items.get(token)
            if item is None or item.done or self._steps.most == 1:
                return False
            urgency = item.batch.urgency
            rivals = [other for other in self._items.values() if not other.done and other.batch.urgency >= urgency]
            if any(other.worker is None for other in rivals):
                client = self._steps.seen().get(token) or Started(_left_of(item), 1, True)
                return is_long(client, self._left(urgency, shared=True), len(self._workers()))
            return bool(self._workers() - {other.worker for other in rivals})

    def post(self, token: int, worker: int, step: Step, state: Any) -> int | None:
        """Share a step; returns its name, None if the client is done already (a twin was faster)."""
        with self._changed:
            item = self._items.get(token)
            if item is None or item.done:
                return None
            return self._steps.post(token, worker, item.batch.urgency, item.size, step, state)

    def turn(self, name: int, done: int | None, timeout_s: float) -> TurnNote:
        """See `SharedSteps.turn`."""
        return self._steps.turn(name, done, timeout_s)

    # What helpers call.

    def work_of(self, token: int) -> Any:
        """The work of a lease, None if that is over."""
        with self._changed:
            item = self._items.get(token)
            return None if item is None or item.done else item.work

    def _waiting(self) -> list[tuple[float, float]]:
        """Of clients that could be helped too, behind all else: what a worker that serves several runs is sent for."""
        waiting = super()._waiting()
        items = self._items.values()
        busy = [_left_of(item) for item in items if not item.done and item.worker is not None and _is_round(item)]
        if waiting or self._steps.most == 1 or not busy:
            return waiting
        shared = sum(client.open for client in self._steps.seen().values())
        return [(HELP, max(busy))] * max(shared, 1)

    def _workers(self) -> set[int]:
        """Those that are there."""
        now = self._clock()
        heard = {worker for worker, when in self._heard.items() if now - when <= _HEARD_S}
        busy = {item.worker for item in self._items.values() if item.worker is not None and not item.done}
        return heard | busy | self._steps.helping()

    def _left(self, urgency: int, *, shared: bool) -> float:
        """Size of what is not done of this urgency, with or without what is shared now."""
        seen = self._steps.seen()
        return sum(
            seen[token].left if token in seen else _left_of(item)
            for token, item in self._items.items()
            if not item.done and item.batch.urgency == urgency and (shared or token not in seen)
        )


def _is_round(item: Any) -> bool:
    return bool(item.batch.urgency >= 0)


def _left_of(item: Any) -> float:
    done, total = item.part
    return float(item.size * (1 - done / total if total else 1.0))
