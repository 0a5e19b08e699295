"""What the user sees while a run is under way: two calm lines in a terminal, plain lines in a file."""

import sys
import threading
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fcit_ray.runtime.status import Status, describe, figures_of, place_of, printable


class Display:
    """Shows the status of a run, or of several; a context manager, as it must give the terminal back whatever happens.

    In a terminal two lines a run are redrawn in place and vanish at its end, leaving the scores of every evaluation and
    a line that says how it ended; what other code prints meanwhile scrolls by above. Elsewhere (file, pipe, dumb
    terminal) plain lines are written: those of the status, or, where it brings none, one whenever the phase, the stage
    or the round changes; no colours, no control characters, no time.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show nothing yet; `console` is standard error by default, so that standard output stays the results'."""
        self._console = console or Console(stderr=True)
        self._statuses: dict[str, Status] = {}  # by run
        self._live: Live | None = None
        self._lock = threading.Lock()

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
        for status in self._statuses.values():
            interrupted = "interrupted: " if error is not None and status.phase not in ("done", "failed") else ""
            self._write(interrupted + describe(replace(status, seconds_left=None)))

    def update(self, status: Status, run: str = "") -> None:
        """Show a new status of a run; cheap enough to be called at every change, and from any thread."""
        with self._lock:
            before = self._statuses.get(run)
            self._statuses[run] = status
            new = status.num_lines - (before.num_lines if before else 0)
            for line in status.lines[-new:] if new > 0 else ():
                if self._live is None or line.lasting:
                    self._write(line.text)
            if self._live is None and not status.num_lines and (before is None or _key(before) != _key(status)):
                self._write(describe(status))

    def end(self, run: str, failed: bool = False) -> None:
        """A run of several is over: its lines go, and one stays that says how it ended."""
        with self._lock:
            status = self._statuses.pop(run, None)
            if status is not None and self._live is not None:
                self._write(describe(replace(status, seconds_left=None, phase="failed" if failed else status.phase)))

    def note(self, text: str) -> None:
        """Leave a line behind, above what is redrawn."""
        self._write(text)

    def _write(self, text: str) -> None:
        lines = [printable(line) for line in text.splitlines()]
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
        with self._lock:
            statuses = list(self._statuses.values())
        return Group(*(_two_lines(status) for status in statuses)) if statuses else Text("")


def _two_lines(status: Status) -> RenderableType:
    first = Text(no_wrap=True, overflow="ellipsis")
    first.append(printable(status.label), style="bold")
    for part in place_of(status):
        first.append("  ").append(part)
    if status.message:
        first.append("  ").append(printable(status.message), style="dim")
    second = Table.grid(padding=(0, 2, 0, 0), expand=False)
    cells: list[RenderableType] = [Text(status.phase, style="cyan")]
    if status.total:
        cells.append(ProgressBar(total=status.total, completed=min(float(status.done), status.total), width=20))
    cells += [Text(part, no_wrap=True) for part in figures_of(status)]
    second.add_row(*cells)
    return Group(first, second)


def _key(status: Status) -> tuple[object, ...]:
    """What a plain line is written for: not every client, and not every new estimate of the time."""
    return (status.label, status.phase, status.stage, status.round, status.task, status.message)
