"""What the user sees while a run is under way: two calm lines in a terminal, plain lines in a file."""

import math
import sys
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Phase = Literal["preparing", "training", "evaluating", "done", "failed"]


@dataclass(frozen=True)
class Line:
    """One line about a run.

    Attributes:
        text: plain.
        lasting: whether it stays in a terminal too, where others are redrawn in place.
    """

    text: str
    lasting: bool = False


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run stands.

    Attributes:
        label: name of the run.
        phase: what it is doing.
        stage: from 0; shown from 1. -1 is the zero-shot evaluation.
        num_stages: 0 if the run has none.
        task: what the stage teaches, or what is being evaluated; may be empty.
        round: from 0; shown from 1, and only while training.
        num_rounds: in a stage.
        done: clients trained in this round, those in hand by their steps; or records answered.
        total: clients of this round, or records to answer; 0 if not known yet.
        steps: of the client in hand, taken and in all, where the round has but one; (0, 0) elsewhere.
        loss: mean training loss of the last finished round.
        seconds_left: estimate until the end of the run.
        message: anything else, e.g. the reason of a failure.
        lines: what there has been to tell so far, the last of it; every line once it is known, none lost between looks.
        num_lines: how many there have been in all.
    """

    label: str
    phase: Phase
    stage: int = 0
    num_stages: int = 0
    task: str = ""
    round: int = 0
    num_rounds: int = 0
    done: float = 0
    total: int = 0
    steps: tuple[int, int] = (0, 0)
    loss: float | None = None
    seconds_left: float | None = None
    message: str = ""
    lines: tuple["Line", ...] = ()
    num_lines: int = 0


class Display:
    """Shows one run's status; a context manager, for it must give the terminal back whatever happens.

    In a terminal two lines are redrawn in place and vanish at the end, leaving the scores of every evaluation and a
    line that says how it ended; what other code prints meanwhile scrolls by above. Elsewhere (file, pipe, dumb
    terminal) plain lines are written: those of the status, or, where it brings none, one whenever the phase, the stage
    or the round changes; no colours, no control characters, no time.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show nothing yet; `console` is standard error by default, so that standard output stays the results'."""
        self._console = console or Console(stderr=True)
        self._status: Status | None = None
        self._live: Live | None = None
        self._num_lines = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=4,
                transient=True,
                # Prints pass above the lines where they would break them; a redirected stream is left alone.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is None:
            return
        try:
            self._live.stop()
        finally:
            self._live = None
            self._console.show_cursor(True)
        if self._status is not None:
            interrupted = "interrupted: " if error is not None and self._status.phase not in ("done", "failed") else ""
            self._write(interrupted + describe(replace(self._status, seconds_left=None)))

    def update(self, status: Status) -> None:
        """Show a new status; cheap enough to be called at every change."""
        before, self._status = self._status, status
        new = status.num_lines - self._num_lines
        self._num_lines = status.num_lines
        for line in status.lines[-new:] if new > 0 else ():
            if self._live is None or line.lasting:
                self._write(line.text)
        if self._live is None and not status.num_lines and (before is None or _key(before) != _key(status)):
            self._write(describe(status))

    def note(self, text: str) -> None:
        """Leave a line behind, above what is redrawn."""
        self._write(text)

    def _write(self, text: str) -> None:
        lines = [_printable(line) for line in text.splitlines()]
        if self._live is not None:
            for line in lines:
                self._console.print(Text(line))
            return
        # Past rich: it would wrap at 80 columns where there is no terminal.
        encoding = self._console.encoding or "utf-8"
        for line in lines:
            self._console.file.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._console.file.flush()

    def _render(self) -> RenderableType:
        status = self._status
        if status is None:
            return Text("")
        first = Text(no_wrap=True, overflow="ellipsis")
        first.append(_printable(status.label), style="bold")
        for part in _place(status):
            first.append("  ").append(part)
        if status.message:
            first.append("  ").append(_printable(status.message), style="dim")
        second = Table.grid(padding=(0, 2, 0, 0), expand=False)
        cells: list[RenderableType] = [Text(status.phase, style="cyan")]
        if status.total:
            cells.append(ProgressBar(total=status.total, completed=min(float(status.done), status.total), width=20))
        cells += [Text(part, no_wrap=True) for part in _figures(status)]
        second.add_row(*cells)
        return Group(first, second)


def describe(status: Status) -> str:
    """The status as one plain line."""
    parts = [_printable(status.label), status.phase, *_place(status)]
    if status.phase == "training" and status.loss is not None and math.isfinite(status.loss):
        parts.append(f"loss {status.loss:.3f}")
    if status.seconds_left is not None and status.phase not in ("done", "failed"):
        parts.append(f"{duration(status.seconds_left)} left")
    if status.message:
        parts.append(_printable(status.message))
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Two units at most: `45 s`, `12 min`, `3 h 05 min`, `2 d 04 h`."""
    if not math.isfinite(seconds):
        return "unknown time"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def _key(status: Status) -> tuple[object, ...]:
    """What a plain line is written for: not every client, and not every new estimate of the time."""
    return (status.label, status.phase, status.stage, status.round, status.task, status.message)


def _place(status: Status) -> list[str]:
    parts = []
    if status.phase in ("training", "evaluating", "failed") and (status.num_stages or status.stage < 0):
        parts.append("zero-shot" if status.stage < 0 else f"stage {status.stage + 1}/{status.num_stages}")
    if status.task and status.phase != "done":
        parts.append(_printable(status.task))
    if status.phase in ("training", "failed") and status.num_rounds:
        parts.append(f"round {status.round + 1}/{status.num_rounds}")
    return parts


def _figures(status: Status) -> list[str]:
    parts = []
    if status.phase == "training" and status.steps[1]:
        parts.append(f"{status.steps[0]}/{status.steps[1]} steps")
    elif status.total:
        unit = {"training": " clients", "evaluating": " records"}.get(status.phase, "")
        parts.append(f"{int(status.done)}/{status.total}{unit}")
    if status.phase == "training" and status.loss is not None and math.isfinite(status.loss):
        parts.append(f"loss {status.loss:.3f}")
    if status.seconds_left is not None and status.phase not in ("done", "failed"):
        parts.append(f"{duration(status.seconds_left)} left")
    return parts


def _printable(text: str) -> str:
    """Control characters (colours, returns, bells) replaced: names and messages come from elsewhere."""
    return "".join(character if character.isprintable() else " " for character in text)
