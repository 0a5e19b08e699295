"""What a tracker is: told where it stands, then a point a record, then the end. The base of one of your own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fcit_ray.tracking.memory import Memory
from fcit_ray.tracking.points import End, Point

Outcome = Literal["finished", "failed", "interrupted"]
"""How a session of a run ended."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        name: `<name>-seed<seed>`.
        group: runs that belong together, such as a sweep's; empty if there are none.
        project: `tracking.project`.
        folder: the run folder, absolute; a tracker may keep files in a folder of its own there.
        config: the whole configuration, as plain values by section.
        flat: the same by dotted key; values are plain, or lists of such.
    """

    name: str
    group: str
    project: str
    folder: Path
    config: Mapping[str, Any]
    flat: Mapping[str, Any]


class Tracker(ABC):
    """Hands the records of one run on. One object serves one session of one run, from one thread of its own.

    Whatever it raises (but for `check`) is told once and does not touch the run: the same call comes again later, at
    the latest when the run ends, or when the finished run is resumed. So a call may come again for what was handed over
    in part.

    `tracking.report_to: [my_module:MyTracker]` takes a class derived from this one;
    `tracking.options: {my_module:MyTracker: {...}}` are its keyword arguments.
    """

    where: str = ""
    """Where it can be looked at, such as an address; told once when it has started."""

    def check(self) -> None:  # noqa: B027  # nothing to check is a fine answer
        """Look whether it can work at all, before a run starts: packages, credentials; not whether a server answers.

        Raises:
            ConfigError: what is missing, and what to do.
        """

    @abstractmethod
    def start(self, run: TrackedRun, memory: Memory, points: Sequence[Point]) -> int:
        """Begin, or go on with what an earlier session began.

        Args:
            run: the run.
            memory: what this tracker kept in the run folder: `values` of its own, and how many points it was told.
            points: those that there are by now, the ones told before among them; the last of those may be missing,
                as a resumed run may have to make a record again.

        Returns:
            Index of the first point to be told: `memory.done`, or less where what was told is not sure to have arrived,
            or more.
        """

    @abstractmethod
    def log(self, point: Point) -> None:
        """Take one point; they come in order."""

    @abstractmethod
    def finish(self, end: End) -> None:
        """Take what the finished run leaves, after its last point."""

    @abstractmethod
    def close(self, outcome: Outcome) -> None:
        """End the session."""
