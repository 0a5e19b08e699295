"""Random kills of everything, for a long time, each followed by --resume until the run is finished: the same bits."""

import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tools.faults.bench import Bench
from tools.faults.nodes import Nodes
from tools.faults.rows import Wrong
from tools.faults.runs import Command, of_ours

_ACTORS = {"worker": "RayTrainWorker", "driver": "RayDriver", "controller": "TrainController", "data": "Map"}
_PROGRAMS = ("raylet", "gcs_server")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ATTEMPTS = 12
"""Starts of one run that are disturbed; the one after is left alone, so that every run is finished."""
_KEYS = ("runtime.max_worker_failures=100",)


def soak(root: Path, seed: int, seconds: float) -> int:
    """Kill and resume until the time is over; returns 1 at the first run that is not the same, whose folder stays."""
    began = time.monotonic()
    kills: Counter[str] = Counter()
    finished = 0
    reference = Bench(root, "soak-reference", seed)
    try:
        wanted = reference.reference(*_KEYS)[0]
    finally:
        reference.close()
    while time.monotonic() - began < seconds:
        bench = Bench(root, f"soak-{finished}", seed)
        try:
            starts = _one(bench, kills)
            if (found := bench.digest()) != wanted:
                raise Wrong(f"other bits: {found} instead of {wanted}")
        except Wrong as error:
            print(f"run {finished}, seed {seed}: WRONG: {error}; kept: {bench.folder}", flush=True)
            return 1
        finally:
            bench.close()
        finished += 1
        size = sum(file.stat().st_size for file in bench.folder.rglob("*") if file.is_file())
        free = psutil.virtual_memory().available
        print(
            f"run {finished}: same bits after {starts} starts; folder {size / 1e6:.1f} MB, "
            f"{free / 1e9:.1f} GB of memory free, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        shutil.rmtree(bench.folder)
    total = ", ".join(f"{count} {name}" for name, count in sorted(kills.items()))
    print(f"{finished} runs finished with the same bits; {sum(kills.values())} kills ({total})", flush=True)
    return 0


def _one(bench: Bench, kills: Counter[str]) -> int:
    """One run, disturbed until it is finished; returns how often it was started."""
    for attempt in range(_ATTEMPTS + 1):
        with_nodes = bench.random.random() < 0.3
        disturbed = attempt < _ATTEMPTS
        if with_nodes:
            with Nodes(bench) as nodes:
                code = _attempt(bench, kills, attempt, disturbed, nodes)
        else:
            code = _attempt(bench, kills, attempt, disturbed, None)
        if code == 0:
            return attempt + 1
    raise Wrong(f"not finished when it was left alone: {bench.commands[-1].last}")


def _attempt(bench: Bench, kills: Counter[str], attempt: int, disturbed: bool, nodes: Nodes | None) -> int:
    environment = nodes.environment if nodes else {}
    begun = (bench.folder / "run/environment.json").exists()
    run = bench.start(*_KEYS, resume=begun, environment=environment)
    until = time.monotonic() + 600
    next_kill = time.monotonic() + bench.random.uniform(0, 25)
    while run.process.poll() is None:
        if time.monotonic() > until:
            raise Wrong(f"attempt {attempt} hangs: {run.last} (kills so far: {dict(kills)})")
        if disturbed and time.monotonic() >= next_kill:
            if name := _kill_something(bench, run, nodes):
                kills[name] += 1
                print(f"  start {attempt}: killed {name}", flush=True)
            next_kill = time.monotonic() + bench.random.uniform(1, 25)
        time.sleep(0.05)
    code = run.end()
    if nodes is None and (left := run.left()):
        raise Wrong(f"{len(left)} processes are left 5 s after exit code {code} of start {attempt}: {'; '.join(left)}")
    if code not in (0, 1, -signal.SIGKILL, *(128 + number for number in _SIGNALS)):
        raise Wrong(f"exit code {code} of start {attempt}: {run.last}")
    if "Traceback (most recent call last)" in run.said:
        raise Wrong(f"a traceback, see {run.file}")
    print(f"  start {attempt}: exit code {code}: {run.last}", flush=True)
    return code


def _kill_something(bench: Bench, run: Command, nodes: Nodes | None) -> str:
    """Something of the run that is drawn; returns what, empty if there was none of it."""
    what = bench.random.choice([*_ACTORS, "run.py", "signal", *(["head", "node"] if nodes else _PROGRAMS)])
    if what == "run.py":
        run.send()
        return what
    if what == "signal":
        number = bench.random.choice(_SIGNALS)
        run.send(number)
        return number.name
    if nodes and what == "head":
        nodes.kill_head()
        return what
    if nodes and what == "node":
        there: list[Any] = [node for node in nodes.nodes if not _dead(node)]
        if not there:
            return ""
        nodes.kill(bench.random.choice(there))
        if not _dead(nodes.cluster.head_node):
            nodes.nodes.append(nodes.add())  # or the run would wait for one, as it should
        return what
    victims = run.titled(_ACTORS[what]) if what in _ACTORS else _programs(run, what)
    if not victims:
        return ""
    try:
        bench.random.choice(sorted(victims, key=lambda process: process.pid)).kill()
    except psutil.Error:
        return ""
    return what


def _dead(node: Any) -> bool:
    return node.all_processes["raylet"][0].process.poll() is not None


def _programs(run: Command, name: str) -> list[psutil.Process]:
    found = []
    for process in of_ours(run.mark):
        try:
            if process.name() == name:
                found.append(process)
        except psutil.Error:
            continue
    return found
