"""What happened while a run trained: who trained which subspace, gates, norms, time and bytes, who holds what."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fcit_ray.report import charts
from fcit_ray.report.answering import answering_tables
from fcit_ray.report.blocks import (
    Block,
    Cell,
    Chart,
    Section,
    Table,
    Text,
    count_cell,
    known,
    number,
    number_cell,
)
from fcit_ray.report.cost import cost_blocks
from fcit_ray.report.reading import Told
from fcit_ray.report.scores import round_tooltip

_MOST_CLIENTS = 60
"""Columns that a table of clients may have; of more the picture of the partition is easier to read."""


def training_sections(run: Told, anchor: str) -> list[Section]:
    """Those that the run's records have something to say about."""
    subspaces = [*_who_trained(run), *_likeness(run)]
    gates = _gates(run)
    found: list[tuple[str, str, list[Block]]] = [
        ("subspaces", "Subspaces: who trained which, and how near they are", subspaces),
        ("gates", "Gate weights by task", [gates] if gates else []),
        ("norms", "Norms of the updates", _norms(run)),
        ("cost", "Time and bytes by phase", [*cost_blocks(run), *answering_tables(run)]),
        ("partition", "Who holds which data", _partition(run)),
    ]
    return [Section(f"{anchor}{name}", title, blocks) for name, title, blocks in found if blocks]


def _who_trained(run: Told) -> list[Block]:
    """Updates of each task in each subspace; nothing where the run has one adapter alone."""
    updates: dict[str, dict[int, int]] = {}
    rounds: list[tuple[Mapping[str, Any], dict[int, list[int]]]] = []
    for record in run.rounds:
        by_subspace: dict[int, list[int]] = {}
        for client in record.get("clients") or ():
            for index in client.get("trained") or ():
                counts = updates.setdefault(str(client.get("task")), {})
                counts[int(index)] = counts.get(int(index), 0) + 1
                by_subspace.setdefault(int(index), []).append(int(client["client"]))
        rounds.append((record, by_subspace))
    indices = sorted({index for counts in updates.values() for index in counts})
    if len(indices) < 2:
        return []
    header = [f"s{index}" for index in indices]
    by_task = [
        [Cell(task), *(count_cell(counts.get(index, 0), counts.get(index, 0) / sum(counts.values()))
                       for index in indices)]
        for task, counts in updates.items()
    ]  # fmt: skip
    by_round = [
        [Cell(f"stage {record['stage'] + 1}, round {record['round'] + 1}"),
         *(Cell(", ".join(map(str, sorted(found.get(index, ())))) or "·") for index in indices)]
        for record, found in rounds
    ]  # fmt: skip
    return [
        Table(
            "Client updates by task and subspace", ["Task", *header], by_task,
            note="How many clients' updates on a task's records trained which subspace (s0, s1, ...), in all rounds.",
        ),
        Table("Clients by round and subspace", ["Round", *header], by_round, folded=True),
    ]  # fmt: skip


def _likeness(run: Told) -> list[Block]:
    cosines, why_not = run.remembered()
    blocks: list[Block] = [Text(why_not, warns=True)] if why_not else []
    for what, matrix in cosines.items():
        names = [
            f"{'s' if 'subspaces' in what else 'stage '}{index + ('stages' in what)}" for index in range(len(matrix))
        ]
        rows = [
            [Cell(name), *(number_cell(value, 3, heat=min(max(value, 0.0), 1.0)) for value in row)]
            for name, row in zip(names, matrix, strict=True)
        ]
        blocks.append(
            Table(
                f"Cosines between the {what}", ["", *names], rows,
                note="1: the same direction, so that samples cannot be told apart by them; of the newest checkpoint.",
            )
        )  # fmt: skip
    return blocks


def _gates(run: Told) -> Table | None:
    """Mean gate weight of every dataset's answers, of the last evaluation that answered it."""
    found: dict[str, tuple[int, list[float]]] = {}
    for record in run.evaluations:
        for dataset, parts in (record.get("datasets") or {}).items():
            if gate := [known(weight) for weight in parts.get("mean_gate") or ()]:
                found[dataset] = (int(record["stage"]), gate)
    if not found:
        return None
    width = max(len(gate) for _, gate in found.values())
    rows = [
        [Cell(dataset), Cell(f"stage {stage + 1}" if stage >= 0 else "zero-shot", stage),
         *(number_cell(weight, 3, heat=min(max(weight, 0.0), 1.0)) for weight in gate),
         *[number_cell(math.nan)] * (width - len(gate))]
        for dataset, (stage, gate) in found.items()
    ]  # fmt: skip
    return Table(
        "Mean gate weight of each subspace, by dataset",
        ["Dataset", "After", *(f"s{index}" for index in range(width))],
        rows,
        note="Means over the answers of the latest evaluation of each dataset. s0, s1, ...: the subspaces (adapters).",
    )


