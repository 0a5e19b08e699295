"""What the runtime costs a round: clients that do nothing, beside the same clients on a plain pool of Ray actors.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --megabytes 1 10 65 --rounds 20

Both sides run in one cluster and take turns, round by round. A round of either sends the global parameters to every
client, brings an update of the same size back and forms the weighted mean in client order.

    runtime     the driver's own round: plan, put, hand out to Ray Train workers, submit, close, record in metrics.jsonl
    checkpoint  the same round's checkpoint, synced to the disk; the runtime's only, the pool keeps nothing
    pool        `ray.put` once, two actors with a client in hand each, the mean

See benchmarks/README.md for figures.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from rich.table import Table

from fcit_ray.cli.common import console
from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.loading.shards import LocalShard
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.params import add, weighted_mean
from fcit_ray.results.checkpoint import Unit, one
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.cluster import start_ray
from fcit_ray.runtime.driver import Driver
from fcit_ray.runtime.driver_actor import SWITCH_S
from fcit_ray.runtime.handles import opened
from fcit_ray.runtime.launch import run_workers
from fcit_ray.runtime.messages import TrainWork
from fcit_ray.runtime.store import RayStore, share_tensors
from fcit_ray.runtime.train_loop import serve
from fcit_ray.types import ClientUpdate, Params, ServerState

CLIENTS, WORKERS, CPUS = 5, 2, 0.25
TENSORS = 40  # a bank has this order of tensors: many small ones cost more than one large one


def payload(megabytes: float) -> Params:
    entries = int(megabytes * 1e6 / 4 / TENSORS)
    return {f"layer_{number}": torch.full((entries,), 0.5) for number in range(TENSORS)}


class NoShards:
    """Clients that do nothing need no data."""

    encoder: Any = None  # there is nothing to be encoded

    def use(self, features: Any) -> None:
        """Nothing has features."""

    def prepare(self, stage: int, round: int | None = None) -> None:
        """Nothing to prepare."""

    def release(self, task: int, client: int) -> None:
        """Nothing to let go."""

    def feature(self, task: int, client: int) -> torch.Tensor:
        return torch.ones(1)

    def train_shard(self, task: int, client: int) -> LocalShard:
        return LocalShard(())

    def test_shard(self, dataset: str, places: Sequence[int]) -> LocalShard:
        return LocalShard(())


class TimedFolder(RunFolder):
    """Notes the seconds that the last checkpoint took."""

    checkpoint_s: float

    def save_checkpoint(
        self, state: ServerState, keep: int, unit: Unit = one, held: tuple[int, int] | None = None
    ) -> ServerState:
        began = time.perf_counter()
        state = super().save_checkpoint(state, keep, unit, held)
        object.__setattr__(self, "checkpoint_s", time.perf_counter() - began)  # a frozen dataclass
        return state


class BenchDriver(Driver):
    """The real driver, a round at a time instead of a run."""

    def __init__(self, config: Config, path: Path):
        share_tensors(copies=False)
        sys.setswitchinterval(SWITCH_S)
        torch.set_num_threads(1)
        open_run(path, config, resume=False, overwrite=True)
        self._bench_folder = TimedFolder(path)
        super().__init__(open_experiment(config), self._bench_folder, NoShards(), RayStore())
        self._state: ServerState | None = None

    def restart(self, megabytes: float) -> None:
        self._state = self._federation.start(payload(megabytes))

    def round(self) -> dict[str, float]:
        """Seconds of one round, and of its checkpoint apart."""
        assert self._state is not None
        began = time.perf_counter()
        self._state = self._round(self._state)
        checkpoint = self._bench_folder.checkpoint_s
        return {"round": time.perf_counter() - began - checkpoint, "checkpoint": checkpoint}

    def end(self) -> None:
        self._queue.finish()


class IdleWorker:
    """Stands where `Worker` stands: fetches what it was sent and returns an update of the same size."""

    attention = ""  # it has no model
    frozen: frozenset[str] = frozenset()

    def __init__(self, store: RayStore):
        self._store = store

    def initial_params(self) -> Params:
        return {}

    def perform(self, work: TrainWork, tell: Any, partners: Any = None) -> ClientUpdate:
        job = work.job
        params = self._store.get(work.params)
        delta = {name: value for part in params for name, value in part.items()}
        return ClientUpdate(
            stage=job.stage,
            round=job.round,
            client=job.client,
            assignment=job.assignment,
            delta=delta,
            metrics={"loss": 0.0},
        )


def idle_loop(context: dict[str, Any]) -> None:
    """What a Ray Train worker runs."""
    torch.set_num_threads(1)
    share_tensors()
    serve(opened(context["driver"]), IdleWorker(RayStore()), ray.train.get_context().get_world_rank())


class PoolWorker:
    """One of the plain pool."""

    def __init__(self) -> None:
        share_tensors()
        torch.set_num_threads(1)

    def train(self, params: list[Any]) -> Params:
        received: Params = ray.get(params[0])
        return received


class PoolServer:
    """The plain pool's server: hands a client to whichever worker is free, forms the mean."""

    def __init__(self, workers: list[Any]):
        share_tensors()
        torch.set_num_threads(1)
        self._workers = workers
        self._params: Params = {}

    def restart(self, megabytes: float) -> None:
        self._params = payload(megabytes)

    def round(self) -> dict[str, float]:
        began = time.perf_counter()
        params = [ray.put(self._params)]
        deltas: dict[int, Params] = {}
        waiting = list(range(CLIENTS))
        running = {worker.train.remote(params): (worker, waiting.pop(0)) for worker in self._workers}
        while running:
            [reference], _ = ray.wait(list(running))
            worker, client = running.pop(reference)
            deltas[client] = ray.get(reference)
            if waiting:
                running[worker.train.remote(params)] = (worker, waiting.pop(0))
        weights = [float(10 + client) for client in range(CLIENTS)]
        self._params = add(self._params, weighted_mean([deltas[client] for client in range(CLIENTS)], weights))
        return {"round": time.perf_counter() - began}


