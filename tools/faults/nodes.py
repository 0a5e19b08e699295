"""A cluster of several raylets on this host, whose nodes die."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil

from tools.faults.bench import PLANTED, Bench
from tools.faults.rows import Outcome, Wrong, row
from tools.faults.runs import Command, until

GROUP = "Nodes of a cluster (several raylets on one host)"


class Nodes:
    """A head without CPUs and some nodes of two each; a context manager.

    Args:
        bench: in whose Ray folder it lies.
        num_nodes: beside the head.
        head: more of the head's own.
    """

    def __init__(self, bench: Bench, num_nodes: int = 2, **head: Any):
        os.environ["RAY_TMPDIR"] = str(bench.ray_folder)
        os.environ["PYTHONPATH"] = str(PLANTED)
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        os.environ["OMP_NUM_THREADS"] = "1"
        from ray.cluster_utils import Cluster

        own = {"num_cpus": 0, "include_dashboard": False, **head}
        self.cluster = Cluster(initialize_head=True, shutdown_at_exit=False, head_node_args=own)
        self.nodes = [self.add() for _ in range(num_nodes)]

    def add(self) -> Any:
        # By its own address, as otherwise run.py may take any of them for the node that it is on.
        return self.cluster.add_node(num_cpus=2, node_ip_address=f"127.0.0.{2 + len(self.cluster.worker_nodes)}")

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_ADDRESS": self.cluster.address}

    def kill_head(self) -> None:
        for name in ("gcs_server", "raylet"):
            self._process(self.cluster.head_node, name).kill()

    def kill(self, node: Any) -> None:
        self._process(node, "raylet").kill()

    def of_workers(self, run: Command) -> list[Any]:
        """Nodes on which there are Ray Train workers."""
        parents = set()
        for worker in run.titled("RayTrainWorker"):
            with contextlib.suppress(psutil.Error):
                parents.add(worker.ppid())
        return [node for node in self.nodes if self._process(node, "raylet").pid in parents]

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *_: object) -> None:
        nodes = [*self.nodes, self.cluster.head_node]
        for processes in (node.all_processes for node in nodes if node):
            for infos in list(processes.values()):
                for info in infos:
                    with contextlib.suppress(psutil.Error, ProcessLookupError):
                        info.process.kill()
                        info.process.wait()
        # What `ray start` leaves as well: a run without RAY_ADDRESS would look for this cluster.
        (Path(os.environ["RAY_TMPDIR"]) / "ray/ray_current_cluster").unlink(missing_ok=True)

    @staticmethod
    def _process(node: Any, name: str) -> Any:
        return node.all_processes[name][0].process


_ACTORS = ("RayTrainWorker", "JoiningWorker", "RayDriver", "TrainController")


def _over(
    bench: Bench,
    run: Command,
    code: int,
    says: str = "",
    wait_s: float = 300.0,
    gone: tuple[str, ...] = _ACTORS,
) -> None:
    """As `Bench.over`, but the cluster stays, with whatever idle workers it has; some actors must be gone."""
    found = run.end(wait_s)
    if found != code:
        raise Wrong(f"exit code {found} instead of {code}: {run.last}")
    if says not in run.last:
        raise Wrong(f"its last words do not say {says!r}: {run.last}")

    def ours() -> list[psutil.Process]:
        return run.titled(*gone)

    with contextlib.suppress(Wrong):
        until(lambda: not ours(), "the end of them", 5.0)
    for process in ours():
        with contextlib.suppress(psutil.Error, IndexError):
            bench.left.append(process.cmdline()[0])


@row(GROUP)
def node_raylet_killed(bench: Bench) -> Outcome:
    """SIGKILL of the raylet of a node on which workers train, at a random moment."""
    with Nodes(bench) as nodes:
        run = bench.start(environment=nodes.environment)
        run.line(r"training  stage \d/2")
        victims = until(lambda: nodes.of_workers(run), "a node with workers")
        drawn = bench.moment(2.0)
        nodes.kill(bench.random.choice(victims))
        _over(bench, run, 0)
        did = f"raylet of a node of two with workers, {drawn:.2f} s into the rounds"
        return bench.outcome(did, run, bench.same(), bench.lost())


@row(GROUP)
def node_worker_killed(bench: Bench) -> Outcome:
    """SIGKILL of a worker on a cluster of two nodes, at a random moment."""
    with Nodes(bench) as nodes:
        run = bench.start(environment=nodes.environment)
        run.line(r"training  stage \d/2")
        drawn = bench.moment(2.0)
        bench.random.choice(run.some("RayTrainWorker")).send_signal(signal.SIGKILL)
        _over(bench, run, 0)
        return bench.outcome(f"a worker, {drawn:.2f} s into the rounds", run, bench.same(), bench.lost())


@row(GROUP)
def node_after_worker_killed(bench: Bench) -> Outcome:
    """SIGKILL of a worker, then of the raylet of a node with workers, in one run: what the suite provokes too."""
    keys = ("train.epochs=12",)
    with Nodes(bench) as nodes:
        run = bench.start(*keys, environment=nodes.environment)
        run.line(r"training  stage 1/2")
        first = bench.moment(1.5)
        bench.random.choice(run.some("RayTrainWorker")).send_signal(signal.SIGKILL)
        run.line(r"training  stage 2/2")
        victims = until(lambda: nodes.of_workers(run), "a node with workers")
        second = bench.moment(1.0)
        nodes.kill(bench.random.choice(victims))
        _over(bench, run, 0)
        did = f"a worker {first:.2f} s into the first stage, the raylet of its node {second:.2f} s into the second"
        return bench.outcome(did, run, bench.same(*keys), bench.lost(*keys))


@row(GROUP)
def head_killed(bench: Bench) -> Outcome:
    """SIGKILL of the head; a new head, and --resume."""
    with Nodes(bench, 1) as nodes:
        run = bench.start(environment=nodes.environment)
        run.line(r"training  stage 2/2")
        nodes.kill_head()
        _over(bench, run, 1, "--resume", wait_s=120)
        outcome = bench.outcome("head (GCS and raylet) in a round; a new head, `--resume`", run, "", None)
    with Nodes(bench, 1) as nodes:
        again = bench.start(environment=nodes.environment, resume=True)
        _over(bench, again, 0)
    outcome.bits, outcome.lost_s = bench.same(), bench.lost()
    return outcome


@row("Little memory for objects")
def object_store_of_100_mb(bench: Bench) -> Outcome:
    """A cluster whose nodes keep 100 MB of objects."""
    with Nodes(bench, 0, num_cpus=2, object_store_memory=100 * 2**20) as nodes:
        run = bench.start(environment=nodes.environment)
        _over(bench, run, 0)
        return bench.outcome("object store of 100 MB", run, bench.same(), bench.lost())