def _norms(run: Told) -> list[Block]:
    num_rounds, num_stages = run.num_rounds, max(run.num_stages, 1)
    lines, cloud, rows = [], [], []
    for record in run.rounds:
        stage, round = int(record["stage"]), int(record["round"])
        place = {"x": charts.place_of(stage, round, num_rounds), "stage": stage + 1, "round": round + 1}
        norm = known(record.get("global_delta_norm"))
        if not math.isnan(norm):
            lines.append({**place, "y": norm, "series": "global update", "part": str(stage)})
        own = [(client, known(client.get("delta_norm"))) for client in record.get("clients") or ()]
        own = [(client, value) for client, value in own if not math.isnan(value)]
        cloud += [{**place, "y": value, "client": client.get("client"), "records": client.get("num_examples")}
                  for client, value in own]  # fmt: skip
        values = [value for _, value in own]
        rows.append(
            [Cell(f"stage {stage + 1}, round {round + 1}"), number_cell(norm, 3),
             number_cell(min(values, default=math.nan), 3), number_cell(max(values, default=math.nan), 3),
             Cell(", ".join(f"{client.get('client')}: {number(value, 2)}" for client, value in own), wraps=True)]
        )  # fmt: skip
    table = Table("Norm of the updates by round", ["Round", "Global", "Least", "Largest", "By client"], rows)
    if len(rows) < 2:
        return [table] if rows else []
    spec = charts.line_chart(
        lines, ["global update"], x=charts.stage_axis(num_stages),
        y={"title": "norm of the update", "scale": {"domainMin": 0}, "axis": {"tickCount": 5}},
        description="Norm of the global update by round, and of the clients' own", breaks=True,
        rules=[stage + 0.5 for stage in range(1, num_stages)] if num_stages <= 40 else (), tooltip=round_tooltip(),
    )  # fmt: skip
    told = [
        *round_tooltip(),
        *({"field": name, "type": "quantitative", "title": name} for name in ("client", "records")),
    ]
    told.append({"field": "y", "type": "quantitative", "title": "norm", "format": ".4~g"})
    chart = Chart(
        "Norm of the updates by round",
        f"A line: norm of the global update in each of {len(run.rounds)} rounds; points: the clients' own updates.",
        charts.with_points(spec, cloud, told) if cloud else spec,
        table,
        ["global update", "a client's update"] if cloud else (),
        note="Over all trained parameters. A client's update is what it sends, before it is averaged.",
    )
    return [chart]


def _partition(run: Told) -> list[Block]:
    tasks = run.partition.get("tasks") or []
    rows, clients = [], 0
    for task in tasks:
        for dataset, counts in task["datasets"].items():
            clients = max(clients, len(counts))
            name = str(task["name"]) if [dataset] == [*task["datasets"]] else f"{task['name']}: {dataset}"
            most = max(counts, default=0) or 1
            rows.append([Cell(name), *(count_cell(int(count), int(count) / most) for count in counts),
                         Cell(f"{sum(counts):,}", sum(counts))])  # fmt: skip
    if not rows:
        return []
    if clients > _MOST_CLIENTS:
        rows = [[row[0], *_spread([cell.value for cell in row[1:-1]]), row[-1]] for row in rows]
        header = ["Task", "Least", "Median", "Largest", "In all"]
    else:
        header = ["Task", *(str(index) for index in range(clients)), "In all"]
    return [
        Table(
            f"Training records by task and client, {clients} clients", header, rows,
            note="Clients count from 0. A row is coloured by the share of its largest client.",
        )
    ]  # fmt: skip


def _spread(counts: Sequence[Any]) -> list[Cell]:
    ordered = sorted(int(count) for count in counts)
    return [count_cell(ordered[0]), count_cell(ordered[len(ordered) // 2]), count_cell(ordered[-1])]
