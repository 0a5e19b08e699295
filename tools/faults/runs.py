"""A command in processes of its own: what it says, what it leaves, and how it ends."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tools.faults.rows import Wrong

WAIT_S = 300.0
"""For a condition that must come; long, as the machine may be busy with other things."""
LEFT_S = 5.0
"""After the end, by when nothing may be left."""


def until(condition: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """Wait for a condition; returns what it gives."""
    deadline = time.monotonic() + wait_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise Wrong(f"waited {wait_s:.0f} s in vain for {what}")
        time.sleep(0.02)
    return found


def of_ours(mark: str) -> list[psutil.Process]:
    """Processes that name a path in their arguments, or write into it: Ray's workers do that only."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            targets = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (1, 2)]
            if any(mark in text for text in [*process.cmdline(), *targets]):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile
    return found


class Command:
    """One command that was started.

    Args:
        arguments: the command line.
        folder: where its output goes.
        environment: of it.
        mark: a path of which its processes, and no others, know: Ray's own folder of the row.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], mark: str):
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("said-*.txt")))
        self.file = folder / f"said-{number}.txt"
        self.mark = mark
        self.began = time.monotonic()
        with self.file.open("w") as out:
            out.write("$ " + " ".join(arguments) + "\n")
            out.flush()
            self.process = subprocess.Popen(
                arguments, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=dict(environment), cwd=folder, start_new_session=True,
            )  # fmt: skip
        self.took_s = 0.0

    @property
    def said(self) -> str:
        return self.file.read_text(errors="replace")

    def line(self, pattern: str, wait_s: float = WAIT_S) -> None:
        """Wait until it has said something."""
        until(
            lambda: re.search(pattern, self.said) or self._gone(f"before it said {pattern!r}"), f"{pattern!r}", wait_s
        )

    def titled(self, *names: str) -> list[psutil.Process]:
        """Its processes of these titles, which Ray gives its workers."""
        found = []
        for process in of_ours(self.mark):
            try:
                if any(f"ray::{name}" in " ".join(process.cmdline()[:1]) for name in names):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def some(self, *names: str) -> list[psutil.Process]:
        """The same, waited for."""
        return list(until(lambda: self.titled(*names) or self._gone(f"before there was {names}"), f"{names}"))

    def send(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def end(self, wait_s: float = WAIT_S) -> int:
        """Wait for the end; returns the exit code, negative for a signal."""
        try:
            code = self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.destroy()
            raise Wrong(f"not over after {wait_s:.0f} s; the last it said: {self.last}") from None
        self.took_s = time.monotonic() - self.began
        return code

    @property
    def last(self) -> str:
        """The last line that says how it ended; of a run that went well what failed in it, or its last scores."""
        lines = [line.strip() for line in self.said.splitlines()[1:] if line.strip()]
        ends = r"(error|the run failed|interrupted|failed)"
        for pattern in (ends, r".*(is tried again|goes on without it)", r"\S+ +scores after"):
            if telling := [line for line in lines if re.match(pattern, line)]:
                return telling[-1]
        return (lines or [""])[-1]

    def left(self) -> list[str]:
        """What is there still, 5 s after the end."""
        deadline = time.monotonic() + LEFT_S
        while (there := of_ours(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = []
        for process in there:
            try:
                names.append(" ".join(process.cmdline())[:80])
            except psutil.Error:
                continue
        return names

    def destroy(self) -> None:
        """All of its processes."""
        for process in of_ours(self.mark):
            try:
                process.kill()
            except psutil.Error:
                continue
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _gone(self, when: str) -> bool:
        if (code := self.process.poll()) is not None:
            raise Wrong(f"it ended with {code} {when}; the last it said: {self.last}")
        return False
