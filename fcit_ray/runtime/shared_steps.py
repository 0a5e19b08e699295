"""Where the leaders of clients and those who help them meet: steps whose micro-batches any worker may take.

Beside the work queue, under its lock: plain threads and no Ray, so that tests can lose workers at will. Only messages
pass through here; values and gradients travel by handle.
"""

import statistics
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fcit_ray.federated.packing import Rest, Started, whom_to_help
from fcit_ray.federated.sharing import Step

_SLOW = 3.0
"""Times as long as a step's other micro-batches took, after which its leader computes one itself."""


@dataclass(frozen=True)
class HelpWork:
    """Compute one micro-batch of another worker's client.

    Attributes:
        post: names the step among those that were shared.
        lead: token of the client's lease, by which its work is known.
        step: without its values and what the local rule has counted, which are fetched.
        state: handle of these two.
        number: of the micro-batch.
    """

    post: int
    lead: int
    step: Step
    state: Any
    number: int


@dataclass(frozen=True)
class PartNote:
    """A `Part` on its way.

    Attributes:
        loss: its share of the step's.
        gradients: handle of them.
    """

    loss: float
    gradients: Any


@dataclass(frozen=True)
class TurnNote:
    """A `Turn` on its way.

    Attributes:
        number: see `Turn`.
        parts: of others that have arrived.
        over: whether nobody else will compute what is not there: the leader was taken for lost.
    """

    number: int | None
    parts: Mapping[int, PartNote]
    over: bool = False


@dataclass
class _Post:
    """A step that its leader has shared.

    Attributes:
        work: for who helps, but for the number.
        leader: rank of it.
        urgency, size: of the client in the work queue.
        open: micro-batches that nobody has taken, in order.
        failed: those that a helper could not compute; they are the leader's.
        taken: those under way, with who has them and since when; the leader's own too.
        arrived: of others, not yet fetched by the leader.
        took: seconds of those that are done.
    """

    work: HelpWork
    leader: int
    urgency: int
    size: float
    open: list[int]
    failed: list[int] = field(default_factory=list)
    taken: dict[int, tuple[int, float]] = field(default_factory=dict)
    arrived: dict[int, PartNote] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)

    @property
    def workers(self) -> int:
        return len({self.leader, *(worker for worker, _ in self.taken.values())})

    def seen(self) -> Started:
        step = self.work.step
        ahead = (len(self.open) + len(self.failed) + len(self.taken)) * step.each
        return Started(self.size * (step.left + ahead), self.workers, bool(self.open), len(step.shares))

    def late(self, now: float, patience_s: float) -> int | None:
        """A micro-batch of another's that takes too long."""
        if self.took:
            patience_s = _SLOW * statistics.median(self.took)
        since = {number: began for number, (worker, began) in self.taken.items() if worker != self.leader}
        number = min(since, key=lambda number: since[number], default=None)
        return number if number is not None and now - since[number] > patience_s else None


@dataclass(frozen=True)
class _Hand:
    """One micro-batch in a helper's hands.

    Attributes:
        post: name of the step.
        number: of the micro-batch.
        worker: the helper.
        since: when it took it.
    """

    post: int
    number: int
    worker: int
    since: float


