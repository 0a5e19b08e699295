"""What a process has started, and what of it lives on after it: by descent, looked at while somebody can be asked."""

import time
from collections.abc import Callable

import psutil


class Descent:
    """All processes that descend from one, as far as they were seen.

    Args:
        pid: of the process; it does not count itself.
    """

    def __init__(self, pid: int):
        self._seen: dict[int, psutil.Process] = {}
        self._roots = [psutil.Process(pid)]

    def look(self) -> None:
        """See who is there now; to be called while the process lives, and again as it ends."""
        for process in [*self._roots, *self._seen.values()]:
            try:
                for child in process.children(recursive=True):
                    self._seen.setdefault(child.pid, child)
            except psutil.Error:
                continue  # gone meanwhile

    def left(self) -> list[str]:
        """Title and id of those that live."""
        return [line for process in list(self._seen.values()) if (line := _line(process))]

    def left_after(self, seconds: float) -> list[str]:
        """The same when so many seconds have passed, or as soon as there are none."""
        deadline = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < deadline:
            self.look()
            time.sleep(0.1)
        return left

    def wait_for(self, happens: Callable[[], bool], timeout_s: float) -> None:
        """Look until something happens."""
        deadline = time.monotonic() + timeout_s
        while not happens():
            assert time.monotonic() < deadline, f"nothing happened in {timeout_s:g} s; there are {self.left()}"
            self.look()
            time.sleep(0.1)
        self.look()


def _line(process: psutil.Process) -> str:
    try:
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return f"{process.pid} {' '.join(process.cmdline())[:80]}" if alive else ""
    except psutil.Error:
        return ""
