"""The figures of finished runs, gathered into one table: methods down, Last, Avg, Forgetting and the tasks across."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fcit_ray.errors import UserError
from fcit_ray.results.figures import matrix_from_results

UNDEFINED = "–"  # noqa: RUF001 (an en dash, as in the paper's tables)
"""Shown for a figure that does not exist, such as the forgetting of a run of one stage."""

_SHORT = {
    "ArxivQA": "Arxiv", "Flickr30k-cap": "Flick", "ImageNet-R": "IN-R", "OCRVQA": "OCR", "IconQA": "Icon",
    "CLEVR-Math": "CLEVR", "FigureQA": "Fig", "super-CLEVR": "sCLEVR", "AOKVQA": "AOK", "Grounding": "Ground",
    "DVQA": "DVQA", "TabMWP": "TabMWP", "General": "Gen.",
}  # fmt: skip


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
        seconds: wall clock of rounds and evaluations.
        moved_bytes: down and up, over the whole run.
        transfer: for each seed the mean over the datasets that nobody trained on; () if the run has none.
        unseen: for each such dataset its scores, an entry a seed.
        iou: mean IoU of Grounding's boxes after the last stage, times 100; empty where the runs have none.
        scoring: rule of the scores.
        captions: rule of the captions' scores; empty where the runs have none.
    """

    label: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    last: tuple[float, ...]
    avg: tuple[float, ...]
    forgetting: tuple[float, ...]
    bwt: tuple[float, ...]
    seconds: tuple[float, ...]
    moved_bytes: tuple[float, ...]
    transfer: tuple[float, ...] = ()
    unseen: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    iou: tuple[float, ...] = ()
    scoring: str = "strict"
    captions: str = ""

    def score(self, task: str) -> tuple[float, ...]:
        """One task's scores, an entry a seed; empty if the runs have no such task."""
        return tuple(row[self.tasks.index(task)] for row in self.scores) if task in self.tasks else ()

    def unseen_score(self, dataset: str) -> tuple[float, ...]:
        """One unseen dataset's scores, an entry a seed; empty if the runs did not answer it, or trained on it."""
        return self.unseen.get(dataset, ())


