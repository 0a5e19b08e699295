"""The work queue of a run whose workers help each other: a free one may compute a micro-batch of another's client."""

import time
from dataclasses import replace
from typing import Any

from fcit_ray.config.schema import Config
from fcit_ray.experiment.opening import local_training
from fcit_ray.federated.packing import Rest, Started
from fcit_ray.federated.sharing import Step
from fcit_ray.runtime.foreman import HELP
from fcit_ray.runtime.pieces import Item, Lease
from fcit_ray.runtime.shared_steps import SharedSteps, TurnNote
from fcit_ray.runtime.work_queue import WorkQueue

_SOON_S = 0.5
"""Within which the leader of a client is expected to share its first step."""


class SharingQueue(WorkQueue):
    """A `WorkQueue` whose pieces may be shared while they are in hand.

    Rounds that are under way come before work that is less urgent: a free worker answers questions of the stage before
    when no client can use it.

    Args:
        lease_s, clock: see `WorkQueue`.
        most: workers that one client may have; None: as many as shorten it.
        others: of `WorkQueue`.
    """

    nap_s = 0.1

    def __init__(self, lease_s: float, clock: Any = time.monotonic, most: int | None = None, **others: Any):
        super().__init__(lease_s, clock, **others)
        self._steps = SharedSteps(self._changed, clock, lease_s, most)
        self._begun: dict[int, float] = {}  # when a lease was given, by its token

    # What everybody calls, with those who help in mind.

    def join(self, worker: int, node: str = "") -> None:
        with self._changed:
            self._steps.forget(worker)
        super().join(worker, node)

    def submit(self, token: int, result: Any) -> bool:
        if self._steps.give(token, result):
            return True
        admitted = super().submit(token, result)
        with self._changed:
            self._steps.close(token)
            self._begun.pop(token, None)
        return admitted

    def failed(self, token: int, message: str, details: str = "", reason: str = "") -> None:
        """What a helper could not compute its leader will, and will fail itself where that is the client's fault."""
        if not self._steps.give(token, None):
            super().failed(token, message, details, reason)

    def _fail(self, item: Item, *reasons: Any, **more: Any) -> None:
        self._steps.close(item.token)
        self._begun.pop(item.token, None)
        super()._fail(item, *reasons, **more)

    def _give_up(self) -> None:
        with self._changed:
            for worker in self._steps.asleep():
                self._heard.pop(worker, None)
                self._steps.forget(worker)
                self._attempts.sleeps(worker)
        super()._give_up()

    def _pick(self, worker: int) -> Lease | None:
        token = self._free(worker)
        if token is None:
            offer = self._steps.offer(worker, self._rest(0, next_waits=False), float("-inf"))
        else:
            urgency = self._items[token].batch.urgency
            rest = self._rest(urgency, next_waits=True)
            offer = self._steps.offer(worker, replace(rest, next_waits=False), urgency + 1)
            offer = offer or self._steps.offer(worker, rest, urgency)
            if offer is None and self._is_about_to_be_shared(urgency, rest):
                return None
        lease = Lease(*offer) if offer is not None else super()._pick(worker)
        if lease is not None and offer is None:
            self._begun[lease.token] = self._clock()
        return lease

    def _is_about_to_be_shared(self, urgency: int, rest: Rest) -> bool:
        """Whether a client that is to be helped before others begin has just been begun itself."""
        since = self._clock() - _SOON_S
        return self._steps.most != 1 and any(
            rest.is_held_up_by(Started(_left_of(item), 1, True, 1))
            for token, item in self._items.items()
            if item.worker is not None and not item.done and item.batch.urgency == urgency
            if self._begun.get(token, since) > since and token not in self._steps.seen()
        )

    # What leaders call.

    def wants(self, token: int, worker: int) -> bool:
        """Whether a client's leader is to share its steps: more are free than wait to be begun."""
        with self._changed:
            self._heard[worker] = self._clock()
            item = self._items.get(token)
            if item is None or item.done or self._steps.most == 1:
                return False
            item.heard = self._clock()  # its leader asks between the micro-batches of a step
            urgency = item.batch.urgency
            rivals = [other for other in self._items.values() if not other.done and other.batch.urgency >= urgency]
            waiting = sum(other.worker is None for other in rivals)
            return len(self._workers() - {other.worker for other in rivals}) > waiting

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
        return super()._workers() | self._steps.helping()

    def _rest(self, urgency: int, *, next_waits: bool) -> Rest:
        """What is left of this urgency."""
        seen = self._steps.seen()
        left = [
            seen[token].left if token in seen else _left_of(item)
            for token, item in self._items.items()
            if not item.done and item.batch.urgency == urgency
        ]
        return Rest(sum(left), len(left), next_waits, len(self._workers()))


def _is_round(item: Any) -> bool:
    return bool(item.batch.urgency >= 0)


def _left_of(item: Any) -> float:
    done, total = item.part
    return float(item.size * (1 - done / total if total else 1.0))


def most_workers(config: Config) -> int | None:
    """Workers that one client of a run may have; None: as many as shorten it."""
    train = local_training(config)
    if (train.micro_batch_size or train.batch_size) >= train.batch_size:
        return 1  # nothing of a step to hand out
    most = config.runtime.workers_per_client
    return None if most == "auto" else most
