"""The driver: the server's loop of a run. A plain class; it becomes an actor by one expression at launch.

It plans a round, lets the workers pull its jobs, closes the round, writes its record and its checkpoint, and
evaluates after each stage. One thread runs `run`; the workers' calls come in on others.
"""

import math
import threading
from collections.abc import Sequence
from typing import Any

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.shards import ShardSource
from fcit_ray.experiment.opening import Experiment
from fcit_ray.federated.federation import Federation
from fcit_ray.models.names import adapter_index
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.arrivals import Arrivals
from fcit_ray.runtime.evaluating import Evaluation
from fcit_ray.runtime.finishing import finish
from fcit_ray.runtime.identity import IdentityFeatures
from fcit_ray.runtime.journal import Journal, Watcher, nobody
from fcit_ray.runtime.members import Members
from fcit_ray.runtime.messages import Over, Store
from fcit_ray.runtime.pieces import Lease
from fcit_ray.runtime.places import place_of
from fcit_ray.runtime.rounds import round_record, train_works
from fcit_ray.runtime.shape import Shape, too_many_deaths
from fcit_ray.runtime.sharing_queue import SharingQueue, most_workers
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.status import Status
from fcit_ray.runtime.stopwatch import Stopwatch
from fcit_ray.runtime.timesheet import Timesheet
from fcit_ray.runtime.training import Training
from fcit_ray.runtime.waiting import WaitingRoom
from fcit_ray.types import Params, ServerState

_SLOW_S = 60  # after which the display says what the run is waiting for


