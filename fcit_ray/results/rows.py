"""One row of a table: a method's finished runs, one entry a seed."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fcit_ray.errors import UserError
from fcit_ray.results.figures import learned_from_results, matrix_from_results

UNDEFINED = "–"  # noqa: RUF001 (an en dash, as in the paper's tables)
"""Shown for a figure that does not exist, such as the forgetting of a run of one stage."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a method's runs, one entry a seed, in the order of `seeds`. Figures are in percent.

    Attributes:
        label: the run's name in tables.
        tasks: names of the tasks, T of them.
        seeds: of the runs.
        scores: for each seed the tasks' scores after the last stage, (T,).
        last: mean over tasks after the last stage.
        avg: mean over stages of the mean over tasks seen; nan where undefined, as are the following.
        forgetting: percentage points lost since each task's best.
        bwt: backward transfer, percentage points.
        learned: mean over tasks of the score right after the stage that taught the task first.
        seconds: wall clock of rounds and evaluations.
        moved_bytes: down and up, over the whole run.
        transfer: for each seed the mean over the datasets that nobody trained on; () if the run has none.
        unseen: for each such dataset its scores, an entry a seed.
        iou: mean IoU of Grounding's boxes after the last stage, times 100; empty where the runs have none.
        scoring: rule of the scores.
        captions: rule of the captions' scores; empty where the runs have none.
        failures: for each seed what failed, as `figures.failures_from` says; {} where nothing did.
        competes: whether it is a method of a federation; else a reference: majority answer, zero-shot, centralised.
        contest: what rows must share to compete with each other: the benchmark, but for what may be opened, and the
            frozen base.
    """

    label: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    last: tuple[float, ...]
    avg: tuple[float, ...]
    forgetting: tuple[float, ...]
    bwt: tuple[float, ...]
    learned: tuple[float, ...]
    seconds: tuple[float, ...]
    moved_bytes: tuple[float, ...]
    transfer: tuple[float, ...] = ()
    unseen: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    iou: tuple[float, ...] = ()
    scoring: str = "strict"
    captions: str = ""
    failures: tuple[Mapping[str, int], ...] = ()
    competes: bool = True
    contest: str = ""

    @property
    def shown(self) -> str:
        """The label; it says so where the scores are not by the default rules."""
        odd = f"{self.scoring} scoring" if self.scoring != "strict" else ""
        odd = odd or ("full captions" if self.captions == "full" else "")
        return f"{self.label} ({odd})" if odd else self.label

    @property
    def misses(self) -> bool:
        """Whether its figures lack any client's update."""
        return any(failures.get("missing", 0) for failures in self.failures)

    @property
    def failed(self) -> str:
        """Which client updates are missing, or came only when they were tried again; empty where there are none."""
        told = []
        for seed, failures in zip(self.seeds, self.failures, strict=False):
            missing, retried = failures.get("missing", 0), failures.get("retried", 0)
            parts = [f"{missing} of {failures.get('updates')} updates missing"] if missing else []
            parts += [f"{retried} tried again"] if retried else []
            if parts:
                of = f" (seed {seed})" if len(self.seeds) > 1 else ""
                told.append(f"{self.label}{of}: {', '.join(parts)}.")
        return " ".join(told)

    def score(self, task: str) -> tuple[float, ...]:
        """One task's scores, an entry a seed; empty if the runs have no such task."""
        return tuple(row[self.tasks.index(task)] for row in self.scores) if task in self.tasks else ()

    def unseen_score(self, dataset: str) -> tuple[float, ...]:
        """One unseen dataset's scores, an entry a seed; empty if the runs did not answer it, or trained on it."""
        return self.unseen.get(dataset, ())


_HOW_READ = ("follow_links_to", "max_table_mb")
"""Keys of `benchmark` that say what may be opened, not what is learned."""


def row_from_results(results: Mapping[str, Any]) -> Row:
    """The row of one run.

    Raises:
        UserError: names the key that results.json lacks.
    """
    needed = ("label", "seed", "tasks", "matrix", "last", "avg", "forgetting", "bwt", "seconds", "moved_bytes")
    if missing := [key for key in needed if key not in results]:
        raise UserError(f"results.json: lacks {', '.join(missing)}; written by another release of fcit_ray?")
    figures = {key: (math.nan if results[key] is None else float(results[key]),) for key in needed[4:]}
    learned, config = learned_from_results(results), results.get("config", {})
    # Older releases did not keep the configuration: what has stages was a federation.
    federated = config["regime"] == "federated" if config else len(results["matrix"]) > 1
    return Row(
        label=results["label"],
        tasks=tuple(results["tasks"]),
        seeds=(results["seed"],),
        scores=(tuple(matrix_from_results(results)[-1].tolist()),),
        transfer=(results["transfer"]["mean"],) if "transfer" in results else (),
        unseen={name: (score,) for name, score in results.get("transfer", {}).get("scores", {}).items()},
        iou=tuple(100 * parts["mean_iou"] for parts in results.get("diagnostics", {}).values() if "mean_iou" in parts),
        scoring=results.get("scoring", "strict"),
        captions=results.get("captions", ""),
        learned=(learned["mean"] if learned else math.nan,),
        failures=(results.get("failures", {}),),
        competes=federated,
        contest=_contest(config),
        **figures,
    )


def _contest(config: Mapping[str, Any]) -> str:
    benchmark = {key: value for key, value in (config.get("benchmark") or {}).items() if key not in _HOW_READ}
    return json.dumps([benchmark, config.get("model", {}).get("path")], sort_keys=True)


def merge_seeds(rows: Iterable[Row]) -> list[Row]:
    """One row a label and rule of scoring, in order of first appearance, holding all its seeds.

    Labels are expected to tell unlike runs apart (`tell_apart`).

    Raises:
        ValueError: runs of one label differ in tasks, or repeat a seed (which would understate the spread).
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.label, row.scoring, row.captions), []).append(row)
    merged = []
    for (label, _, _), group in groups.items():
        seeds = tuple(seed for row in group for seed in row.seeds)
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{label!r}: seeds {seeds} repeat; give runs that differ another `name`")
        if len({row.tasks for row in group}) > 1:
            raise ValueError(f"{label!r}: runs of different tasks; give them different `name`s")
        if len({tuple(row.unseen) for row in group}) > 1:
            raise ValueError(f"{label!r}: runs of different benchmark.transfer; give them different `name`s")
        merged.append(
            Row(
                label=label,
                tasks=group[0].tasks,
                seeds=seeds,
                scores=tuple(scores for row in group for scores in row.scores),
                last=tuple(value for row in group for value in row.last),
                avg=tuple(value for row in group for value in row.avg),
                forgetting=tuple(value for row in group for value in row.forgetting),
                bwt=tuple(value for row in group for value in row.bwt),
                learned=tuple(value for row in group for value in row.learned),
                seconds=tuple(value for row in group for value in row.seconds),
                moved_bytes=tuple(value for row in group for value in row.moved_bytes),
                transfer=tuple(value for row in group for value in row.transfer),
                unseen={name: tuple(v for row in group for v in row.unseen[name]) for name in group[0].unseen},
                iou=tuple(value for row in group for value in row.iou),
                failures=tuple(failures for row in group for failures in row.failures),
                scoring=group[0].scoring,
                captions=group[0].captions,
                competes=group[0].competes,
                contest=group[0].contest,
            )
        )
    return merged


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the latter is nan for fewer than two values, both for none."""
    if not values:
        return math.nan, math.nan
    spread = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan
    return sum(values) / len(values), spread


def markdown_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
