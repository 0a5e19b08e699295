"""Questions a second of `fcit-ray predict` beside a plain loop of stock `generate`.

    python benchmarks/predict.py runs/demo/disco
    python benchmarks/predict.py runs/demo/disco --records 2000 --workers 1 2 --root data/miniature

The questions are the miniature's test split, again and again under new ids, in a JSONL file of its own. The plain loop
is what a user of an export would write: its model, loaded by PEFT with the export's own gate, so that it gives the same
answers; it opens the pictures, runs the stock processor and calls `generate`, a batch after the other, in a process of
its own. Both have one thread a process, the same batches and the same order.

    start-up    until the first block (for the loop: batch) of answers is there: imports, Ray, the base
    questions/s of all that follow
    CPU         of the processes that answer, which other work on the machine changes less than the speed
    unequal     answers that differ from the loop's

See benchmarks/README.md for figures.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from fcit_layout import fcit
from rich.table import Table

from fcit_ray.cli.common import console
from fcit_ray.config.schema import Config
from fcit_ray.data.records.layout import load_test
from fcit_ray.results.run_folder import RunFolder

COMMAND = [sys.executable, "-m", "fcit_ray"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


LOOP = """
import json, sys, time
from itertools import islice

export, questions, batch_size, out = sys.argv[1:]
sys.path.insert(0, export)
import torch
from load_gated import Gated

torch.set_num_threads(1)
gated = Gated(export)
answers, first, began = [], 0, 0.0
with open(questions, encoding="utf-8") as lines:
    while batch := [json.loads(line) for line in islice(lines, int(batch_size))]:
        answers += gated.answer([row["image"] for row in batch], [row["text"] for row in batch])
        if not first:
            first, began, used = len(answers), time.perf_counter(), time.process_time()
told = {"answers": answers, "first": first, "rest_s": time.perf_counter() - began}
with open(out, "w") as file:
    json.dump({**told, "cpu_s": time.process_time() - used}, file)
"""


def write_questions(config: Config, root: Path, count: int, path: Path) -> None:
    """The test split of the run's tasks, dataset after dataset, as often as it takes."""
    names = [name for task in config.benchmark.tasks for name in task.datasets]
    tests = [record for name in names for record in load_test(fcit(root), name)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            record = tests[number % len(tests)]
            image = str((root / "datasets" / record.image).resolve())
            line = {"id": number, "image": image, "text": record.turns[0].question}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def predict(run: Path, questions: Path, out: Path, workers: int) -> dict[str, Any]:
    """`fcit-ray predict` as a user starts it, watched by the parts that appear."""
    parts = out.with_name(f"{out.name}.parts")
    began = time.perf_counter()
    child = subprocess.Popen(
        [*COMMAND, "predict", str(run), str(questions), str(out), "--workers", str(workers)],
        env=ONE_THREAD,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    first: tuple[float, int, float] | None = None
    last = 0.0
    seen: dict[int, float] = {}
    while child.poll() is None:
        if not last and out.exists():
            last = time.perf_counter() - began
        seen |= cpu_of_actors(child.pid)
        if first is None and (found := list(parts.glob("part-*"))):
            done = sum(part.read_bytes().count(b"\n") for part in found)
            first = time.perf_counter() - began, done, sum(seen.values())
        time.sleep(0.1)
    whole = time.perf_counter() - began
    assert child.stderr is not None
    said = child.stderr.read().decode()
    assert child.returncode == 0, said
    assert first is not None, "one block: give more records"
    with out.open(encoding="utf-8") as lines:
        answers = [json.loads(line)["prediction"] for line in lines]
    rest = len(answers) - first[1]
    speed, cpu = rest / ((last or whole) - first[0]), (sum(seen.values()) - first[2]) / rest
    name = f"predict, {workers} worker{'s' * (workers > 1)}"
    return {"name": name, "startup": first[0], "speed": speed, "cpu": cpu, "whole": whole, "answers": answers}


def cpu_of_actors(pid: int) -> dict[int, float]:
    """Seconds of CPU that the processes that answer have used, by process."""
    used = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in "".join(process.cmdline()):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
    return used


def loop(export: Path, questions: Path, batch_size: int, out: Path) -> dict[str, Any]:
    """The plain loop, in a process of its own that imports nothing of fcit_ray."""
    began = time.perf_counter()
    command = [sys.executable, "-c", LOOP, str(export), str(questions), str(batch_size), str(out)]
    subprocess.run(command, env=ONE_THREAD, check=True, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    told = json.loads(out.read_text())
    startup = whole - told["rest_s"]
    rest = len(told["answers"]) - told["first"]
    measured = {"startup": startup, "speed": rest / told["rest_s"], "cpu": told["cpu_s"] / rest, "whole": whole}
    return {"name": "plain loop", **measured, "answers": told["answers"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="folder of a finished run on the miniature, with a gate or not")
    parser.add_argument("--root", type=Path, help="the miniature (default: the run's)")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    config = RunFolder(args.run).config()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        questions, export = place / "questions.jsonl", place / "export"
        write_questions(config, args.root or Path(config.benchmark.root), args.records, questions)
        subprocess.run([*COMMAND, "export", str(args.run), str(export)], check=True, capture_output=True)
        rows = [loop(export, questions, config.evaluation.batch_size, place / "loop.json")]
        rows += [predict(args.run, questions, place / f"{workers}.jsonl", workers) for workers in args.workers]
    truth = rows[0]["answers"]
    table = Table("", "start-up", "questions/s", "of the loop's", "CPU a question", "whole", "unequal")
    for row in rows:
        ratio = row["speed"] / rows[0]["speed"]
        row["unequal"] = sum(given != right for given, right in zip(row.pop("answers"), truth, strict=True))
        table.add_row(
            row["name"],
            f"{row['startup']:.1f} s",
            f"{row['speed']:.0f}",
            f"{ratio:.2f}",
            f"{1000 * row['cpu']:.1f} ms",
            f"{row['whole']:.0f} s",
            str(row["unequal"]),
        )
    console.print(table)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
