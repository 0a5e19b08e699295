"""A run's figures: headline, accuracy matrix, curves by stage and round, forgetting."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fcit_ray.report import charts
from fcit_ray.report.blocks import (
    Block,
    Cell,
    Chart,
    Section,
    Table,
    Text,
    Tiles,
    bytes_in_words,
    known,
    number,
    number_cell,
    time_in_words,
)
from fcit_ray.report.markdown import NO_MATTER_OF_BEST, figures_of
from fcit_ray.report.reading import Told
from fcit_ray.results.tables import UNDEFINED
from fcit_ray.storage.location import child_of


def headline(run: Told) -> list[Block]:
    """What a reader looks for first; of a run that is not finished how far it is."""
    moved = sum(int(record.get("bytes_down", 0)) + int(record.get("bytes_up", 0)) for record in run.records)
    seconds = sum(known(lap) for record in run.records for lap in (record.get("seconds") or {}).values())
    cost = [
        ("Time", time_in_words(seconds) if run.records else UNDEFINED, "rounds and evaluations, wall clock"),
        ("Moved", bytes_in_words(moved), "parameters and reports, down and up"),
    ]
    if run.results is None:
        return [Text(unfinished(run), warns=True), Tiles([*_so_far(run), *cost])]
    grid = figures_of([run.results]).table
    figures = [
        (name, value, MEANINGS.get(name, ""))
        for name, value in zip(grid.header[1:], grid.rows[0][1:], strict=True)
        if name not in run.tasks and name not in NO_MATTER_OF_BEST and not name.endswith(" (unseen)")
    ]
    if "epsilon" in run.results:
        figures.append(("Epsilon", number(known(run.results["epsilon"]), 2), "of differential privacy, spent"))
    return [Tiles([*figures, *cost])]


MEANINGS = {
    "Last": "mean over tasks after the last stage, %",
    "Avg": "mean over stages of the mean over tasks seen, %",
    "Learned": "each task right after its own stage, mean, %",
    "Forgetting": "points lost since each task's best",
    "BWT": "backward transfer, points",
    "Transfer": "mean over the datasets that nobody trained on, %",
}
"""What the columns of the table mean, for those who have not read the documentation."""


def unfinished(run: Told) -> str:
    """That a run is not finished, and how far it is."""
    done = f"{len(run.rounds)} of {run.num_stages * run.num_rounds} rounds" if run.num_stages else "nothing trained"
    evaluated = f"{len(run.evaluations)} of {max(run.num_stages, 1)} evaluations"
    return (
        f"This run is not finished: {done} and {evaluated} are done. What follows is what is there so far; final "
        f"figures there are none yet. `fcit-ray run {child_of(run.folder.shown, 'config.yaml')} --out "
        f"{run.folder.shown} --resume` goes on with it."
    )


def _so_far(run: Told) -> list[tuple[str, str, str]]:
    if not run.evaluations:
        return []
    latest = run.evaluations[-1]
    scores = [known(score) for score in latest["scores"].values()]
    return [
        ("Tasks seen", str(len(scores)), f"of {len(run.tasks)}"),
        (f"After stage {latest['stage'] + 1}", number(_mean(scores)), "mean over the tasks seen so far, %"),
    ]


def score_sections(run: Told, anchor: str) -> list[Section]:
    """The matrix, the curves and what was forgotten; those that there is something to show for."""
    sections = []
    matrix = run.matrix
    if matrix.size and not np.isnan(matrix).all():
        sections.append(Section(f"{anchor}matrix", "Accuracy matrix", [matrix_table(run)]))
    curves: list[Block] = []
    if len(matrix) > 1:
        curves.append(_task_curves(run))
    if run.rounds:
        curves.append(losses({"training loss": [run]}))
    if curves:
        sections.append(Section(f"{anchor}curves", "Curves by stage and round", curves))
    if forgotten := _forgetting(run):
        sections.append(Section(f"{anchor}forgetting", "Forgetting", [forgotten]))
    return sections


def matrix_table(run: Told) -> Table:
    """Stages down, tasks across, coloured by score."""
    rows = []
    for stage, scores in enumerate(run.matrix.tolist(), run.first_stage):
        name = "zero-shot" if stage < 0 else f"stage {stage + 1}"
        seen = [score for score in scores if not math.isnan(score)]
        cells = [number_cell(score, heat=min(max(score / 100, 0.0), 1.0)) for score in scores]
        rows.append([Cell(name), *cells, number_cell(_mean(seen))])
    return Table(
        "Score of each task after each stage, %",
        ["After", *run.tasks, "Mean"],
        rows,
        note="A dash: not evaluated then. Mean: over the tasks evaluated after the stage.",
    )


def _task_curves(run: Told) -> Chart:
    points, rows = [], []
    for stage, scores in enumerate(run.matrix.tolist()):
        places = [(task, score) for task, score in zip(run.tasks, scores, strict=True) if not math.isnan(score)]
        points += [{"x": stage + 1, "y": score, "series": task} for task, score in places]
        rows.append([Cell(f"stage {stage + 1}"), *(number_cell(score) for score in scores)])
    highest = max((point["y"] for point in points), default=0)
    seen = [task for task in run.tasks if any(point["series"] == task for point in points)]
    return Chart(
        "Score by stage",
        f"Lines: score in percent of each of {len(seen)} tasks after each of {len(run.matrix)} stages.",
        charts.line_chart(
            points, seen, x=charts.stage_axis(max(run.num_stages, 1)), y=charts.score_axis(highest),
            description=f"Score of each task after each stage, run {run.label}",
            tooltip=[{"field": "x", "type": "quantitative", "title": "after stage", "format": "d"}],
        ),
        Table("Score by stage, %", ["After", *run.tasks], rows),
        seen,
    )  # fmt: skip


def losses(groups: Mapping[str, Sequence[Told]]) -> Chart | Table:
    """Training loss by round, a line a group of runs: the mean over them. Of one round alone there is no line."""
    everyone = [run for group in groups.values() for run in group]
    num_rounds = max(run.num_rounds for run in everyone)
    num_stages = max(max(run.num_stages for run in everyone), 1)
    values: dict[tuple[int, int], dict[str, float]] = {}
    for name, group in groups.items():
        found: dict[tuple[int, int], list[float]] = {}
        for run in group:
            for record in run.rounds:
                found.setdefault((int(record["stage"]), int(record["round"])), []).append(known(record.get("loss")))
        for place, lost in found.items():
            values.setdefault(place, {})[name] = _mean([value for value in lost if not math.isnan(value)])
    points = [
        {"x": charts.place_of(stage, round, num_rounds), "y": loss, "series": name, "part": f"{name} {stage}",
         "stage": stage + 1, "round": round + 1}
        for (stage, round), by_name in sorted(values.items())
        for name, loss in by_name.items()
        if not math.isnan(loss)
    ]  # fmt: skip
    rows = [
        [Cell(f"stage {stage + 1}, round {round + 1}"), *(number_cell(by_name.get(n, math.nan), 4) for n in groups)]
        for (stage, round), by_name in sorted(values.items())
    ]
    table = Table("Training loss by round", ["Round", *groups], rows)
    if len(rows) < 2:
        return table
    return Chart(
        "Training loss by round",
        f"Lines: mean training loss of the round's clients, {len(values)} rounds in {num_stages} stages.",
        charts.line_chart(
            points, list(groups), x=charts.stage_axis(num_stages),
            y={"title": "training loss", "scale": {"domainMin": 0}, "axis": {"tickCount": 5}},
            description="Training loss by round", breaks=True,
            rules=[stage + 0.5 for stage in range(1, num_stages)] if num_stages <= 40 else (),
            tooltip=round_tooltip(),
        ),
        table,
        list(groups) if len(groups) > 1 else (),
    )  # fmt: skip


def round_tooltip() -> list[dict[str, Any]]:
    """What a point of a round says of its place."""
    return [
        {"field": "stage", "type": "quantitative", "title": "stage", "format": "d"},
        {"field": "round", "type": "quantitative", "title": "round", "format": "d"},
    ]


def forgotten(run: Told) -> dict[str, tuple[float, float, float]]:
    """For every task evaluated before the last stage so far: its first score, its best before then, its score then."""
    matrix, lost = run.matrix, {}
    for index, task in enumerate(run.tasks):
        earlier = [score for score in matrix[:-1, index].tolist() if not math.isnan(score)]
        if earlier and len(matrix) > 1:
            lost[task] = (earlier[0], max(earlier), float(matrix[-1, index]))
    return lost


def _forgetting(run: Told) -> Chart | None:
    lost = {task: values for task, values in forgotten(run).items() if not math.isnan(values[2])}
    if not lost:
        return None
    bars = [{"name": task, "value": best - now} for task, (_, best, now) in lost.items()]
    rows = [[Cell(task), *map(number_cell, (first, best, now, best - now, now - first))]
            for task, (first, best, now) in lost.items()]  # fmt: skip
    last = "the last stage" if run.finished else f"stage {len(run.matrix)}, the latest so far"
    return Chart(
        "Points lost since a task's best",
        f"Bars: percentage points that each of {len(lost)} tasks lost between its best score and {last}.",
        charts.flat_bars(bars, title="percentage points lost", description="Forgetting by task"),
        Table("Forgetting by task", ["Task", "First", "Best before", "Now", "Forgotten", "BWT"], rows),
        note="Below zero: the task still improved. The last task has had no time to be forgotten.",
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
