"""Work on many pieces in several processes, with results in the order of the pieces."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fcit_ray.errors import UserError

Progress = Callable[[str, int, int], None]
"""Told the step, how much of it is done, and how much there is."""

_Job = TypeVar("_Job")
_Found = TypeVar("_Found")


class Processes:
    """Runs jobs in processes of their own, or in this one; results come in the order of the jobs either way."""

    def __init__(self, jobs: int):
        # Spawned: a fork would copy whatever threads the caller has. Started only if there is something to share out.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, context, _leave_interrupts_to_the_parent) if jobs > 1 else None

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, work: Callable[[_Job], _Found], jobs: Sequence[_Job], step: str, progress: Progress) -> list[_Found]:
        progress(step, 0, len(jobs))
        if not self._pool:
            return [_told(work(job), step, done, len(jobs), progress) for done, job in enumerate(jobs, 1)]
        futures = [self._pool.submit(work, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()  # the first failure ends the check
                progress(step, done, len(jobs))
        except BrokenProcessPool as error:
            raise UserError(f"a process that looked at {step} died, as for want of memory; try fewer --jobs") from error
        return [future.result() for future in futures]


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _told(result: _Found, step: str, done: int, total: int, progress: Progress) -> _Found:
    progress(step, done, total)
    return result


def usable_cpus() -> int:
    """Processes that make sense here."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
