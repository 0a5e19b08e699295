"""How a round's clients are laid over the workers: who leads a client, who helps whom, and how long the round takes.

A client is led by one worker from its first step to its last. A step is a sum over micro-batches, which any worker can
compute at the step's values; the next step begins when all are there. Who is free leads the largest client that waits
or computes one micro-batch of a client that is led, and chooses anew after it: so the tail of a round is shared by
those who have done their part. `whom_to_help` decides, in the runtime and in the rehearsal here (`makespan`).

These are moldable jobs with a barrier after each step. Shortest schedules of such are hard to find; to give each free
worker what has most left is at most 2 - 1/W times as long on W workers (Graham, "Bounds for certain multiprocessing
anomalies", 1966, for tasks of one length in chains, where no worker is idle while a micro-batch waits). Two things are
added for rounds with one long client, which most of Dirichlet's are: it is helped before others begin, and those that
its next step needs do not go elsewhere.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fcit_ray.data.loading.batches import step_sizes

_LONG = 0.5
"""Of an even share of all that is left: a client that would take longer even with one more worker holds up its round.
Below 1, as steps are taken in waves and the last ones are short; tried on the paper's sizes."""


@dataclass(frozen=True)
class Started:
    """A client that is being trained, as a free worker sees it.

    Attributes:
        left: of it and not computed yet, in records.
        workers: computing for it now, its leader among them.
        open: whether its step has a micro-batch that nobody computes; if not nobody can help it.
        pieces: micro-batches of a step: more workers are of no use to it.
    """

    left: float
    workers: int
    open: bool
    pieces: int

    @property
    def with_another(self) -> float:
        """How long it would take with one more worker."""
        return self.left / (self.workers + 1)


@dataclass(frozen=True)
class Rest:
    """What is left of a round.

    Attributes:
        records: that are not computed yet.
        clients: that are not done.
        next_waits: whether one of them is not begun.
        workers: that there are.
    """

    records: float
    clients: int
    next_waits: bool
    workers: int

    def is_held_up_by(self, client: Started) -> bool:
        """Whether a client is so long that it is helped before the next is begun.

        Only where there are workers to spare: otherwise they lead one client after the other and share the last.
        """
        spare = self.workers > self.clients
        return spare and client.with_another > _LONG * self.records / self.workers

    def waits_for(self, client: Started) -> bool:
        """Whether a client by itself, with all the workers that it can use, takes longer than all others on the rest.

        Those that it can use then stay with it: at something else they would be late for its next step.
        """
        spare = self.workers - client.pieces
        return spare > 0 and client.left / client.pieces > (self.records - client.left) / spare


def whom_to_help(started: Sequence[Started], rest: Rest, most: int | None = None) -> int | None:
    """Which client a free worker computes a micro-batch of: the one that would take longest even so.

    Args:
        started: the clients that are being trained.
        rest: of the round, these included.
        most: workers that one client may have; None: as many as its steps have micro-batches.

    Returns:
        Its place in `started`, of equals the first. None: begin the next one that waits, or do nothing for now.
    """
    able = [place for place, client in enumerate(started) if client.open and (most is None or client.workers < most)]
    place = max(able, key=lambda place: started[place].with_another, default=None)
    if place is None or (rest.next_waits and not rest.is_held_up_by(started[place])):
        return None
    longest = max(started, key=lambda client: client.left)
    if started[place] is not longest and rest.waits_for(longest):
        elsewhere = sum(client.workers for client in started if client is not longest)
        if elsewhere >= rest.workers - longest.pieces:
            return None
    return place


@dataclass(frozen=True)
class Cut:
    """How a client's records are cut.

    Attributes:
        batch_size: records of a step.
        micro_batch_size: records of it that a worker computes at a time.
        epochs: over the records.
    """

    batch_size: int
    micro_batch_size: int
    epochs: int = 1

    def steps(self, records: int) -> list[list[int]]:
        """Records of every micro-batch of every step."""
        piece = min(self.batch_size, self.micro_batch_size)
        return [
            [min(piece, size - start) for start in range(0, size, piece)]
            for size in step_sizes(records, self.batch_size, self.epochs)
        ]


