"""How many questions are answered, while they are: a line redrawn in a terminal, a plain one now and then elsewhere."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fcit_ray.cli.common import tell

_EVERY_S = 30.0


class Counting:
    """Shows how far it is on standard error; a context manager, for it must give the terminal back.

    Args:
        total: questions in all.
        before: of them, answered by an earlier process.
    """

    def __init__(self, total: int, before: int = 0):
        self._total, self._done, self._failed = total, min(before, total), 0
        self._before = self._done
        self._began = self._told = time.monotonic()
        columns = TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}")
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=total, completed=self._done, more="")
        self._live = self._progress.console.is_terminal

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        if self._before:
            tell(f"{self._before} of {self._total} questions were answered before")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """So many lines more are written."""
        self._done += len(lines)
        self._failed += sum("error" in line for line in lines)
        now = time.monotonic()
        more = f"{self._failed} failed" if self._failed else ""
        self._progress.update(self._task, completed=self._done, more=more)
        if not self._live and now - self._told >= _EVERY_S:
            self._told = now
            speed = (self._done - self._before) / (now - self._began)
            tell(f"{self._done} of {self._total} questions, {speed:.1f} a second{', ' if more else ''}{more}")
