"""Who serves which run: worker groups ("crews") outlive their runs, and every worker serves all runs of its kind.

A worker is sent from piece of work to piece of work, to the run whose largest waiting piece is the largest of all; so
the tail of one run's round is filled with another's clients. What a run has waiting it tells as it changes.

Plain threads and no Ray, so that tests can lose crews at will; it becomes an actor by one expression in `crew.py`.
"""

import itertools
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any

from fcit_ray.runtime.shape import Shape

Piece = tuple[float, float]
"""A piece of work that waits: its urgency, and its size. Of two the larger goes first."""

HELP = -2.0
"""Urgency of a client that is under way: its leader goes on without help, only longer."""
_PATIENCE = 4
"""A run goes first, whatever waits elsewhere, once each worker has been sent past it so many times."""


@dataclass(frozen=True)
class Engagement:
    """One run that a worker may serve, as it is told of it.

    Attributes:
        number: of the engagement.
        driver: handle of the run's driver.
        context: `config` (plain mapping) and `folder` (path of the run folder).
        worker: number of this worker among all that serve the run.
    """

    number: int
    driver: Any
    context: Mapping[str, Any]
    worker: int


class Dismissed:
    """A worker's crew is wanted no more."""


@dataclass(eq=False)
class _Run:
    number: int
    driver: Any
    context: Mapping[str, Any]
    shape: Shape
    base: Hashable
    hires: bool = True
    passed: int = 0
    waiting: list[Piece] = field(default_factory=list)
    served_by: set[int] = field(default_factory=set)


@dataclass(eq=False)
class _Worker:
    number: int
    serves: _Run | None = None
    base: Hashable = None


@dataclass(eq=False)
class _Crew:
    shape: Shape
    workers: dict[int, _Worker] = field(default_factory=dict)
    dismissed: bool = False


