"""A sweep beside the same runs by hand, one after another: wall time of both, and whether the adapters are the same.

    python benchmarks/sweep.py sweeps/miniature benchmark.num_rounds=1 train.epochs=1

By hand each run is a process of its own that starts Ray, loads the base and stops again, with the workers of the
shipped configuration; in the sweep trials share worker groups and prepared records. Both work in a temporary folder.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fcit_ray.config.shipped import find_config
from fcit_ray.config.trials import Trial, load_sweep

COMMAND = [sys.executable, "-m", "fcit_ray"]


def timed(*arguments: str) -> float:
    began = time.monotonic()
    subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def digest(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["adapters_sha256"])


def by_hand(trial: Trial, workers: int, folder: Path) -> float:
    """One run, as its user would start it: with as many workers as the machine has room for."""
    file = folder / f"{len(list(folder.iterdir()))}.yaml"
    file.write_text(json.dumps(trial.config.model_dump(mode="json")))
    return timed("run", str(file), f"runtime.num_workers={workers}", "--out", str(folder / trial.folder))


def main(name: str, *overrides: str) -> None:
    sweep, studies = load_sweep(find_config(name, "sweeps"), overrides)
    trials = [trial for study in studies for trial in study.trials()]
    workers = sweep.max_concurrent * trials[0].config.runtime.num_workers
    with tempfile.TemporaryDirectory() as scratch:
        swept, alone = Path(scratch) / "sweep", Path(scratch) / "alone"
        alone.mkdir()
        together = timed("sweep", name, *overrides, "--out", str(swept))
        each = [by_hand(trial, workers, alone) for trial in trials]
        same = sum(digest(swept / trial.folder) == digest(alone / trial.folder) for trial in trials)
    print(f"{len(trials)} trials, {sweep.max_concurrent} at a time: sweep {together:.0f} s")
    print(f"the same by hand, {workers} workers each: {sum(each):.0f} s, {sum(each) / together:.2f} times as long")
    print(f"{same} of {len(trials)} with the same adapters")


if __name__ == "__main__":
    main(*sys.argv[1:])
