"""SIGTERM, SIGHUP and SIGINT: a sentence, the exit code of the signal, within the grace, and the bits of --resume."""

import json
import signal
from typing import Any

from tools.faults.bench import Bench
from tools.faults.rows import Outcome, Wrong, row
from tools.faults.runs import until

GROUP = "Told to end"
CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
_GRACE_S = 10.0
_SLACK_S = 20.0
"""For a machine on which others work: what is meant is that it does not wait for the round, or for Ray's minute."""

_PLACES = {
    "at_start": r"checking configuration",
    "in_a_round": r"training  stage 2/2",
    "in_an_evaluation": r"small  evaluating  stage 1/2",
}


@row(
    GROUP,
    **{
        f"{name.lower()}_{place}": {"name": name, "place": place, "line": line}
        for name in CODES
        for place, line in _PLACES.items()
    },
)
def told(bench: Bench, name: str, place: str, line: str) -> Outcome:
    """The main process of a run gets the signal once."""
    keys = ("runtime.answer_behind=false",)
    bench.workers = 1
    run = bench.start(*keys)
    run.line(line)
    if place == "in_a_round":
        bench.moment(0.3)
    took = _tell(bench, run, name)
    did = f"{name} {place.replace('_', ' ')}; over after {took:.1f} s"
    row = bench.outcome(did, run, "", None)
    row.bits, row.lost_s = bench.resumed(*keys), bench.lost(*keys)
    return row


@row(GROUP, **{f"{name.lower()}_in_a_sweep": {"name": name} for name in CODES})
def told_sweep(bench: Bench, name: str) -> Outcome:
    """The main process of a sweep of two seeds, two at a time."""
    file = bench.folder / "sweep.yaml"
    file.write_text(
        f"config: [{bench.config}]\nmethods: [finetune]\nseeds: [0, 1]\n"
        "overrides: [runtime.num_workers=1, train.epochs=40]\nmax_concurrent: 2\n"
    )

    def start(out: str, **more: Any) -> Any:
        from tools.faults.bench import ROOT

        command = [str(ROOT / "pipelines/sweep.py"), str(file), "--out", str(bench.folder / out)]
        return bench.start(command=command, **more)

    reference = bench.root / "sweep-reference.json"
    if not reference.exists():
        run = start("reference")
        if run.end() != 0:
            raise Wrong(f"the reference of the sweep failed: {run.last}")
        reference.write_text(json.dumps([_digests(bench, "reference"), run.took_s]))
        bench.commands.remove(run)
    wanted, seconds = json.loads(reference.read_text())
    run = start("sweep")
    # A sweep says nothing of its trials' rounds: the first checkpoint tells that they train.
    until(lambda: list((bench.folder / "sweep").rglob("checkpoints/stage_*")), "a trial's first checkpoint")
    if run.process.poll() is not None:
        raise Wrong(f"the sweep was over before it was told: {run.last}")
    took = _tell(bench, run, name)
    row = bench.outcome(f"{name} in a sweep of two trials; over after {took:.1f} s", run, "", None)
    again = start("sweep")  # which goes on, without being told to
    bench.over(again, code=0)
    if _digests(bench, "sweep") != wanted:
        raise Wrong(f"other bits: {_digests(bench, 'sweep')} instead of {wanted}")
    row.bits, row.lost_s = "same", run.took_s + again.took_s - seconds
    return row


def _tell(bench: Bench, run: Any, name: str) -> float:
    import time

    before = time.monotonic()
    run.send(getattr(signal, name))
    bench.over(run, code=CODES[name], says=" go", wait_s=90)
    if (took := run.began + run.took_s - before) > _GRACE_S + _SLACK_S:
        raise Wrong(f"it took {took:.0f} s to leave, the grace is {_GRACE_S:.0f} s")
    return took


def _digests(bench: Bench, out: str) -> list[str]:
    files = sorted((bench.folder / out).rglob("results.json"))
    return [json.loads(file.read_text())["adapters_sha256"] for file in files]