class Foreman:
    """Between runs that want workers (`engage`), crews that serve them (`next`), and who hires (`wanted`).

    Args:
        most: crews at a time.
    """

    def __init__(self, most: int):
        self._most = most
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._crews: dict[int, _Crew] = {}
        self._runs: dict[int, _Run] = {}
        self._finished = False

    # What a run calls.

    def engage(self, shape: Shape, context: Mapping[str, Any], driver: Any, base: Hashable = None) -> int:
        """Ask for workers.

        Args:
            shape: of the crew that is hired for the run, unless there are enough workers of that kind.
            context: what workers are told.
            driver: handle of the run's driver.
            base: what its base is loaded by; a worker that has another in hand goes to runs of that one first.

        Returns:
            The number of the engagement.
        """
        with self._telling():
            number = next(self._numbers)
            self._runs[number] = _Run(number, driver, context, shape, base)
            return number

    def tell(self, number: int, waiting: Sequence[Piece]) -> None:
        """What a run has waiting now, the largest first."""
        with self._telling():
            if run := self._runs.get(number):
                run.waiting = list(waiting)
                run.passed = run.passed if run.waiting else 0

    def end(self, number: int) -> None:
        """A run is over, or its driver gone."""
        with self._telling():
            self._runs.pop(number, None)

    # What a worker calls.

    def next(self, crew: int, rank: int, timeout_s: float) -> Engagement | Dismissed | None:
        """The run that a worker is to ask for a piece of work; None if none has any within the time.

        A worker that asks has nothing in hand. `Dismissed` tells it to go.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                known = self._crews.get(crew)
                if known is None or self._goes(known):
                    return Dismissed()
                if rank not in known.workers:
                    known.workers[rank] = _Worker(next(self._numbers))
                worker = known.workers[rank]
                worker.serves = None
                if (run := self._choose(worker, known.shape)) is not None:
                    return self._send(worker, run)
                if (left := deadline - time.monotonic()) <= 0:
                    return None
                self._changed.wait(left)

    def is_dismissed(self, crew: int) -> bool:
        """Whether `next` would tell a crew's workers to go."""
        with self._changed:
            return crew not in self._crews or self._goes(self._crews[crew])

    def lost(self, crew: int, ranks: Sequence[int]) -> None:
        """Workers of a crew have died; others take their place."""
        with self._telling():
            known = self._crews.get(crew)
            lost = [known.workers.pop(rank) for rank in ranks if rank in known.workers] if known else []
            self._lose(lost)

    # What whoever hires crews calls.

    def wanted(self) -> list[tuple[int, Shape]]:
        """Crews to start, by number: for runs that lack workers. One of another kind may have to go first."""
        with self._telling():
            hired = []
            for run in [run for run in self._runs.values() if run.hires]:
                alike = [crew for crew in self._crews.values() if crew.shape.kind == run.shape.kind]
                needed = sum(
                    each.shape.num_workers for each in self._runs.values() if each.shape.kind == run.shape.kind
                )
                if sum(crew.shape.num_workers for crew in alike if not crew.dismissed) >= needed:
                    run.hires = False
                elif len(self._crews) < self._most:
                    number = next(self._numbers)
                    self._crews[number] = _Crew(run.shape)
                    hired.append((number, run.shape))
                    run.hires = False
                elif any(not crew.dismissed for crew in alike):
                    run.hires = False  # it shares those there are
                else:
                    self._dismiss_one_for(run)
            return hired

    def gone(self, crew: int, reason: str) -> None:
        """A crew has ended. Runs that have no other fail for its reason."""
        with self._telling():
            known = self._crews.pop(crew, None)
            if known is None:
                return
            self._lose(known.workers.values(), count=False)
            kind = known.shape.kind
            if known.dismissed or any(other.shape.kind == kind for other in self._crews.values()):
                return
            for run in self._runs.values():
                if run.shape.kind == kind and not run.hires:
                    run.driver.fail.remote(reason)

    def finish(self) -> None:
        """No more runs will come: all crews may go."""
        with self._telling():
            self._finished = True

    # Within.

    def _goes(self, crew: _Crew) -> bool:
        return self._finished or crew.dismissed

    def _choose(self, worker: _Worker, shape: Shape) -> _Run | None:
        runs = [run for run in self._runs.values() if run.shape.kind == shape.kind and run.waiting]
        if worker.base is not None and any(run.base == worker.base for run in self._runs.values()):
            # Another base is dear to load, and so is this one again: a worker changes to one that nobody has in hand.
            here = {each.base for crew in self._crews.values() for each in crew.workers.values()}
            runs = [run for run in runs if run.base == worker.base or run.base not in here]
        num_workers = sum(len(crew.workers) for crew in self._crews.values())
        late = [run for run in runs if run.passed >= _PATIENCE * num_workers]
        # Of equals the earlier run: its successor fills the gaps.
        return max(late or runs, key=lambda run: (run.passed if late else 0, run.waiting[0], -run.number), default=None)

    def _send(self, worker: _Worker, run: _Run) -> Engagement:
        run.waiting.pop(0)  # by another until the run tells anew
        run.passed = 0
        for other in self._runs.values():
            waits = bool(other.waiting) and other.waiting[0] > (HELP, inf)  # nobody is kept from anything but help
            other.passed += other is not run and waits and other.shape.kind == run.shape.kind
        worker.serves, worker.base = run, run.base
        run.served_by.add(worker.number)
        return Engagement(run.number, run.driver, run.context, worker.number)

    def _lose(self, workers: Iterable[_Worker], count: bool = True) -> None:
        """Tell every run that these workers have served: a result may still have been on its way.

        Deaths count against the run that they served last.
        """
        serves = {worker.number: worker.serves for worker in workers}
        for run in self._runs.values():
            if lost := sorted(run.served_by & serves.keys()):
                run.served_by -= serves.keys()
                run.driver.lost.remote(lost, [number for number in lost if count and serves[number] is run])

    def _dismiss_one_for(self, run: _Run) -> None:
        """Send away a crew of another kind, if one has no run left to serve."""
        kinds = {each.shape.kind for each in self._runs.values() if each is not run}
        idle = [crew for crew in self._crews.values() if not crew.dismissed and crew.shape.kind not in kinds]
        going = [crew for crew in self._crews.values() if crew.dismissed]
        if idle and not going:
            idle[0].dismissed = True

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()