class SharedSteps:
    """The steps that are shared now.

    Args:
        changed: the work queue's condition; methods that say so want it held.
        clock: seconds, monotonic.
        patience_s: for a helper where there is nothing to compare it with; who is not back by then sleeps.
        most: workers that one client may have; None: as many as shorten it.
    """

    def __init__(
        self, changed: threading.Condition, clock: Callable[[], float], patience_s: float, most: int | None = None
    ):
        self._changed = changed
        self._clock = clock
        self._patience_s = patience_s
        self.most = most
        self._posts: dict[int, _Post] = {}
        self._hands: dict[int, _Hand] = {}  # by the leases of helpers
        self._next_post = 0
        self._next_token = -1  # below zero, so that none is a token of the work queue

    def post(self, token: int, leader: int, urgency: int, size: float, step: Step, state: Any) -> int:
        """Share a step; the one that this leader shared before is over. Returns its name. Lock held."""
        self._drop(lambda post: post.leader == leader)
        self._next_post += 1
        work = HelpWork(self._next_post, token, step, state, -1)
        self._posts[self._next_post] = _Post(work, leader, urgency, size, list(step.open))
        self._changed.notify_all()
        return self._next_post

    def turn(self, name: int, done: int | None, timeout_s: float) -> TurnNote:
        """What the leader of a shared step does next.

        Args:
            name: of the step.
            done: the micro-batch that it has computed since the last call.
            timeout_s: how long to wait while there is nothing to do and nothing has arrived.
        """
        deadline = self._clock() + timeout_s
        with self._changed:
            post = self._posts.get(name)
            if post is None:
                return TurnNote(None, {}, over=True)
            if done is not None:
                self._finish(post, done)
            while True:
                parts, post.arrived = post.arrived, {}
                for queue in (post.failed, post.open):
                    if queue:
                        number = queue.pop(0)
                        post.taken[number] = (post.leader, self._clock())
                        return TurnNote(number, parts)
                late = post.late(self._clock(), self._patience_s)
                left = deadline - self._clock()
                if name not in self._posts:
                    return TurnNote(None, parts, over=True)
                if parts or late is not None or left <= 0:
                    return TurnNote(late, parts)
                self._changed.wait(timeout=min(left, 0.1))

    def offer(self, worker: int, rest: Rest, urgency: float) -> tuple[int, HelpWork] | None:
        """A micro-batch for a free worker, and the token of its lease; None: it has better to do. Lock held.

        Args:
            worker: its rank.
            rest: of the round.
            urgency: that a client has at least.
        """
        posts = [post for post in self._posts.values() if post.leader != worker and post.urgency >= urgency]
        place = whom_to_help([post.seen() for post in posts], rest, self.most)
        if place is None:
            return None
        post = posts[place]
        number = post.open.pop(0)
        post.taken[number] = (worker, self._clock())
        token, self._next_token = self._next_token, self._next_token - 1
        self._hands[token] = _Hand(post.work.post, number, worker, self._clock())
        return token, replace(post.work, number=number)

    def give(self, token: int, note: PartNote | None) -> bool:
        """Take what a helper brings, None if it could not; False if the token is none of a helper's."""
        if token >= 0:
            return False
        with self._changed:
            hand = self._hands.pop(token, None)
            post = self._posts.get(hand.post) if hand is not None else None
            if hand is None or post is None or (number := hand.number) not in post.taken:
                return True  # late: the step is over, or its leader has computed it
            if note is None:
                del post.taken[number]
                post.failed.append(number)
            else:
                post.arrived[number] = note
                self._finish(post, number)
            self._changed.notify_all()
            return True

    def seen(self) -> dict[int, Started]:
        """Clients that are shared, by their tokens. Lock held."""
        return {post.work.lead: post.seen() for post in self._posts.values()}

    def helping(self) -> set[int]:
        """Workers that compute for others. Lock held."""
        return {worker for post in self._posts.values() for worker, _ in post.taken.values() if worker != post.leader}

    def asleep(self) -> set[int]:
        """Helpers that have not come back for as long as a lease lasts. Lock held."""
        since = self._clock() - self._patience_s
        return {hand.worker for hand in self._hands.values() if hand.since <= since}

    def forget(self, worker: int) -> None:
        """A worker was lost: its client is nobody's, what it had taken of others is open again. Lock held."""
        self._hands = {token: hand for token, hand in self._hands.items() if hand.worker != worker}
        self._drop(lambda post: post.leader == worker)
        for post in self._posts.values():
            lost = [number for number, (who, _) in post.taken.items() if who == worker]
            for number in lost:
                del post.taken[number]
            post.open = sorted([*post.open, *lost])

    def close(self, token: int) -> None:
        """A client is done: nobody need help it any more. Lock held."""
        self._drop(lambda post: post.work.lead == token)

    def _drop(self, over: Callable[[_Post], bool]) -> None:
        self._posts = {name: post for name, post in self._posts.items() if not over(post)}

    def _finish(self, post: _Post, number: int) -> None:
        if (taken := post.taken.pop(number, None)) is not None:
            post.took.append(self._clock() - taken[1])
