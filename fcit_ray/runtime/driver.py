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
from fcit_ray.data.scoring.rules import scored_by
from fcit_ray.errors import RunFailed, RunFolderError
from fcit_ray.experiment.opening import Experiment
from fcit_ray.federated.federation import Federation
from fcit_ray.models.names import adapter_index
from fcit_ray.results.figures import make_results, matrix_from_results
from fcit_ray.results.plots import plot_accuracy_matrix, plot_curves
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.arrivals import Arrivals
from fcit_ray.runtime.evaluating import Evaluation
from fcit_ray.runtime.identity import IdentityFeatures
from fcit_ray.runtime.messages import Over, Store, TrainWork
from fcit_ray.runtime.rounds import round_record, train_works
from fcit_ray.runtime.sharing_queue import SharingQueue, most_workers
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.status import Status
from fcit_ray.runtime.stopwatch import Stopwatch
from fcit_ray.runtime.timesheet import Timesheet
from fcit_ray.runtime.waiting import WaitingRoom
from fcit_ray.runtime.work_queue import Lease
from fcit_ray.types import ClientJob, ClientUpdate, Params, ServerState

_SLOW_S = 60  # after which the display says what the run is waiting for


class Driver:
    """The server of one run.

    Args:
        experiment: what is run.
        folder: where its records go, and where it resumes from if there is a checkpoint.
        shards: where clients' and test records come from.
        store: shared memory for what the workers fetch.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, shards: ShardSource, store: Store):
        self._experiment = experiment
        self._config: Config = experiment.config
        self._folder = folder
        self._shards = shards
        self._store = store
        self._federation: Federation = experiment.federation(shards.feature)
        self._queue = SharingQueue(self._config.runtime.lease_s, most=most_workers(self._config))
        self._initial: Params | None = None
        self._begun = threading.Event()
        self._attention: set[str] = set()
        self._frozen: frozenset[str] = frozenset()
        self._timesheet = Timesheet(self._config.runtime.num_workers)
        self._standing = Standing(self._config.name, experiment.setting.num_stages)
        self._lora = self._federation.aggregation.lora
        self._at = (0, 0)
        self._evaluation = Evaluation(
            experiment, self._lora, folder, shards, store, self._queue, self._standing, self._seconds_left
        )

    # What the workers call.

    def join(self, worker: int, attention: str = "", frozen: frozenset[str] = frozenset()) -> bool:
        """A worker (re)starts.

        Args:
            worker: its rank.
            attention: its attention kernel.
            frozen: names of the parameters that its model has and no client trains.

        Returns:
            Whether it is to send the initial parameters with `begin`.
        """
        self._queue.join(worker)
        self._timesheet.is_free(worker)
        if attention:
            self._attention.add(attention)
        self._frozen |= frozen
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
        """Take the result of a lease; one that a twin has brought already is dropped."""
        self._timesheet.told(token, getattr(result, "metrics", {}))
        self._queue.submit(token, result)

    def lost(self, workers: Sequence[int]) -> None:
        """These workers have died: what they had in hand is handed out again at once."""
        for worker in workers:
            self._queue.join(worker)
            self._timesheet.is_free(worker)

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
        tests = self._experiment.tests
        results = make_results(
            label=self._config.name,
            seed=self._config.seed,
            tasks=[task.name for task in self._config.benchmark.tasks],
            num_stages=self._experiment.setting.num_stages,
            records=self._folder.records(),
            num_records={
                task.name: sum(len(tests[name]) for name in task.datasets) for task in self._config.benchmark.tasks
            },
            num_unseen={name: len(tests[name]) for name in self._config.benchmark.transfer},
            params=state.params,
            spent=self._spent(state),
            scored=scored_by(self._config, tests),
            attention=self._attention,
        )
        results["quarantined"] = self._experiment.quarantined
        if features.spent:
            results["features"] = features.spent
        results["config"] = self._config.model_dump(mode="json")
        matrix, tasks = matrix_from_results(results), results["tasks"]
        with self._folder.using():
            plot_accuracy_matrix(matrix, tasks, self._folder.path / "accuracy_matrix.png", self._config.name)
            plot_curves({self._config.name: self._folder.records()}, self._folder.path / "curves.png")
            self._folder.bring("accuracy_matrix.png", "curves.png")
        self._folder.write_results(results)
        self._standing.show(phase="done")
        return results

    def _wait_for_initial_params(self) -> Params:
        runtime = self._config.runtime
        waited = 0
        while not self._begun.wait(timeout=1.0):
            self._queue.check()
            waited += 1
            if waited == _SLOW_S:
                each = f"{runtime.cpus_per_worker:g} CPU" + (" and a GPU" if runtime.gpu else "")
                self._standing.show(
                    message=f"no worker has started yet; {runtime.num_workers} of {each} must be free in the cluster"
                )
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
            updates = self._trained(works, jobs, arrivals)
            clock.lap("train")
            self._timesheet.mark()
            after = self._federation.close(state, updates, arrivals.mean())
            clock.lap("aggregate")
            tasks = [task.name for task in self._experiment.stream.tasks]
            record = round_record(state, jobs, updates, after, tasks, self._lora, arrivals.bytes_up)
            rest = {
                "clients": record.pop("clients"),
                "workers": self._timesheet.close_round(),
                "seconds": clock.laps | self._folder.store_s(),
            }
            self._folder.log({**record, **self._spent(after), **rest})
            keep, held = self._config.runtime.keep_checkpoints, self._evaluation.held
            after = self._folder.save_checkpoint(after, keep, adapter_index, held)
        self._standing.took("round", sum(clock.laps.values()), 1)
        self._standing.show(loss=record["loss"])
        return after

    def _trained(self, works: list[TrainWork], jobs: list[ClientJob], arrivals: Arrivals) -> list[ClientUpdate]:
        """The updates of a round, in the order of its jobs."""
        planned = {job.key: job for job in jobs}

        def admit(work: TrainWork, update: ClientUpdate) -> ClientUpdate:
            try:
                with self._folder.using():
                    update = arrivals.take(planned[work.job.key], update, self._frozen)
            except RunFolderError as error:
                raise RunFailed(str(error)) from None
            self._shards.release(work.job.client.task, work.job.client.index)
            return update

        return self._queue.run(works, [job.client.num_examples for job in jobs], admit)

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