class Driver:
    """The server of one run.

    Args:
        experiment: what is run.
        folder: where its records go, and where it resumes from if there is a checkpoint.
        shards: where clients' and test records come from.
        store: shared memory for what the workers fetch.
        watcher: told of every record.
    """

    def __init__(
        self, experiment: Experiment, folder: RunFolder, shards: ShardSource, store: Store, watcher: Watcher = nobody
    ):
        self._experiment = experiment
        self._config: Config = experiment.config
        self._folder = folder
        self._shards = shards
        self._store = store
        self._federation: Federation = experiment.federation(shards.feature)
        runtime = self._config.runtime
        self._standing = Standing(self._config.name, experiment.setting.num_stages)
        self._members = Members(runtime.max_worker_failures)
        self._queue = SharingQueue(
            runtime.lease_s,
            most=most_workers(self._config),
            failures=self._config.failures,
            place=place_of,
            told=lambda failed: self._training.told(failed),
            end=self._end_worker,
        )
        self._training: Training = Training(
            self._federation, self._config.failures, self._queue, folder, shards, self._members, self._standing
        )
        self._initial: Params | None = None
        self._begun = threading.Event()
        self._timesheet = Timesheet(self._config.runtime.num_workers)
        self._lora = self._federation.aggregation.lora
        self._at = (0, 0)
        self._journal = Journal.of(experiment, folder, watcher, self._standing.warn)
        self._evaluation = Evaluation(
            experiment, self._lora, folder, shards, store, self._queue, self._standing, self._seconds_left,
            log=self._journal.log,
        )  # fmt: skip

    # What the workers call.

    def join(
        self,
        worker: int,
        attention: str = "",
        frozen: frozenset[str] = frozenset(),
        node: str = "",
        actor: Any = None,
    ) -> bool:
        """A worker (re)starts.

        Args:
            worker: its rank.
            attention: its attention kernel.
            frozen: names of the parameters that its model has and no client trains.
            node: where it is, for messages.
            actor: itself, to be ended by.

        Returns:
            Whether it is to send the initial parameters with `begin`.
        """
        self._queue.join(worker, node)
        self._timesheet.is_free(worker)
        self._members.join(worker, attention, frozen, actor)
        return not self._begun.is_set()

    def begin(self, params: Params) -> None:
        """The bank's initial parameters; every worker has the same, the first one counts."""
        if not self._begun.is_set():
            # What came is shared memory, which is not to be held for the whole run.
            self._initial = {name: value.clone() for name, value in params.items()}
            self._begun.set()

    def next(self, worker: int, timeout_s: float) -> Lease | Over | None:
        """Give a worker something to do.

        Args:
            worker: its rank.
            timeout_s: how long to wait for work.

        Returns:
            Work, `Over`, or None: there was nothing within the time, ask again.
        """
        self._timesheet.is_free(worker)
        lease = self._queue.next(worker, timeout_s)
        if lease is not None:
            self._timesheet.begins(worker, lease)
        return Over() if lease is None and self._queue.over else lease

    def submit(self, token: int, result: Any) -> None:
        """Take the result of a lease; one whose attempt was given up counts for nothing."""
        self._timesheet.told(token, getattr(result, "metrics", {}))
        self._queue.submit(token, result)

    def failed(self, token: int, message: str, details: str = "") -> None:
        """An attempt has failed in a worker, which goes on: its work is tried again, left out, or ends the run."""
        self._queue.failed(token, message, details)

    def lost(self, workers: Sequence[int], serving: Sequence[int] | None = None) -> bool:
        """These workers have died: what they had in hand is handed out again at once.

        Args:
            workers: their ranks.
            serving: those of them that were at this run's work, whose death counts; None: all.

        Returns:
            Whether the run goes on.
        """
        for worker in workers:
            self._queue.join(worker)
            self._timesheet.is_free(worker)
        if (dead := workers if serving is None else serving) and self._members.died(dead):
            self.fail(too_many_deaths(self._config.runtime.max_worker_failures, dead))
        return not self._queue.over

    def fail(self, message: str, details: str = "") -> None:
        """A worker met an error that any other would meet too: the run ends. `details` are for the log."""
        self._queue.fail(message, details)
        self._begun.set()

    def share(self, what: str, *args: Any) -> Any:
        """What a worker asks of others, or for them: `wants`, `post`, `turn` and `work_of` of `SharingQueue`."""
        return getattr(self._queue, what)(*args)

    # What the launcher calls.

    def status(self) -> Status:
        """Where the run stands, for the display."""
        done, total, part = self._progress()
        told = {"done": done, "total": total, "steps": part, "seconds_left": self._seconds_left()}
        return self._standing.status(**told, **self._evaluation.told())

    def tell(self, token: int, done: int, total: int) -> None:
        """A worker is so many steps of its work's far."""
        self._queue.tell(token, done, total)

    def _progress(self) -> tuple[float, int, tuple[int, int]]:
        """Clients trained or records answered, how many there are, and the steps of a client that is alone."""
        if self._standing.now.phase == "evaluating":
            return *self._evaluation.progress(), (0, 0)
        progress = self._queue.progress()  # of rounds alone
        return progress.pieces, progress.num_pieces, progress.part

    def run(self) -> dict[str, Any]:
        """The whole run, from its beginning or the last checkpoint; returns (and writes) its results.

        Raises:
            RunFailed: a worker's error.
            CheckpointError: the last checkpoint is damaged.
        """
        try:
            with self._folder.writing():
                return self._run()
        finally:
            self._queue.finish()  # However it ended: the workers may go.

    def _run(self) -> dict[str, Any]:
        state = self._folder.latest_checkpoint()
        if state is not None:
            self._begun.set()
        # Without a checkpoint nothing vouches for what may be there already: all of it is done again.
        self._folder.rewind(state.stage if state else -math.inf, state.round if state else 0)
        self._journal.begin()
        self._evaluation.begin()
        features = IdentityFeatures(self._experiment, self._shards.encoder, self._queue, self._standing)
        if (table := features.table()) is not None:
            self._shards.use(table)
        # While the workers load the base.
        at, last = (state.stage, state.round) if state else (0, 0), self._experiment.setting.num_stages - 1
        self._shards.prepare(*(at if at[0] <= last else (last, None)))
        if state is None:
            state = self._federation.start(self._wait_for_initial_params())
        while True:
            self._at = (state.stage, state.round)
            self._evaluation.between_rounds(state, over=self._federation.is_over(state))
            if self._federation.is_over(state):
                break
            state = self._round(state)
        self._journal.close()
        spent = self._spent(state)
        results = finish(self._experiment, self._folder, state, spent, self._members.attention, features.spent)
        self._standing.show(phase="done")
        return results

    def _wait_for_initial_params(self) -> Params:
        waited = 0
        while not self._begun.wait(timeout=1.0):
            self._queue.check()
            waited += 1
            if waited == _SLOW_S:
                needed = Shape.of(self._config.runtime).first
                self._standing.show(message=f"no worker has started yet; {needed} must be free in the cluster")
        self._standing.show(message="")
        self._queue.check()
        assert self._initial is not None, "begun without parameters, and nobody reported a failure"
        return self._initial

    # One round.

    def _round(self, state: ServerState) -> ServerState:
        clock = Stopwatch()
        self._timesheet.open_round()
        names = {self._experiment.stream.tasks[task].name for task in self._experiment.stream.schedule[state.stage]}
        self._standing.show(
            phase="preparing",
            stage=state.stage,
            round=state.round,
            num_rounds=self._experiment.setting.num_rounds,
            task=", ".join(sorted(names)),
            **({} if state.round else {"loss": None}),  # of another task
        )
        self._shards.prepare(state.stage, state.round)
        jobs = self._federation.plan(state)
        works = train_works(state, jobs, self._store, self._shards)
        clock.lap("prepare")
        self._timesheet.mark()
        self._standing.show(self._seconds_left(), phase="training")
        with WaitingRoom(self._folder.path) as room:
            arrivals = Arrivals(self._federation, jobs, room)
            tasks = [task.name for task in self._experiment.stream.tasks]
            trained = self._training.run(works, jobs, arrivals, tasks)
            clock.lap("train")
            self._timesheet.mark()
            after = self._federation.close(state, trained.updates, arrivals.mean(), trained.missing)
            clock.lap("aggregate")
            record = round_record(state, jobs, trained.updates, after, tasks, self._lora, arrivals.bytes_up)
            if trained.failures:
                record["failures"] = trained.failures
            seconds = clock.laps | self._folder.store_s()
            rest = {"clients": record.pop("clients"), "workers": self._timesheet.close_round(), "seconds": seconds}
            self._journal.log({**record, **self._spent(after), **rest})
            keep, held = self._config.runtime.keep_checkpoints, self._evaluation.held
            after = self._folder.save_checkpoint(after, keep, adapter_index, held)
        self._standing.took("round", sum(clock.laps.values()), 1)
        self._standing.show(loss=record["loss"])
        return after

    def _end_worker(self, worker: int) -> None:
        """Have a worker replaced that sleeps; here there is no way to."""

    def _spent(self, state: ServerState) -> dict[str, float]:
        """What privacy the rounds before this state have cost, where the privacy rule counts it."""
        setting = self._experiment.setting
        return self._federation.aggregation.privacy.spent(setting, state.stage * setting.num_rounds + state.round)

    def _seconds_left(self) -> float | None:
        """From the mean time of a round and of an answered record so far; None until something of each is known."""
        setting, status, evaluation = self._experiment.setting, self._standing.now, self._evaluation
        done, total, _ = self._progress() if status.phase == "training" else (0.0, 0, None)
        part, (stage, round) = done / max(total, 1), self._at
        left, answered = evaluation.left()
        left["round"] = max(0.0, (setting.num_stages - stage) * setting.num_rounds - round - part)
        return self._standing.estimate(left, ("record", answered) if answered else ("round", part))
