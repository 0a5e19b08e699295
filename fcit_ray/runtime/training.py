"""The clients of one round on their way: handed out, tried again, admitted, left out."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.config.failures import Failures
from fcit_ray.data.loading.shards import ShardSource
from fcit_ray.errors import RunFailed, RunFolderError, place
from fcit_ray.federated.failing import Attempt, shortfall, tried
from fcit_ray.federated.federation import Federation
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.arrivals import Arrivals
from fcit_ray.runtime.members import Members
from fcit_ray.runtime.messages import TrainWork
from fcit_ray.runtime.pieces import Failed
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.work_queue import WorkQueue
from fcit_ray.types import ClientJob, ClientUpdate


@dataclass(frozen=True)
class Trained:
    """What came of a round's clients.

    Attributes:
        updates: those that came, in the order of the plan.
        missing: indices of the clients that were left out.
        failures: as the round's record has them, of clients of which at least one attempt failed.
    """

    updates: list[ClientUpdate]
    missing: tuple[int, ...]
    failures: list[dict[str, Any]]


class Training:
    """Has rounds trained, one at a time.

    Args:
        federation: of the run.
        failures: what becomes of clients whose attempts fail.
        queue: the workers' work.
        folder: the run's, for its disk.
        shards: where the clients' records come from.
        members: which parameters the workers do not train.
        standing: told of attempts that fail.
    """

    def __init__(
        self,
        federation: Federation,
        failures: Failures,
        queue: WorkQueue,
        folder: RunFolder,
        shards: ShardSource,
        members: Members,
        standing: Standing,
    ):
        self._federation = federation
        self._failures = failures
        self._queue = queue
        self._folder = folder
        self._shards = shards
        self._members = members
        self._standing = standing
        self._lock = threading.Lock()
        self._open: tuple[dict[tuple[int, int, int], ClientJob], Arrivals] | None = None
        self._missing: dict[int, tuple[Attempt, ...]] = {}

    def run(
        self, works: Sequence[TrainWork], jobs: Sequence[ClientJob], arrivals: Arrivals, tasks: Sequence[str]
    ) -> Trained:
        """One round.

        Args:
            works: for the workers.
            jobs: complete, in the order of the plan.
            arrivals: where updates go.
            tasks: names, by index.

        Raises:
            RunFailed: a client failed too often and may not be left out, or too many have been; or what no worker
                escapes.
        """
        planned = {job.key: job for job in jobs}
        with self._lock:
            self._open, self._missing = (planned, arrivals), {}

        def admit(work: TrainWork, update: ClientUpdate) -> ClientUpdate:
            try:
                with self._folder.using():
                    update = arrivals.take(planned[work.job.key], update, self._members.frozen)
            except RunFolderError as error:
                raise RunFailed(str(error)) from None
            self._shards.release(work.job.client.task, work.job.client.index)
            return update

        batch = self._queue.open(works, [job.client.num_examples for job in jobs], admit, rule=self._failures)
        updates = [update for update in batch.wait() if update is not None]
        with self._lock:
            self._open = None
        failures = [
            {
                "client": job.client.index,
                "task": tasks[job.client.task],
                "attempts": [{"worker": a.worker, "node": a.node, "reason": a.reason} for a in item.attempts],
                "dropped": item.dropped,
            }
            for job, item in zip(jobs, batch.items, strict=True)
            if item.attempts
        ]
        left_out = [(job, item) for job, item in zip(jobs, batch.items, strict=True) if item.dropped]
        for job, _ in left_out:
            self._leave_out(job, arrivals)
        missing = {job.client.index: tuple(item.attempts) for job, item in left_out}
        if said := self._shortfall(jobs[0], len(jobs), missing):
            raise RunFailed(said)
        return Trained(updates, tuple(missing), failures)

    def told(self, failed: Failed) -> None:
        """An attempt has failed, at whatever: the display says so at once."""
        last = failed.attempts[-1]
        if failed.verdict == "retry":
            count = "" if last.died else f" ({len(failed.attempts)} of {self._failures.retries})"
            self._standing.warn(f"{failed.message}; {last.where}; it is tried again{count}")
        elif failed.verdict == "drop":
            self._standing.warn(f"{failed.message} ({tried(failed.attempts)}); the round goes on without it")
            if said := self._left_out(failed):
                self._queue.fail(said)

    def _left_out(self, failed: Failed) -> str | None:
        """A client of the open round was left out; the sentence that ends the run, if too many are missing."""
        with self._lock:
            if self._open is None or failed.work.job.key not in self._open[0]:
                return None
            planned, arrivals = self._open
            job = planned[failed.work.job.key]
            self._missing[job.client.index] = failed.attempts
            missing = dict(self._missing)
        self._leave_out(job, arrivals)
        return self._shortfall(job, len(planned), missing)

    def _leave_out(self, job: ClientJob, arrivals: Arrivals) -> None:
        arrivals.leave_out(job)
        self._shards.release(job.client.task, job.client.index)

    def _shortfall(self, job: ClientJob, planned: int, missing: dict[int, tuple[Attempt, ...]]) -> str | None:
        said = shortfall(self._failures, planned, missing, *self._federation.aggregation.rule.fewest())
        return f"{place(job.stage, job.round)}: {said}" if said else None