@lru_cache(maxsize=4096)
def makespan(clients: tuple[int, ...], workers: int, cut: Cut, most: int | None = None) -> float:
    """When a round's last client is done, in the time of one record; a micro-batch takes as long as it has records.

    Args:
        clients: records of each.
        workers: that train at once.
        cut: of the clients into steps and micro-batches.
        most: workers that one client may have; 1 shares nobody.
    """
    return _Rehearsal(clients, workers, cut, most).run()


def alone(clients: Sequence[int], workers: int) -> float:
    """The same where every client has one worker: the largest that waits goes to whoever is free first.

    Graham, "Bounds on multiprocessing timing anomalies", 1969; at most 4/3 - 1/(3 W) times the best.
    """
    whole = max(1, *clients, 1)
    return makespan(tuple(clients), workers, Cut(whole, whole), 1)


def shortest(clients: Sequence[int], workers: int, cut: Cut) -> float:
    """No schedule of these micro-batches is shorter: all records shared evenly, or the longest client by itself.

    With all the workers a client still takes each of its steps in waves.
    """
    alone = [sum(_waves(step, workers) for step in cut.steps(records)) for records in clients]
    return max(sum(clients) * cut.epochs / workers, max(alone, default=0.0))


def _waves(step: Sequence[int], workers: int) -> float:
    """A step's shortest time: its micro-batches are of one size but for the last, which may be smaller."""
    whole = sum(size == step[0] for size in step)
    return max(sum(step) / workers, float(step[0] * -(-whole // workers)))


class _Client:
    """One that is rehearsed.

    Attributes:
        workers: computing for it.
        step: records of the micro-batches of its step that nobody computes, the next one last.
    """

    def __init__(self, steps: list[list[int]]):
        self._steps = steps[::-1]
        self.left = float(sum(map(sum, steps)))
        self.step = self._steps.pop()[::-1]
        self.workers = 0

    def next_step(self) -> bool:
        """Begin the next step, if there is one."""
        if self._steps:
            self.step = self._steps.pop()[::-1]
        return bool(self.step)


class _Rehearsal:
    """A round event by event, with the runtime's own choices."""

    def __init__(self, clients: Sequence[int], workers: int, cut: Cut, most: int | None):
        self._waiting = [_Client(cut.steps(records)) for records in sorted(clients) if records]
        self._workers, self._cut, self._most = workers, cut, most
        self._idle = workers
        self._now = 0.0
        self._started: list[_Client] = []
        self._at_barrier: list[_Client] = []  # whose leader waits for the others
        # Until when, a number to keep the order, for whom, how many records, and whether by its leader.
        self._busy: list[tuple[float, int, _Client, int, bool]] = []
        self._number = 0

    def run(self) -> float:
        self._hand_out()
        while self._busy:
            self._now = self._busy[0][0]
            while self._busy and self._busy[0][0] <= self._now:
                _, _, client, records, leads = heapq.heappop(self._busy)
                client.left -= records
                client.workers -= 1
                if leads:
                    self._at_barrier.append(client)
                else:
                    self._idle += 1
            self._lead_on()
            self._hand_out()
        return self._now

    def _compute(self, client: _Client, leads: bool) -> None:
        records = client.step.pop()
        client.workers += 1
        self._number += 1
        heapq.heappush(self._busy, (self._now + records, self._number, client, records, leads))

    def _lead_on(self) -> None:
        """Leaders go on with their step, or begin the next, or are free."""
        barrier, self._at_barrier = self._at_barrier, []
        for client in barrier:
            if client.step or (not client.workers and client.next_step()):
                self._compute(client, leads=True)
            elif client.workers:
                self._at_barrier.append(client)
            else:
                self._started.remove(client)
                self._idle += 1

    def _hand_out(self) -> None:
        while self._idle:
            waits = bool(self._waiting)
            place = None
            if self._most != 1:
                # A leader at its barrier is its client's, though it does not compute.
                pieces = -(-self._cut.batch_size // self._cut.micro_batch_size)
                at_barrier = {id(client) for client in self._at_barrier}
                seen = [
                    Started(client.left, client.workers + (id(client) in at_barrier), bool(client.step), pieces)
                    for client in self._started
                ]
                clients = [*self._started, *self._waiting]
                left = sum(client.left for client in clients)
                place = whom_to_help(seen, Rest(left, len(clients), waits, self._workers), self._most)
            if place is None and not waits:
                return
            self._idle -= 1
            if place is None:
                self._started.append(self._waiting.pop())
                self._compute(self._started[-1], leads=True)
            else:
                self._compute(self._started[place], leads=False)
