"""Who serves which run: worker groups outlive their runs, and the next run of the same shape takes one over.

Plain threads and no Ray, so that tests can lose crews at will; it becomes an actor by one expression in `crew.py`.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fcit_ray.runtime.shape import Shape, too_many_deaths


@dataclass(frozen=True)
class Engagement:
    """One run that a crew serves, as a worker is told of it.

    Attributes:
        number: of the engagement.
        driver: handle of the run's driver.
        context: `config` (plain mapping) and `folder` (path of the run folder).
    """

    number: int
    driver: Any
    context: Mapping[str, Any]


class Dismissed:
    """A worker's crew is wanted no more."""


@dataclass
class _Engaged:
    engagement: Engagement
    shape: Shape
    most_deaths: int
    deaths: int = 0
    left: set[int] = field(default_factory=set)
    crew: int | None = None
    over: bool = False


@dataclass
class _Crew:
    shape: Shape
    serves: _Engaged | None = None
    dismissed: bool = False


class Foreman:
    """Between runs that want workers (`engage`), crews that serve them (`next`, `left`), and who hires (`wanted`).

    Args:
        most: crews at a time.
    """

    def __init__(self, most: int):
        self._most = most
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._crews: dict[int, _Crew] = {}
        self._waiting: list[_Engaged] = []
        self._engaged: dict[int, _Engaged] = {}
        self._finished = False

    # What a run calls.

    def engage(self, shape: Shape, context: Mapping[str, Any], driver: Any, most_deaths: int) -> int:
        """Ask for a crew.

        Args:
            shape: of the crew.
            context: what its workers are told.
            driver: handle of the run's driver.
            most_deaths: times that workers may die before the run fails.

        Returns:
            The number of the engagement.
        """
        with self._changed:
            number = next(self._numbers)
            engaged = _Engaged(Engagement(number, driver, context), shape, most_deaths)
            self._engaged[number] = engaged
            self._waiting.append(engaged)
            self._assign()
            return number

    def over(self, number: int, timeout_s: float) -> bool:
        """Whether all workers have left an engagement; waits so long for it."""
        with self._changed:
            engaged = self._engaged[number]
            self._changed.wait_for(lambda: engaged.over, timeout_s)
            return engaged.over

    # What a crew calls.

    def next(self, crew: int, rank: int, timeout_s: float) -> Engagement | Dismissed | None:
        """What a worker is to serve; `Dismissed` if its crew is, None if there was nothing within the time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                known = self._crews.get(crew)
                if self._finished or known is None or known.dismissed:
                    return Dismissed()
                if known.serves is not None and rank not in known.serves.left:
                    return known.serves.engagement
                if (left := deadline - time.monotonic()) <= 0:
                    return None
                self._changed.wait(left)

    def left(self, crew: int, rank: int, number: int) -> None:
        """A worker is done with an engagement, or has found its driver gone."""
        with self._telling():
            known, engaged = self._crews[crew], self._engaged[number]
            engaged.left.add(rank)
            if len(engaged.left) == known.shape.num_workers and known.serves is engaged:
                engaged.over, known.serves = True, None
                self._assign()

    def lost(self, crew: int, ranks: Sequence[int]) -> None:
        """Workers of a crew have died; others take their place."""
        with self._telling():
            known = self._crews.get(crew)
            if known is None or known.serves is None:
                return
            engaged, driver = known.serves, known.serves.engagement.driver
            engaged.deaths += 1
            if engaged.deaths > engaged.most_deaths:
                driver.fail.remote(too_many_deaths(engaged.most_deaths, ranks))
            else:
                driver.lost.remote(list(ranks))

    # What whoever hires crews calls.

    def wanted(self) -> list[tuple[int, Shape]]:
        """Crews to start, by number: for runs that none is free for. One of another shape may have to go first."""
        with self._telling():
            hired = []
            for engaged in list(self._waiting):
                if len(self._crews) < self._most:
                    number = next(self._numbers)
                    self._crews[number] = _Crew(engaged.shape)
                    hired.append((number, engaged.shape))
                    self._assign()
                elif idle := [crew for crew in self._crews.values() if crew.serves is None and not crew.dismissed]:
                    idle[0].dismissed = True
            return hired

    def gone(self, crew: int, reason: str) -> None:
        """A crew has ended."""
        with self._telling():
            known = self._crews.pop(crew, None)
            if known is not None and known.serves is not None:
                known.serves.over = True
                known.serves.engagement.driver.fail.remote(reason)

    def finish(self) -> None:
        """No more runs will come: all crews may go."""
        with self._telling():
            self._finished = True

    def _assign(self) -> None:
        """Give the runs that wait, in their order, the crews that are free."""
        for engaged in list(self._waiting):
            for number, crew in self._crews.items():
                if crew.serves is None and not crew.dismissed and crew.shape == engaged.shape:
                    crew.serves, engaged.crew = engaged, number
                    self._waiting.remove(engaged)
                    break
        self._changed.notify_all()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()
