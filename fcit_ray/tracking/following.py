"""Follow a run's records while another process writes them, and hand them to trackers.

The records are on the disk before anybody is told, and whoever fell behind is told the rest: a kill, a server that is
away and a run that is resumed lose nothing. Each tracker has a thread of its own in the process that launched the run,
where its credentials are; no tracker can hold the run up, or end it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from fcit_ray.config.schema import Config
from fcit_ray.results.cover import flat
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.storage.location import redact
from fcit_ray.tracking.choose import make_tracker
from fcit_ray.tracking.memory import Memory
from fcit_ray.tracking.points import end_of, points_of
from fcit_ray.tracking.tracker import Outcome, TrackedRun, Tracker

_POLL_S = 1.0
_RETRY_S, _LONGEST_RETRY_S = 15.0, 300.0
END_S = 60.0
"""How long the end of a run waits for trackers; its own results are on the disk by then."""
_LEAVE_S = 15.0  # the same where it did not finish: whoever pressed Ctrl-C wants to go


class Following:
    """The trackers of one run's session, from its opened folder to its results and report; a context manager.

    Args:
        config: of the run; without trackers nothing happens.
        folder: of the run, opened.
        group: runs that belong together; `tracking.group` goes before it.
        tell: takes a line for the user.
        end_s: how long the end waits for trackers.
    """

    def __init__(
        self, config: Config, folder: RunFolder, tell: Callable[[str], None], group: str = "", end_s: float = END_S
    ):
        self._folder = folder
        self._tell = tell
        self._end_s = end_s
        values = config.model_dump(mode="json")
        run = TrackedRun(
            name=f"{config.name}-seed{config.seed}",
            group=config.tracking.group or group,
            project=config.tracking.project,
            folder=folder.path.absolute(),
            config=values,
            flat=flat(values),
        )
        self._followers = [_Follower(name, config, run, folder, tell) for name in config.tracking.report_to]

    def __enter__(self) -> Self:
        for follower in self._followers:
            follower.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome: Outcome = "finished" if self._folder.finished and kind is None else "failed"
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            outcome = "interrupted"
        for follower in self._followers:
            follower.stop(outcome)
        end_s = self._end_s if outcome == "finished" else min(self._end_s, _LEAVE_S)
        deadline = time.monotonic() + end_s
        for follower in self._followers:
            follower.join(max(0.0, deadline - time.monotonic()))
            follower.abandon()
            if missing := follower.missing(end_s):
                self._tell(missing)


def not_told(runs: Mapping[Path, Config]) -> list[str]:
    """What the trackers of these runs were not told in their last session, a line for each run and tracker.

    Args:
        runs: configurations by run folder.
    """
    return [
        f"{folder}: {missing}"
        for folder, config in runs.items()
        for name in config.tracking.report_to
        if (missing := Memory(folder, name).missing)
    ]


class _Follower(threading.Thread):
    """One tracker's thread."""

    def __init__(self, name: str, config: Config, run: TrackedRun, folder: RunFolder, tell: Callable[[str], None]):
        super().__init__(name=f"tracking {name}", daemon=True)
        self._tracker_name, self._config, self._run, self._folder, self._tell = name, config, run, folder, tell
        self._memory = Memory(folder.path, name)
        self._tracker: Tracker | None = None
        self._outcome: Outcome | None = None
        self._stopped = threading.Event()
        self._next = 0
        self._seen: tuple[int, int] | None = None
        self._abandoned = False
        self._earlier: _Follower | None = None
        self._reason = ""
        self._told = False
        self._retry_s, self._retry_at = _RETRY_S, 0.0

    def begin(self) -> None:
        """Start; but nothing is told before an earlier session of this process, if one hangs yet, has let go."""
        key = (self._run.folder, self._tracker_name)
        self._earlier = _begun.get(key)
        _begun[key] = self
        self.start()

    def abandon(self) -> None:
        """Nobody waits any more: tell nothing after the call that is under way, or a resumed run would tell it too."""
        self._abandoned = True

    def stop(self, outcome: Outcome) -> None:
        """The session is over: hand over what there is, and end."""
        self._outcome = outcome
        self._stopped.set()

    def missing(self, waited_s: float) -> str:
        """What was not handed over, for the user, once the thread has ended or was waited for; empty if all was."""
        memory = self._memory
        try:
            total = len(points_of(self._folder.metrics_file, self._config))
            lost = max(total - memory.done, 0)
            parts = [f"{lost} of {total} records"] if lost else []
            if self._folder.finished and not memory.finished:
                parts.append("the final figures and files")
            reason = self._reason or f"no answer within {waited_s:g} s"
            what = " and ".join(parts)
            said = f"{self._tracker_name} was not told {what}: {reason}; --resume makes up for it" if parts else ""
            memory.tell(missing=said)
        except (OSError, ValueError) as error:  # the run itself is over, whatever has become of the files
            return f"{self._tracker_name}: what it was told is not known: {error}"
        return said

    def run(self) -> None:
        if self._earlier is not None:
            self._earlier.join()
            self._earlier = None
        while True:
            last = self._stopped.wait(_POLL_S)
            if last or time.monotonic() >= self._retry_at:
                try:
                    self._hand_over(self._outcome if last else None)
                    self._retry_s, self._reason = _RETRY_S, ""
                except Exception as error:  # whatever a tracker, its package or its server meets
                    self._fail(error)
            if last:
                return

    def _hand_over(self, outcome: Outcome | None) -> None:
        """Tell what there is, and with an outcome the end of the session, all of whose records are there by then."""
        seen = self._signature()
        if outcome is None and seen == self._seen:
            return
        points = points_of(self._folder.metrics_file, self._config)
        complete = self._memory.finished and self._memory.done >= len(points)
        if self._tracker is None:
            if complete or not points:
                return  # a finished run is only read again; one that failed at once is no run
            tracker = make_tracker(self._tracker_name, self._config.tracking)
            self._next = tracker.start(self._run, self._memory, points)
            self._tracker = tracker
            if tracker.where:
                self._tell(f"{self._tracker_name}: {tracker.where}")
        for point in points[self._next :]:
            if self._abandoned:
                return
            self._tracker.log(point)
            self._next = point.index + 1
            self._memory.tell(done=self._next, finished=False)
        if outcome is not None and not self._abandoned:
            if outcome == "finished":
                self._tracker.finish(end_of(self._folder, points))
            self._tracker.close(outcome)
            if outcome == "finished":
                self._memory.tell(done=self._next, finished=True)
        self._seen = seen

    def _signature(self) -> tuple[int, int]:
        """Changes whenever the records do."""
        self._folder.refresh_records()
        try:
            found = self._folder.metrics_file.stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_size)

    def _fail(self, error: Exception) -> None:
        lines = str(error).strip().splitlines() or [repr(error)]
        self._reason = redact(lines[0])[:200]
        if not self._told and self._outcome is None:
            self._told = True
            self._tell(f"{self._tracker_name}: {self._reason}; the run goes on, and it is told later what it missed")
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)


_begun: dict[tuple[Path, str], _Follower] = {}  # the latest of every run folder and tracker in this process
