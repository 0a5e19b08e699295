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
from fcit_ray.experiment.opening import Experiment
from fcit_ray.federated.federation import Federation
from fcit_ray.results.figures import make_results, matrix_from_results
from fcit_ray.results.plots import plot_accuracy_matrix, plot_curves
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.evaluating import Evaluation
from fcit_ray.runtime.messages import Over, Store, TrainWork
from fcit_ray.runtime.rounds import round_record, train_works
from fcit_ray.runtime.sharing_queue import SharingQueue, most_workers
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.status import Status
from fcit_ray.runtime.stopwatch import Stopwatch
from fcit_ray.runtime.work_queue import Lease
from fcit_ray.types import ClientUpdate, Params, ServerState

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
        self._standing = Standing(self._config.name, experiment.setting.num_stages)
        self._lora = self._federation.aggregation.lora
        self._evaluation = Evaluation(experiment, self._lora, folder, shards, store, self._queue, self._standing)

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
        if attention:
            self._attention.add(attention)
        self._frozen |= frozen
        return not self._begun.is_set()

    def begin(self, params: Params) -> None:
        """The bank's initial parameters; every worker has the same, the first one counts."""
        if not self._begun.is_set():
            self._initial = params
            self._begun.set()

    def next(self, worker: int, timeout_s: float) -> Lease | Over | None:
        """Give a worker something to do.

        Args:
            worker: its rank.
            timeout_s: how long to wait for work.

        Returns:
            Work, `Over`, or None: there was nothing within the time, ask again.
        """
        lease = self._queue.next(worker, timeout_s)
        return Over() if lease is None and self._queue.over else lease

    def submit(self, token: int, result: Any) -> None:
        """Take the result of a lease; one that a twin has brought already is dropped."""
        self._queue.submit(token, result)

    def lost(self, workers: Sequence[int]) -> None:
        """These workers have died: what they had in hand is handed out again at once."""
        for worker in workers:
            self._queue.join(worker)

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
        return self._standing.status(done=done, total=total, steps=part, seconds_left=self._seconds_left())

    def tell(self, token: int, done: int, total: int) -> None:
        """A worker is so many steps of its work's far."""
        self._queue.tell(token, done, total)

    def _progress(self) -> tuple[float, int, tuple[int, int]]:
        """Clients trained or records answered, how many there are, and the steps of a client that is alone."""
        progress = self._queue.progress()
        if self._standing.now.phase == "training":
            return progress.pieces, progress.num_pieces, progress.part
        done, total = progress.size, progress.total_size  # of pieces of a test set: records
        return done + self._evaluation.view * total, int(total) * self._evaluation.num_views, (0, 0)

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
        # While the workers load the base.
        self._shards.prepare(min(state.stage if state else 0, self._experiment.setting.num_stages - 1))
        if state is None:
            state = self._federation.start(self._wait_for_initial_params())
        while True:
            self._evaluate_if_due(state)
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
        results["config"] = self._config.model_dump(mode="json")
        matrix, tasks = matrix_from_results(results), results["tasks"]
        with self._folder.using():
            plot_accuracy_matrix(matrix, tasks, self._folder.path / "accuracy_matrix.png", self._config.name)
            plot_curves({self._config.name: self._folder.records()}, self._folder.path / "curves.png")
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
        names = {self._experiment.stream.tasks[task].name for task in self._experiment.stream.schedule[state.stage]}
        self._standing.show(
            phase="preparing",
            stage=state.stage,
            round=state.round,
            num_rounds=self._experiment.setting.num_rounds,
            task=", ".join(sorted(names)),
        )
        self._shards.prepare(state.stage)
        jobs = self._federation.plan(state)
        works = train_works(state, jobs, self._store, self._shards)
        clock.lap("prepare")
        self._standing.show(self._seconds_left(), phase="training")
        planned = {job.key: job for job in jobs}

        def admit(work: TrainWork, update: ClientUpdate) -> ClientUpdate:
            return self._federation.admit(planned[work.job.key], update, self._frozen)

        updates: list[ClientUpdate] = self._queue.run(works, [job.client.num_examples for job in jobs], admit)
        clock.lap("train")
        after = self._federation.close(state, updates)
        clock.lap("aggregate")
        tasks = [task.name for task in self._experiment.stream.tasks]
        record = round_record(state, jobs, updates, after, tasks, self._lora)
        clients = record.pop("clients")
        self._folder.log({**record, **self._spent(after), "clients": clients, "seconds": clock.laps})
        self._folder.save_checkpoint(after, self._config.runtime.keep_checkpoints)
        self._standing.took("round", sum(clock.laps.values()), 1)
        self._standing.show(loss=record["loss"])
        return after

    def _spent(self, state: ServerState) -> dict[str, float]:
        """What privacy the rounds before this state have cost, where the privacy rule counts it."""
        setting = self._experiment.setting
        return self._federation.aggregation.privacy.spent(setting, state.stage * setting.num_rounds + state.round)

    # Evaluation.

    def _evaluate_if_due(self, state: ServerState) -> None:
        stage = state.stage - 1
        over = self._federation.is_over(state)
        if state.round or (stage < 0 and not over) or not (over or self._config.evaluation.every_stage):
            return
        if any(record["kind"] == "evaluation" and record["stage"] == stage for record in self._folder.records()):
            return
        self._standing.show(self._seconds_left(), phase="evaluating", stage=stage, task="", loss=None)
        self._evaluation.evaluate(state, stage)

    def _seconds_left(self) -> float | None:
        """From the mean time of a round and of an answered record so far; None until something of each is known."""
        setting, status = self._experiment.setting, self._standing.now
        done, total, _ = self._progress()
        part = done / total if total else 0.0
        evaluating = status.phase == "evaluating"
        rounds = float((setting.num_stages - max(status.stage, 0)) * setting.num_rounds)
        rounds -= setting.num_rounds if evaluating and status.stage >= 0 else status.round + part * (not evaluating)
        tests = self._experiment.tests
        stages = range(setting.num_stages) or range(-1, 0)  # nothing trained: the one evaluation before
        sizes = [sum(len(tests[name]) for name in self._experiment.evaluated(stage)) for stage in stages]
        due = sizes[status.stage :] if self._config.evaluation.every_stage else sizes[-1:]
        records = sum(due) - (due[0] * part if evaluating and due else 0.0)
        under_way = ("record", (due[0] if due else 0) * part) if evaluating else ("round", part)
        if status.phase == "preparing":
            under_way = ("round", 0.0)
        return self._standing.estimate({"round": max(rounds, 0.0), "record": records}, under_way)