def row_from_results(results: Mapping[str, Any]) -> Row:
    """The row of one run.

    Raises:
        UserError: names the key that results.json lacks.
    """
    needed = ("label", "seed", "tasks", "matrix", "last", "avg", "forgetting", "bwt", "seconds", "moved_bytes")
    if missing := [key for key in needed if key not in results]:
        raise UserError(f"results.json: lacks {', '.join(missing)}; written by another release of fcit_ray?")
    figures = {key: (math.nan if results[key] is None else float(results[key]),) for key in needed[4:]}
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
        **figures,
    )


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
                seconds=tuple(value for row in group for value in row.seconds),
                moved_bytes=tuple(value for row in group for value in row.moved_bytes),
                transfer=tuple(value for row in group for value in row.transfer),
                unseen={name: tuple(v for row in group for v in row.unseen[name]) for name in group[0].unseen},
                iou=tuple(value for row in group for value in row.iou),
                scoring=group[0].scoring,
                captions=group[0].captions,
            )
        )
    return merged


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the latter is nan for fewer than two values, both for none."""
    if not values:
        return math.nan, math.nan
    spread = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan
    return sum(values) / len(values), spread


def comparison_table(rows: Iterable[Row], title: str | None = None) -> Table:
    """For the terminal; with eight tasks and a label of 15 letters 80 columns wide for one seed, 95 for several.

    The best figure of each column is bold. Last, Avg and Forgetting carry their spread over seeds; tasks only the mean.
    Where the terminal is narrower labels are folded, then columns cut off at the right; a number is never cut short.
    """
    rows = merge_seeds(rows)
    tasks, unseen = _tasks(rows), _unseen(rows)
    caption = _caption(rows)
    note = Text(caption, no_wrap=False, overflow="fold") if caption else None
    table = Table(title=title, caption=note, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("Method", overflow="fold", min_width=8, max_width=24)
    columns: list[tuple[list[tuple[float, ...]], bool, bool]] = [
        ([row.last for row in rows], True, True),
        ([row.avg for row in rows], True, True),
        ([row.forgetting for row in rows], False, True),
        *(([row.score(task) for row in rows], True, False) for task in tasks),
    ]
    names = ["Last", "Avg", "Forg.", *shorten(tasks)]
    if unseen:
        columns.append(([row.transfer for row in rows], True, True))
        columns += [([row.unseen_score(name) for row in rows], True, False) for name in unseen]
        names += ["Transfer", *shorten(unseen)]
    if any(row.iou for row in rows):
        columns.append(([row.iou for row in rows], True, False))
        names.append("IoU")
    for name, (cells, _, spread) in zip(names, columns, strict=True):
        widest = max(len(text) for text in (name, *(_cell(values, spread) for values in cells)))
        table.add_column(Text(name), justify="right", no_wrap=True, min_width=widest)
    best = [_best(cells, higher) for cells, higher, _ in columns]
    for index, row in enumerate(rows):
        texts = [
            Text(_cell(cells[index], spread), style="bold" if index in winners else "")
            for (cells, _, spread), winners in zip(columns, best, strict=True)
        ]
        table.add_row(Text(_label(row)), *texts)
    return table


def markdown_table(rows: Iterable[Row]) -> str:
    """For a README: full task names, backward transfer and cost too, spread over seeds everywhere."""
    rows = merge_seeds(rows)
    tasks, unseen = _tasks(rows), _unseen(rows)
    header = ["Method", "Last", "Avg", "Forgetting", "BWT", "Seconds", "MB moved", *tasks]
    if unseen:
        header += ["Transfer", *(f"{name} (unseen)" for name in unseen)]
    with_iou = any(row.iou for row in rows)
    header += ["Grounding's mean IoU"] if with_iou else []
    lines = [_markdown_line(header), "|---|" + "---:|" * (len(header) - 1)]
    for row in rows:
        figures = [_cell(value, spread=True) for value in (row.last, row.avg, row.forgetting, row.bwt)]
        megabytes = mean_and_spread(row.moved_bytes)[0] / 1e6
        cost = [f"{mean_and_spread(row.seconds)[0]:.0f}", f"{megabytes:.1f}"] if sum(row.seconds) else [UNDEFINED] * 2
        scores = [_cell(row.score(task), spread=True) for task in tasks]
        if unseen:
            scores += [_cell(values, spread=True) for values in (row.transfer, *map(row.unseen_score, unseen))]
        scores += [_cell(row.iou, spread=True)] if with_iou else []
        lines.append(_markdown_line([_label(row), *figures, *cost, *scores]))
    if caption := _caption(rows):
        lines += ["", caption]
    return "\n".join(lines) + "\n"


def shorten(tasks: Sequence[str]) -> list[str]:
    """Names of at most seven letters, all different; the full ones if that cannot be had."""
    short = [_SHORT.get(task, task if len(task) <= 7 else f"{task[:6]}…") for task in tasks]
    return short if len(set(short)) == len(tasks) else list(tasks)


def _tasks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.tasks))


def _unseen(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.unseen))


def _caption(rows: Sequence[Row]) -> str | None:
    counts = sorted({len(row.seeds) for row in rows})
    notes = []
    if counts and counts[-1] > 1:
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(f"Mean ± sample standard deviation over {seeds} seeds.")
    if any(row.captions == "portable" for row in rows):
        notes.append("Captions: without METEOR, on words of our own; not the paper's number.")
    return " ".join(notes) or None


def _label(row: Row) -> str:
    """The row's name; it says so where the scores are not by the default rules."""
    odd = f"{row.scoring} scoring" if row.scoring != "strict" else "full captions" if row.captions == "full" else ""
    return f"{row.label} ({odd})" if odd else row.label


def _cell(values: Sequence[float], spread: bool) -> str:
    mean, deviation = mean_and_spread(values)
    if math.isnan(mean):
        return UNDEFINED
    # Adding 0.0 after rounding turns -0.0 into 0.0.
    text = f"{round(mean, 1) + 0.0:.1f}"
    return f"{text}±{deviation:.1f}" if spread and math.isfinite(deviation) else text


def _best(cells: Sequence[Sequence[float]], higher: bool) -> set[int]:
    """Indices of the best mean as shown, ties included; none if there is nothing to compare."""
    means = [round(mean_and_spread(values)[0], 1) for values in cells]
    known = [mean for mean in means if not math.isnan(mean)]
    if len(known) < 2:
        return set()
    winner = max(known) if higher else min(known)
    return {index for index, mean in enumerate(means) if mean == winner}


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
