"""What a run cost: seconds by phase, where the workers' time went, bytes by direction; each by stage."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fcit_ray.report import charts
from fcit_ray.report.blocks import Block, Cell, Chart, Table, bytes_in_words, known, number_cell, time_in_words
from fcit_ray.report.reading import Told

_PHASES = ("prepare", "train", "aggregate", "answer", "score")
_CAUSES = {
    "compute_s": "training",
    "help_s": "helping",
    "exchange_s": "exchange",
    "starved_s": "starved",
    "other_s": "handing over",
    "answer_s": "answering",
    "idle_s": "idle",
    "server_s": "server",
}
"""What a record has of each worker, and its name here."""


def cost_blocks(run: Told) -> list[Block]:
    """Seconds by phase, where the workers' time went, and bytes by direction, by stage."""
    timed = [record for record in run.records if isinstance(record.get("seconds"), Mapping) and "stage" in record]
    if not timed:
        return []
    laps: dict[int, dict[str, float]] = {}
    moved: dict[int, dict[str, float]] = {}
    for record in timed:
        stage = int(record["stage"])
        for phase, seconds in record["seconds"].items():
            _add(laps, stage, str(phase), known(seconds))
        for name, key in (("down", "bytes_down"), ("up", "bytes_up")):
            if key in record:
                _add(moved, stage, name, known(record[key]))
    names = [*_PHASES, *sorted({name for each in laps.values() for name in each} - {*_PHASES})]
    phases = [name for name in names if any(name in each for each in laps.values())]
    seconds = _by_stage(
        "Seconds by stage and phase", "seconds", laps, phases,
        "Wall clock. prepare: data and values laid out; train: the clients' updates; aggregate: the server's round; "
        "answer and score: the evaluation.",
        time_in_words,
    )  # fmt: skip
    blocks: list[Block] = [seconds, *_hours(run)]
    if moved:
        blocks.append(
            _by_stage(
                "Bytes by stage and direction", "MB", moved, ["down", "up"],
                "Parameters and reports between server and clients; 1 MB is a million bytes.", bytes_in_words, 1e6,
            )
        )  # fmt: skip
    return blocks


def _hours(run: Told) -> list[Block]:
    """The workers' seconds in the rounds of each stage by cause; nothing of runs that did not count them."""
    spent: dict[int, dict[str, float]] = {}
    for record in run.rounds:
        for worker in record.get("workers") or ():
            for key, name in _CAUSES.items():
                _add(spent, int(record["stage"]), name, known(worker.get(key)))
    if not spent:
        return []
    total = math.fsum(value for each in spent.values() for value in each.values())
    shares = {name: math.fsum(each.get(name, 0.0) for each in spent.values()) for name in _CAUSES.values()}
    told = ", ".join(f"{name} {100 * value / (total or 1):.1f} %" for name, value in shares.items())
    return [
        _by_stage(
            "Where the workers' time went", "seconds of workers", spent, [*_CAUSES.values()],
            f"All workers together, from round to round. {told}. training: steps of clients; helping: micro-batches of "
            "another worker's client; exchange: values moved for those, or waited for; starved: had a client and no "
            "batch; handing over: values fetched, updates sent; answering: questions of a stage that is over; idle: "
            "nothing to do while others trained; server: nothing to do while the server planned, averaged or saved.",
            time_in_words,
        )
    ]  # fmt: skip


def _by_stage(
    title: str,
    unit: str,
    values: Mapping[int, Mapping[str, float]],
    series: Sequence[str],
    note: str,
    words: Any,
    scale: float = 1.0,
) -> Chart:
    """Stacked bars."""
    names = {stage: "zero-shot" if stage < 0 else str(stage + 1) for stage in sorted(values)}
    bars = [
        {"x": name, "y": values[stage][key] / scale, "series": key, "rank": rank}
        for stage, name in names.items()
        for rank, key in enumerate(series)
        if key in values[stage]
    ]
    rows = []
    for stage, name in names.items():
        total = math.fsum(values[stage].get(key, 0.0) for key in series)
        cells = [number_cell(values[stage].get(key, math.nan) / scale, 2) for key in series]
        rows.append([Cell(name if stage < 0 else f"stage {name}"), *cells, Cell(words(total), total)])
    sums = [math.fsum(each.get(key, 0.0) for each in values.values()) for key in series]
    total = math.fsum(sums)
    rows.append([Cell("all"), *(number_cell(value / scale, 2) for value in sums), Cell(words(total), total)])
    return Chart(
        title,
        f"Stacked bars: {unit} of {', '.join(series)} in each of {len(names)} stages; {words(total)} in all.",
        charts.bar_chart(
            bars, series, x={"sort": [*names.values()], "axis": {"title": "stage", "labelAngle": 0}},
            y={"title": unit, "axis": {"tickCount": 5}}, description=title,
        ),
        Table(f"{title}, {unit}", ["Stage", *series, "In all"], rows),
        series,
        note=note,
    )  # fmt: skip


def _add(table: dict[int, dict[str, float]], stage: int, name: str, value: float) -> None:
    if not math.isnan(value):
        row = table.setdefault(stage, {})
        row[name] = row.get(name, 0.0) + value