def bench_config(root: Path) -> Config:
    return parse_config(
        {
            "name": "overhead",
            "benchmark": {
                "root": str(root),
                "tasks": ["ArxivQA"],
                "num_clients": CLIENTS,
                "clients_per_round": CLIENTS,
                "num_rounds": 1_000_000,
                "min_samples": 1,
            },
            "runtime": {"num_workers": WORKERS, "cpus_per_worker": CPUS},
        }
    )


def measure(driver: Any, pool: Any, megabytes: float, rounds: int) -> dict[str, list[float]]:
    """Seconds of `rounds` rounds on each side, in turns, after two that warm up."""
    ray.get([driver.restart.remote(megabytes), pool.restart.remote(megabytes)])
    seconds: dict[str, list[float]] = {"runtime": [], "checkpoint": [], "pool": []}
    for number in range(rounds + 2):
        ours, plain = ray.get(driver.round.remote()), ray.get(pool.round.remote())
        if number >= 2:
            seconds["runtime"].append(ours["round"])
            seconds["checkpoint"].append(ours["checkpoint"])
            seconds["pool"].append(plain["round"])
    return seconds


def spread(values: list[float]) -> str:
    """Median, and the middle half, in milliseconds."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle * 1e3:.0f} ({low * 1e3:.0f}-{high * 1e3:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 10, 65], help="payloads, of 1e6 bytes")
    parser.add_argument("--rounds", type=int, default=20, help="measured rounds of each side and payload")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_miniature(folder / "data", num_train=60, num_validation=1, num_test=1)
        config = bench_config(folder / "data")
        start_ray(folder / "ray.log", address="local")
        remote: Callable[..., Any] = ray.remote
        driver = remote(BenchDriver).options(num_cpus=0, max_concurrency=8).remote(config, folder / "run")
        actors = [remote(PoolWorker).options(num_cpus=CPUS).remote() for _ in range(WORKERS)]
        pool = remote(PoolServer).options(num_cpus=0).remote(actors)
        ray.get(driver.status.remote())
        training = threading.Thread(
            target=run_workers, args=(config, RunFolder(folder / "run"), driver, idle_loop), daemon=True
        )
        training.start()
        table = Table("payload, MB", "runtime, ms", "pool, ms", "ratio", "checkpoint, ms")
        for megabytes in args.megabytes:
            seconds = measure(driver, pool, megabytes, args.rounds)
            ratio = statistics.median(seconds["runtime"]) / statistics.median(seconds["pool"])
            table.add_row(
                f"{megabytes:g}",
                spread(seconds["runtime"]),
                spread(seconds["pool"]),
                f"{ratio:.2f}",
                spread(seconds["checkpoint"]),
            )
        ray.get(driver.end.remote())
        training.join(timeout=30.0)
        ray.shutdown()
    console.print(f"A round of {CLIENTS} clients on {WORKERS} workers; median (middle half) of {args.rounds}")
    console.print(table)


if __name__ == "__main__":
    main()
