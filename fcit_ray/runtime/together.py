"""Several runs at once in one worker group: a comparison's. Its base is loaded once; one run fills another's gaps."""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from fcit_ray.config.schema import Config
from fcit_ray.errors import ClusterLost
from fcit_ray.experiment.opening import Experiment
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.asking import AsksRay
from fcit_ray.runtime.cluster import logs_of_this_thread
from fcit_ray.runtime.crew import Crews, engage
from fcit_ray.runtime.launch import Shared, launch
from fcit_ray.runtime.pantry import FromPantry, Pantry
from fcit_ray.runtime.shape import Shape
from fcit_ray.runtime.status import Status

_POLL_S = 0.25
_ABANDON_S = 5.0  # for runs to end their drivers when all are given up

Results = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """A run that is to be carried out.

    Attributes:
        config: of it.
        folder: opened for it.
        experiment: of it.
    """

    config: Config
    folder: RunFolder
    experiment: Experiment


def alike(configs: Sequence[Config]) -> bool:
    """Whether one worker group can serve runs of these configurations."""
    return len({Shape.of(config.runtime) for config in configs}) == 1


def at_a_time(configs: Sequence[Config]) -> int:
    """How many runs keep a worker group busy: those whose rounds have twice as many clients as it workers, and two.

    One of these two prepares, or aggregates, while others train; one starts, which takes its driver seconds. On
    TabMWP's sizes and eight GPUs that makes six, which fill them (`benchmarks/runs_at_once.py`).
    """
    clients = min(max(config.benchmark.clients_per_round, 1) for config in configs)
    return min(len(configs), 2 + math.ceil(2 * configs[0].runtime.num_workers / clients))


def launch_together(
    runs: Mapping[str, Planned],
    storage: Path,
    around: Callable[[str, Callable[[], Results]], Results],
    *,
    on_status: Callable[[str, Status], None],
    on_end: Callable[[str, Future[Results]], None],
    most: int | None = None,
) -> None:
    """Carry runs out on the connected cluster, in their order, several at a time.

    Args:
        runs: by name, of one worker group's shape.
        storage: folder for Ray Train's own files.
        around: called with a run's name and what carries it out, in a thread of the run's; returns its results.
        on_status: called with a name and where that run stands, from the threads.
        on_end: called with a name and what came of it, as each run ends, from this thread.
        most: runs at a time; `at_a_time` by default.

    Raises:
        ClusterLost: the runs that were under way are told of by nobody then.
    """
    configs = [run.config for run in runs.values()]
    most = most or at_a_time(configs)
    budget = max(config.runtime.cache_mb for config in configs) * 2**20
    pantry = ray.remote(Pantry).options(num_cpus=0, max_concurrency=most + 2).remote(budget)
    given_up = threading.Event()

    def told(name: str, status: Status) -> None:
        if given_up.is_set():
            raise KeyboardInterrupt  # as where a run is alone: its driver ends, its trackers are told
        on_status(name, status)

    with Crews(1, configs[0].runtime.num_workers, storage, most_runs=most) as crews:
        shared = Shared(engage(crews.foreman), FromPantry(pantry), abandon_s=0.0, log=logs_of_this_thread)

        def carry_out(name: str) -> Results:
            run = runs[name]

            def once() -> Results:
                return launch(
                    run.config,
                    run.folder,
                    on_status=lambda status: told(name, status),
                    experiment=run.experiment,
                    shared=shared,
                )

            return around(name, once)

        pool = _Pool(runs, carry_out, most, given_up)
        try:
            while pool.left:
                crews.hire()
                for name, end in pool.ended(_POLL_S):
                    if isinstance(end.exception(), ClusterLost):
                        end.result()
                    on_end(name, end)
        except ClusterLost:
            raise  # nobody is left to be told
        except BaseException:
            given_up.set()
            deadline = time.monotonic() + _ABANDON_S
            while pool.under_way and time.monotonic() < deadline:
                list(pool.ended(_POLL_S))
            raise


class _Pool:
    """Threads, so many at a time, that carry out what there is to do in its order.

    Not an executor's: those are waited for at the process's end, and Ctrl-C with them.
    """

    def __init__(self, names: Iterable[str], carry_out: Callable[[str], Results], most: int, given_up: threading.Event):
        self._todo = list(names)
        self._carry_out = carry_out
        self._most = most
        self._given_up = given_up
        self._ended: queue.Queue[tuple[str, Future[Results]]] = queue.Queue()
        self.under_way = 0

    @property
    def left(self) -> int:
        """Runs that have not ended."""
        return len(self._todo) + self.under_way

    def ended(self, timeout_s: float) -> Iterator[tuple[str, Future[Results]]]:
        """What has ended, waited for so long; others take its place."""
        while self._todo and self.under_way < self._most and not self._given_up.is_set():
            self.under_way += 1
            AsksRay(target=self._run, args=(self._todo.pop(0),)).start()
        try:
            ended = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return
        self.under_way -= 1
        yield ended

    def _run(self, name: str) -> None:
        end: Future[Results] = Future()
        try:
            end.set_result(self._carry_out(name))
        except BaseException as error:
            end.set_exception(error)
        self._ended.put((name, end))
