"""Where a run stands, for the display: what it does now, and every line that there has been to tell of it."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fcit_ray.runtime.status import Line, Status, describe

_KEPT = 50
"""Lines that travel with a status; the display asks about four times a second."""


class Standing:
    """The status of one run; whoever changes it need not know who looks.

    Args:
        label: name of the run.
        num_stages: 0 if it has none.
    """

    def __init__(self, label: str, num_stages: int):
        self._status = Status(label=label, phase="preparing", num_stages=num_stages)
        self._lines: list[Line] = []
        self._num_lines = 0
        self._since = time.monotonic()
        self._clock = _Clock()
        self._tell(describe(self._status))

    @property
    def now(self) -> Status:
        """The status as it was last shown, without how far the work is."""
        return self._status

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self._since

    def show(self, seconds_left: float | None = None, **changes: Any) -> None:
        """Change the status; a new phase, stage or round, or a message, is a line too."""
        before, self._status = self._status, replace(self._status, **changes)
        if _place(before) != _place(self._status):
            self._since = time.monotonic()
            if self._status.phase != "preparing":
                self._tell(describe(replace(self._status, seconds_left=seconds_left)))
        elif self._status.message and before.message != self._status.message:
            self._tell(describe(self._status))

    def scores(self, stage: int, scores: Mapping[str, float], unseen: Mapping[str, float]) -> None:
        """What an evaluation has come to, by task and by dataset that nobody trained on; -1 is zero-shot."""
        place = "zero-shot" if stage < 0 else f"after stage {stage + 1}/{self._status.num_stages}"
        text = f"{self._status.label}  scores {place}: {_figures(scores)}; mean {_mean(scores):.1f}"
        self._tell(text + (f"; unseen: {_figures(unseen)}" if unseen else ""), lasting=True)

    def warn(self, text: str) -> None:
        """Say something that is true whatever comes next."""
        self._tell(f"{self._status.label}  {text}", lasting=True)

    def note(self, text: str) -> None:
        """Say something that the figures of a terminal tell as well."""
        self._tell(f"{self._status.label}  {text}")

    def behind(self, stage: int, count: int) -> None:
        """So many questions of a stage are answered behind the rounds that follow."""
        place = f"stage {stage + 1}/{self._status.num_stages}"
        self.note(f"answering {place} behind the next rounds: {count} records")

    def took(self, kind: str, seconds: float, units: float) -> None:
        """So many units of a kind of work have taken so long."""
        self._clock.add(kind, seconds, units)

    def estimate(self, left: Mapping[str, float], under_way: tuple[str, float]) -> float | None:
        """Seconds for so many units of each kind, by their mean so far.

        Args:
            left: units by kind.
            under_way: the kind that is being worked on, and how many units of it are done in this phase: an estimate
                where none has been finished yet.
        """
        kind, units = under_way
        return self._clock.estimate(left, {kind: (self.seconds, units)} if units else {})

    def status(self, **progress: Any) -> Status:
        """The status to show, with how far the work is."""
        return replace(self._status, lines=tuple(self._lines), num_lines=self._num_lines, **progress)

    def _tell(self, text: str, lasting: bool = False) -> None:
        self._lines = [*self._lines, Line(text, lasting)][-_KEPT:]
        self._num_lines += 1


class _Clock:
    """Mean seconds per unit of each kind of work done so far."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._units: dict[str, float] = {}

    def add(self, kind: str, seconds: float, units: float) -> None:
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._units[kind] = self._units.get(kind, 0.0) + units

    def estimate(self, left: Mapping[str, float], first: Mapping[str, tuple[float, float]]) -> float | None:
        """`first`: seconds and units of what is under way, where nothing of its kind is done."""
        total = 0.0
        for kind, units in left.items():
            if not units:
                continue
            if self._units.get(kind):
                total += units * self._seconds[kind] / self._units[kind]
            elif kind in first:
                seconds, done = first[kind]
                total += units * seconds / done
            else:
                return None
        return total


def _place(status: Status) -> tuple[Any, ...]:
    return (status.phase, status.stage, status.round, status.task)


def _figures(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {score:.1f}" for name, score in scores.items())


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores) if scores else math.nan
