"""Ray's start beside that of this process, and its end without what is waited for in vain."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from fcit_ray import signals
from fcit_ray.errors import RunFailed
from fcit_ray.importing import swift_imports

with swift_imports():
    # All of it, as Ray's parts import each other in circles: two threads that import them meet in the middle.
    import ray.data
    import ray.train

from fcit_ray.runtime.cluster import connect, inside_ray, start_ray

START_S = 300.0  # for Ray's start, or for joining a cluster
_HOLD_S = 1.0
_END_S = 10.0


class RayBeside:
    """Starts Ray, or joins it, in a thread while this process imports and checks; a context manager.

    Where the block ends by an error the cluster is left again, or ended if it was started here.
    """

    def __init__(self) -> None:
        with _changing:  # a start of before, which its caller wants no more, is over then
            self._was_there = ray.is_initialized()
        self._unwanted = threading.Event()
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start, daemon=True)

    def ready(self, log_file: Path) -> None:
        """Wait until Ray is there; its loggers write to `log_file` from then on.

        Raises:
            RunFailed: as `start_ray`, or it takes longer than `START_S`.
        """
        began = time.monotonic()
        while not self._done.wait(0.1):  # in pieces, so that Ctrl-C is heard
            if time.monotonic() - began >= START_S:
                raise RunFailed(
                    f"Ray has not started, or could not be joined, within {START_S:g} s; its logs lie in the newest "
                    "session folder (by default below /tmp/ray)"
                )
        if self._error is not None:
            raise self._error
        start_ray(log_file)

    def leave(self) -> None:
        """Begin to leave the cluster, or to end it if it was started here; `stop_ray` waits until that is done."""
        threading.Thread(target=stop_ray).start()

    def __enter__(self) -> Self:
        if not self._was_there:
            self._thread.start()
        else:
            self._done.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._was_there:
            return
        self._unwanted.set()
        if self._done.is_set():  # else the thread ends what it starts: the error need not wait for that
            stop_ray()

    def _start(self) -> None:
        with _changing:
            try:
                if not self._unwanted.is_set():
                    _connecting.set()
                    connect()
                    _ours.set()
            except BaseException as error:
                self._error = error
            _connecting.clear()
            self._done.set()
            if self._unwanted.is_set():
                _stop()
        # Ray's processes ask Linux to be killed with the thread that started them, not with the process; and at the end
        # they take a while to end theirs, which they would leave behind.
        while ray.is_initialized():
            time.sleep(_HOLD_S)
        time.sleep(_END_S)


def start(log_file: Path) -> None:
    """As `start_ray`, for a command that has nothing to do meanwhile: signals are heeded while Ray starts.

    In the main thread Ray would put a handler of its own in place of ours, which ends the process without a word.

    Raises:
        RunFailed: as `start_ray`.
    """
    RayBeside().__enter__().ready(log_file)  # left, or ended, at the end of the process by `stop_ray`


_changing = threading.Lock()
"""Held by who starts Ray or ends it: two at a time would take this process with them."""
_connecting = threading.Event()
_ours = threading.Event()  # it was a `RayBeside` that connected this process, not whoever called


def stop_ray() -> None:
    """Leave the cluster that `RayBeside` has joined; one that it has started ends."""
    if _connecting.is_set():
        return  # nobody waited for it, and nobody will: the thread ends what it starts, or the end of the process does
    with _changing:
        _stop()


def _stop() -> None:
    if not _ours.is_set() or not ray.is_initialized():
        return
    if signals.came():
        # Threads of runs that were given up may be asking Ray, which ends a process that asks after the shutdown: at
        # once, with 1 and without a word. The end of the process is near, and what Ray has here ends with it.
        return
    _ours.clear()
    # It takes no notice of SIGTERM, and Ray waits a second before it kills it.
    if callable(end := getattr(inside_ray("worker", "_global_node"), "kill_monitor", None)):
        end(check_alive=False)
    ray.shutdown()
