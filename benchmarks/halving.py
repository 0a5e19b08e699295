"""A search that stops bad trials early beside the same search in full: client updates, and whether both choose alike.

    python benchmarks/halving.py
    python benchmarks/halving.py --trials 20 --seeds 0 1 2

For every seed of the search the same points are drawn twice: once all run to their end, once with ASHA at the stages'
ends. Counted are the client updates in the records of all trials, whole or stopped. DISCO on four tasks of the
miniature, one round a stage, its rate, rank and temperature searched on the validation split.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPACE = {
    "train.lr": {"loguniform": [2e-4, 5e-2]},
    "model.rank": {"choice": [32, 64, 128]},
    "method.temperature": {"loguniform": [0.01, 0.5]},
}
OVERRIDES = [
    "benchmark.split=validation", "benchmark.tasks=[ArxivQA, ImageNet-R, IconQA, FigureQA]", "benchmark.num_rounds=1",
    "train.epochs=2", "runtime.num_workers=1",
]  # fmt: skip


def sweep(folder: Path, trials: int, seed: int, stop_early: dict[str, Any] | None) -> tuple[str, float, int, float]:
    """What a search comes to: folder of the best trial, its Last, client updates of all trials, seconds."""
    file = folder / "sweep.yaml"
    search = {"by": "random", "trials": trials, "seed": seed, "space": SPACE}
    described = {"config": ["miniature"], "methods": ["disco"], "seeds": [100], "max_concurrent": 2}
    file.write_text(json.dumps({**described, "search": search, "stop_early": stop_early, "overrides": OVERRIDES}))
    began = time.monotonic()
    command = [sys.executable, "-m", "fcit_ray", "sweep", str(file), "--out", str(folder / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    spent = time.monotonic() - began
    best, last = "", -1.0
    for results in sorted((folder / "out").glob("*/results.json")):
        value = json.loads(results.read_text())["last"]
        if value > last:
            best, last = results.parent.name, value
    updates = sum(
        len(record["clients"])
        for metrics in (folder / "out").glob("*/metrics.jsonl")
        for record in map(json.loads, metrics.read_text().splitlines())
        if record["kind"] == "round"
    )
    return best, last, updates, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--grace-stages", type=int, default=1)
    parser.add_argument("--reduction-factor", type=float, default=2.0)
    args = parser.parse_args()
    rule = {"grace_stages": args.grace_stages, "reduction_factor": args.reduction_factor}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            ends = []
            for name, stop in (("full", None), ("early", rule)):
                folder = Path(scratch) / name
                folder.mkdir()
                ends.append(sweep(folder, args.trials, seed, stop))
        (full, full_last, full_updates, full_s), (early, early_last, early_updates, early_s) = ends
        same = "the same" if full == early else f"{early} at {early_last:.1f} instead"
        print(
            f"seed {seed}: {early_updates} of {full_updates} client updates ({1 - early_updates / full_updates:.0%} "
            f"saved), {early_s / full_s:.2f} of the time; best of all {full} at {full_last:.1f}, chosen {same}",
            flush=True,
        )


if __name__ == "__main__":
    main()
