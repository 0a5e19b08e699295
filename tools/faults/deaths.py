"""Processes that are killed: workers, data tasks, the driver, Ray's own, `run.py` in the middle of a write."""

import json
import signal
from typing import Any

import psutil

from tools.faults.bench import Bench
from tools.faults.rows import Outcome, Wrong, row
from tools.faults.runs import Command, of_ours, until

GROUP = "Processes killed"
_IN_A_ROUND = r"training  stage 2/2"


def kill(process: psutil.Process, number: int = signal.SIGKILL) -> bool:
    try:
        process.send_signal(number)
        return True
    except psutil.Error:
        return False  # it was quicker


@row(GROUP, once={"times": 1}, twenty_times={"times": 20})
def worker_sigkill(bench: Bench, times: int) -> Outcome:
    """A worker, at random moments; with more kills than one run lasts for, further runs."""
    long = ("runtime.max_worker_failures=100", *([] if times == 1 else ["train.epochs=12", "benchmark.num_rounds=4"]))
    killed = runs = 0
    while killed < times:
        run = bench.start(*long, out=f"run{runs}")
        runs += 1
        run.line(r"training  stage 1/2")
        seen: set[int] = set()
        while killed < times and run.process.poll() is None:

            def fresh(run: Command = run, seen: set[int] = seen) -> Any:
                return [p for p in run.titled("RayTrainWorker") if p.pid not in seen] or run.process.poll() is not None

            there = until(fresh, "a worker")
            if there is True:
                break
            bench.moment(3.0)
            victim = bench.random.choice(sorted(there, key=lambda process: process.pid))
            seen.add(victim.pid)
            if kill(victim):
                killed += 1
        bench.over(run, code=0)
        bits = bench.same(*long, out=f"run{runs - 1}")
    lost = bench.lost(*long) - (runs - 1) * bench.reference(*long)[1]
    return bench.outcome(f"SIGKILL of a worker x {times}, at random moments of {runs} run(s)", run, bits, lost)


@row(GROUP)
def controller_frozen(bench: Bench) -> Outcome:
    """Ray Train's controller, which replaces workers, is stopped (SIGSTOP), and then all workers are killed."""
    keys = ("runtime.max_worker_failures=100", "train.epochs=12", "benchmark.num_rounds=4")
    run = bench.start(*keys)
    run.line(r"training  stage 1/2")
    first = run.some("RayTrainWorker")[0]
    kill(first)
    run.line(r"its worker died")  # the controller has told of it, or soon will
    until(lambda: [p for p in run.titled("RayTrainWorker") if p.pid != first.pid][1:], "another in its place")
    run.some("TrainController")[0].send_signal(signal.SIGSTOP)
    for worker in run.titled("RayTrainWorker"):
        kill(worker)
    bench.over(run, code=0, wait_s=600)
    if "all of them are started anew" not in run.said:
        raise Wrong("nobody was started anew")
    return bench.outcome(
        "SIGSTOP of Ray Train's controller, SIGKILL of all workers", run, bench.same(*keys), bench.lost(*keys)
    )


@row(GROUP)
def data_task_sigkill(bench: Bench) -> Outcome:
    """A task of Ray Data that prepares records."""
    by_tasks = "model.identity=image"  # so few records, by their texts alone, the driver prepares itself
    run = bench.start(by_tasks)
    task = run.some("MapBatches")[0]
    title = " ".join(task.cmdline())
    if not kill(task):
        raise Wrong("the task was over already")
    bench.over(run, code=0)
    return bench.outcome(f"SIGKILL of a data task (`{title}`)", run, bench.same(by_tasks), bench.lost(by_tasks))


@row(GROUP, sigkill={"number": signal.SIGKILL}, sigterm={"number": signal.SIGTERM})
def driver(bench: Bench, number: signal.Signals) -> Outcome:
    """The driver actor, in a round."""
    run = bench.start()
    run.line(_IN_A_ROUND)
    kill(run.some("RayDriver")[0], number)
    bench.over(run, code=1, says="--resume", wait_s=90)
    row = bench.outcome(f"{number.name} to the driver actor, in a round", run, "", None)
    row.bits, row.lost_s = bench.resumed(), bench.lost()
    return row


