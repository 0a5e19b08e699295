"""Clients that send what cannot be used, fail, or are never heard of again, under every rule of `failures`."""

import json

from tools.faults.bench import Bench
from tools.faults.rows import Outcome, Wrong, row

GROUP = "Bad clients"
_UPLOADS = ("nan", "inf", "shape", "name", "copy")
_KINDS = (*_UPLOADS, "raises", "sleeps")
_DEADLINE = ("failures.deadline_s=8",)


def _bad(bench: Bench, kind: str, times: int, *keys: str) -> tuple[str, ...]:
    method = {"name": "bad_clients:Bad", "kind": kind, "marks": str(bench.folder / "marks"), "times": times}
    given = [f"method={json.dumps(method)}", *keys]
    return (*given, *(_DEADLINE if kind == "sleeps" else ()))


def _attempts(bench: Bench) -> int:
    marks = bench.folder / "marks"
    return len(list(marks.iterdir())) if marks.is_dir() else 0


@row(GROUP, **{kind: {"kind": kind} for kind in _KINDS})
def always_stop(bench: Bench, kind: str) -> Outcome:
    """Client 1 is bad at every attempt; two retries, then the run stops (the default)."""
    run = bench.start(*_bad(bench, kind, -1))
    bench.over(run, code=1, says="client 1")
    if (count := _attempts(bench)) != 3:
        raise Wrong(f"{count} attempts instead of one and two retries: {run.last}")
    if "stage 0, round 0" not in run.last:
        raise Wrong(f"it does not say where: {run.last}")
    return bench.outcome(f"client 1: `{kind}`, always; `stop`", run, "-", None)


@row(GROUP, **{kind: {"kind": kind} for kind in _KINDS})
def once_retried(bench: Bench, kind: str) -> Outcome:
    """Client 1 is bad once; the retry brings the same bits as if nothing had been."""
    run = bench.start(*_bad(bench, kind, 1))
    bench.over(run, code=0)
    if (count := _attempts(bench)) != 1:
        raise Wrong(f"{count} bad attempts instead of one")
    return bench.outcome(f"client 1: `{kind}`, once; retried", run, bench.same(), bench.lost())


@row(GROUP, **{kind: {"kind": kind} for kind in _KINDS})
def always_dropped(bench: Bench, kind: str) -> Outcome:
    """Client 1 is bad at every attempt and dropped; all kinds must give the same bits, those without client 1."""
    run = bench.start(*_bad(bench, kind, -1, "failures.then=drop", "failures.retries=1"))
    bench.over(run, code=0)
    records = [json.loads(line) for line in (bench.folder / "run/metrics.jsonl").read_text().splitlines()]
    rounds = [record for record in records if record["kind"] == "round"]
    with_it = [r for r in rounds if any(client["client"] == 1 for client in r["clients"])]
    if with_it:
        raise Wrong("client 1 is in a round's record as if it had been averaged")
    if not all(any(f["client"] == 1 and f["dropped"] for f in r.get("failures", [])) for r in rounds):
        raise Wrong("a round's record does not say that client 1 was dropped")
    kept = bench.root / "without-client-1.txt"
    digest = bench.digest()
    if not kept.exists():
        kept.write_text(digest)
    if digest != kept.read_text():
        raise Wrong(f"other bits than where another fault of it had it dropped: {digest[:8]}")
    bits = "the same for every kind"
    return bench.outcome(f"client 1: `{kind}`, always; `drop`, quorum 0.5", run, bits, bench.lost())


@row(GROUP)
def dropped_below_quorum(bench: Bench) -> Outcome:
    """With client 1 dropped too few are left."""
    run = bench.start(*_bad(bench, "raises", -1, "failures.then=drop", "failures.retries=0", "failures.quorum=0.9"))
    bench.over(run, code=1, says="quorum")
    return bench.outcome("client 1: `raises`, always; `drop`, quorum 0.9 of two", run, "-", None)
