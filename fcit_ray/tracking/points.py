"""What trackers are told: the records of metrics.jsonl as numbers by name, and the figures and files of the end."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcit_ray.config.schema import Config
from fcit_ray.results.rows import row_from_results
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.tables import markdown_table

FILES = (
    "config.yaml", "metrics.jsonl", "partition.json", "results.json", "report.html", "accuracy_matrix.png",
    "curves.png",
)  # fmt: skip
"""What is handed over at the end, of those that there are."""

_ABOUT = ("kind", "stage", "round", "clients", "workers", "seconds", "scores", "transfer", "datasets", "num_records")


@dataclass(frozen=True)
class Point:
    """One record as numbers.

    Attributes:
        index: of the record, from 0. It is the same in every session, as a resumed run makes the same records again.
        step: rounds finished since the beginning of the run, over all stages; 0 is zero-shot. It falls where an
            evaluation was answered behind rounds of the next stage: it stands after them, at the step of its stage.
        metrics: by name, all finite. No two points have the same name at the same step.
    """

    index: int
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class End:
    """What a finished run leaves.

    Attributes:
        step: of the last point.
        figures: `final/last` and the like, by name; those that are not defined are absent.
        table: the run's row, as Markdown.
        files: whole paths.
    """

    step: int
    figures: dict[str, float]
    table: str
    files: tuple[Path, ...]


def points_of(file: Path, config: Config) -> list[Point]:
    """The records that are whole by now, while another process writes them.

    Args:
        file: metrics.jsonl.
        config: of the run.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    # What follows the last line's end is being written.
    records = [json.loads(line) for line in content.split(b"\n")[:-1]]
    rounds = config.benchmark.num_rounds if config.regime == "federated" else 1
    return [_point(index, record, rounds) for index, record in enumerate(records)]


def end_of(folder: RunFolder, points: Sequence[Point]) -> End:
    """What a finished run leaves, of its folder."""
    results = folder.results()
    tasks = zip(results["tasks"], results["matrix"][-1], strict=True)
    learned, transfer = results.get("learned") or {}, results.get("transfer") or {}
    figures = {
        **{f"final/{name}": results.get(name) for name in ("last", "avg", "forgetting", "bwt")},
        "final/learned": learned.get("mean"),
        "final/transfer": transfer.get("mean"),
        "final/seconds": results["seconds"],
        "final/moved_bytes": results["moved_bytes"],
        **_named("final/task", dict(tasks)),
        **_named("final/learned_task", learned.get("scores", {})),
    }
    return End(
        step=points[-1].step if points else 0,
        figures={name: float(value) for name, value in figures.items() if _is_number(value)},
        table=markdown_table([row_from_results(results)]),
        files=tuple(folder.path / name for name in FILES if folder.local(name).is_file()),
    )


def _point(index: int, record: Mapping[str, Any], num_rounds: int) -> Point:
    stage = record.get("stage", -1)
    kind = str(record.get("kind", "record"))
    is_round = "round" in record
    step = stage * num_rounds + record["round"] + 1 if is_round else (stage + 1) * num_rounds
    prefix = {"round": "train", "evaluation": "eval"}.get(kind, kind)
    metrics = {
        f"{prefix}/stage": stage,
        **({f"{prefix}/round": record["round"]} if is_round else {}),
        **{f"{prefix}/{key}": value for key, value in record.items() if key not in _ABOUT},
        **_named(f"seconds/{prefix}", record.get("seconds", {})),
    }
    if kind == "evaluation":
        metrics |= _with_mean("eval", "task", record["scores"])
        metrics |= _with_mean("transfer", "dataset", record.get("transfer", {}))
    metrics |= dict(_of_clients(record.get("clients", [])))
    for worker in record.get("workers", []):  # their sums: of one worker they are in metrics.jsonl
        for key, value in worker.items():
            if key != "worker":
                metrics[f"workers/{key}"] = metrics.get(f"workers/{key}", 0.0) + value
    return Point(index, step, {name: float(value) for name, value in metrics.items() if _is_number(value)})


def _with_mean(prefix: str, what: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    known = [score for score in scores.values() if _is_number(score)]
    mean = {f"{prefix}/mean": math.fsum(known) / len(known)} if known else {}
    return {**mean, **_named(f"{prefix}/{what}", scores)}


def _of_clients(clients: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Mean, smallest and largest over a round's clients of all that each tells of itself; a client's own are in
    metrics.jsonl: clients change from round to round, and a curve of each would be full of holes."""
    values: dict[str, list[float]] = {}
    for client in clients:
        for key, value in client.items():
            if key != "client" and _is_number(value):
                values.setdefault(key, []).append(float(value))
    for key, found in values.items():
        yield f"clients/{key}/mean", math.fsum(found) / len(found)
        yield f"clients/{key}/min", min(found)
        yield f"clients/{key}/max", max(found)


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys under a prefix, of letters that every tracker takes; two that would be one are kept apart."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}/{re.sub(r'[^A-Za-z0-9_. -]', '_', key)}"
        while name in named:
            name += "_"
        named[name] = value
    return named


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