@row(GROUP, raylet={"program": "raylet"}, gcs={"program": "gcs_server"})
def own_cluster(bench: Bench, program: str) -> Outcome:
    """A process of Ray's, of the cluster that the run started itself."""
    keys = ("train.epochs=60",)  # or the run is over before the loss is known, 15 s later
    run = bench.start(*keys)
    run.line(r"training  stage 1/2")
    for process in of_ours(run.mark):
        if process.name() == program:
            kill(process)
    bench.over(run, code=1, says="--resume", wait_s=120)
    row = bench.outcome(f"SIGKILL of `{program}` of the run's own cluster, in a round", run, "", None)
    row.bits, row.lost_s = bench.resumed(*keys), bench.lost(*keys)
    return row


@row(GROUP, in_a_round={"line": _IN_A_ROUND}, at_start={"line": "checking"}, at_the_end={"line": r"small  done"})
def run_py_sigkill(bench: Bench, line: str) -> Outcome:
    """`run.py` itself, at a random moment after a line."""
    bench.workers = 1
    run = bench.start()
    run.line(line)
    drawn = bench.moment(0.5)
    run.send()
    bench.over(run, code=-signal.SIGKILL)
    row = bench.outcome(f"SIGKILL of `run.py` {drawn:.2f} s after `{line.strip()}`", run, "", None)
    row.bits, row.lost_s = bench.resumed(), bench.lost()
    return row


def _at(call: str, path: str, number: int, when: str) -> dict[str, Any]:
    return {"plan": {"call": call, "path": path, "number": number, "when": when}}


@row(
    "`run.py` killed in the middle of a write",
    checkpoint_object=_at("fsync", r"/objects/\.[0-9a-f]{64}.*partial", 5, "before"),
    checkpoint_object_name=_at("replace", r"/objects/[0-9a-f]{64}\.safetensors$", 6, "before"),
    checkpoint_state=_at("fsync", r"checkpoints/\.stage_0001_round_0001\.partial/state\.json", 1, "before"),
    checkpoint_manifest=_at("fsync", r"checkpoints/\.stage_0001_round_0000\.partial/manifest\.json", 1, "before"),
    checkpoint_before_name=_at("replace", r"checkpoints/stage_0001_round_0001$", 1, "before"),
    checkpoint_after_name=_at("replace", r"checkpoints/stage_0001_round_0001$", 1, "after"),
    metrics_torn=_at("fsync", r"metrics\.jsonl$", 3, "torn"),
    metrics_before=_at("fsync", r"metrics\.jsonl$", 3, "before"),
    metrics_after=_at("fsync", r"metrics\.jsonl$", 3, "after"),
    predictions_before=_at("replace", r"predictions/.*\.jsonl$", 2, "before"),
    predictions_after=_at("replace", r"predictions/.*\.jsonl$", 2, "after"),
    partition_before=_at("replace", r"partition\.json$", 1, "before"),
    partition_after=_at("replace", r"partition\.json$", 1, "after"),
    config_before=_at("replace", r"config\.yaml$", 1, "before"),
    environment_before=_at("replace", r"environment\.json$", 1, "before"),
    results_before=_at("replace", r"results\.json$", 1, "before"),
    results_after=_at("replace", r"results\.json$", 1, "after"),
)
def write(bench: Bench, plan: dict[str, Any]) -> Outcome:
    """`run.py`, and whoever writes, the moment before or after a call."""
    bench.workers = 1
    once = bench.folder / "killed"
    planted = {"FAULTS_WRITE": json.dumps({**plan, "once": str(once)})}
    run = bench.start(environment=planted)
    bench.over(run, code=-signal.SIGKILL)
    if not once.exists():
        raise Wrong("nobody was killed in that write")
    where = {"before": "before", "after": "after", "torn": "half of the line on the disk, before"}[plan["when"]]
    did = f"SIGKILL {where} `{plan['call']}` no. {plan['number']} of `{plan['path']}`"
    row = bench.outcome(did, run, "", None)
    row.bits, row.lost_s = bench.resumed(), bench.lost()
    return row
