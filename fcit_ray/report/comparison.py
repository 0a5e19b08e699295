"""Several runs beside each other: the table, curves, what is said below the table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fcit_ray.report import charts
from fcit_ray.report.blocks import Block, Cell, Chart, Section, Table, Text, number_cell
from fcit_ray.report.markdown import Grid, Heading, Written, figures_of, leading
from fcit_ray.report.reading import Told
from fcit_ray.report.scores import losses
from fcit_ray.report.setup import diagnostics_blocks, differences

MOST_COLUMNS = 24
"""Runs that may stand beside each other in the table of what differs."""


def comparison_sections(
    runs: Sequence[Told], references: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[Section]:  # fmt: skip
    """What is said of all runs together.

    Args:
        runs: finished or not; a table has only the finished ones.
        references: results that no run folder holds, such as the majority answer's; first in the table.
        names: of the runs, as they are shown.
    """
    finished = [run.results for run in runs if run.results is not None]
    sections = []
    if finished:
        written = figures_of([*references, *finished])
        sections.append(Section("table", "Comparison", table_blocks(written, _tasks(runs))))
    grouped: dict[str, list[Told]] = {}
    for run in runs:
        grouped.setdefault(run.label if run.finished else f"{run.label} (unfinished)", []).append(run)
    # What is trained in one stage alone (centralised) has no curve over stages.
    streams = {name: group for name, group in grouped.items() if all(run.num_stages > 1 for run in group)}
    curves: list[Block] = []
    if any(len(run.matrix) for group in streams.values() for run in group):
        curves.append(_mean_curves(streams))
    if any(run.rounds for group in streams.values() for run in group):
        curves.append(losses({name: group for name, group in streams.items() if any(run.rounds for run in group)}))
    if curves:
        sections.append(Section("curves", "Curves by stage and round", curves))
    if odd := diagnostics_blocks(runs):
        sections.append(Section("diagnostics", "Diagnostics", odd))
    if len(runs) <= MOST_COLUMNS and (table := differences(runs, names)):
        sections.append(Section("differences", "What differs", [table]))
    return sections


def table_blocks(written: Written, tasks: Sequence[str]) -> list[Block]:
    """The table of the results room, and what it says below it."""
    parts = list(written.rest)
    notes = ["Bold: the best of its column."]
    while parts and isinstance(parts[0], str):  # what follows the table at once is its note
        notes.append(str(parts.pop(0)))
    title = "Figures of the finished runs, one row a method or setting"
    blocks: list[Block] = [_table(title, written.table, tasks, " ".join(notes), best=True)]
    for part in parts:
        if isinstance(part, Heading):
            title = part.text
        else:
            blocks.append(_table(title, part, tasks, "") if isinstance(part, Grid) else Text(part))
    return blocks


def _table(caption: str, grid: Grid, tasks: Sequence[str], note: str, best: bool = False) -> Table:
    winners = [grid.best(column) if best else set() for column in range(len(grid.header))]
    rows = []
    for index, row in enumerate(grid.rows):
        cells = []
        for column, text in enumerate(row):
            value = leading(text) if column else None
            coloured = grid.header[column] in tasks and value is not None
            heat = min(max((value or 0.0) / 100, 0.0), 1.0) if coloured else None
            cells.append(Cell(text, value if column else text, heat, index in winners[column]))
        rows.append(cells)
    return Table(caption, grid.header, rows, sortable=True, note=note)


def _mean_curves(groups: Mapping[str, Sequence[Told]]) -> Chart:
    """Mean score over the tasks seen after each stage, a line a group: the mean over its runs."""
    means: dict[str, dict[int, list[float]]] = {name: {} for name in groups}
    for name, group in groups.items():
        for run in group:
            for stage, scores in enumerate(run.matrix.tolist() if run.first_stage == 0 else ()):
                if seen := [score for score in scores if not math.isnan(score)]:
                    means[name].setdefault(stage, []).append(sum(seen) / len(seen))
    values = {name: {stage: sum(of) / len(of) for stage, of in by_stage.items()} for name, by_stage in means.items()}
    num_stages = max(max(run.num_stages for group in groups.values() for run in group), 1)
    points = [
        {"x": stage + 1, "y": mean, "series": name} for name, each in values.items() for stage, mean in each.items()
    ]
    stages = sorted({stage for each in values.values() for stage in each})
    rows = [
        [Cell(f"stage {stage + 1}"), *(number_cell(each.get(stage, math.nan)) for each in values.values())]
        for stage in stages
    ]
    several = any(len(group) > 1 for group in groups.values())
    return Chart(
        "Mean score by stage",
        f"Lines: mean score in percent over the tasks seen, after each stage, of {len(groups)} methods or settings.",
        charts.line_chart(
            points, list(groups), x=charts.stage_axis(num_stages),
            y=charts.score_axis(max((float(str(point["y"])) for point in points), default=0.0)),
            description="Mean score over the tasks seen after each stage",
            tooltip=[{"field": "x", "type": "quantitative", "title": "after stage", "format": "d"}],
        ),
        Table("Mean score over the tasks seen, %", ["After", *groups], rows),
        list(groups) if len(groups) > 1 else (),
        note="Each line is the mean over the runs of its row." if several else "",
    )  # fmt: skip


def _tasks(runs: Sequence[Told]) -> list[str]:
    return list(dict.fromkeys(task for run in runs for task in run.tasks))
