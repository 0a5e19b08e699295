"""With what a run was made: its configuration, its environment, and what was odd about its answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fcit_ray.report.blocks import Block, Cell, Section, Table, Text
from fcit_ray.report.markdown import Grid, leading, read_markdown
from fcit_ray.report.reading import Told, differing
from fcit_ray.results.cover import flat
from fcit_ray.results.diagnostics import SHOWN_FROM, diagnostics_markdown
from fcit_ray.results.figures import last_details
from fcit_ray.storage.location import redact


def diagnostics_blocks(runs: Sequence[Told]) -> list[Block]:
    """What was odd about the answers of the runs; of those not finished, so far."""
    told = [
        run.results if run.results is not None else {"label": run.label, "diagnostics": last_details(run.records)}
        for run in runs
    ]
    blocks: list[Block] = []
    parts = read_markdown(diagnostics_markdown(told)).parts
    note = " ".join(part for part in parts if isinstance(part, str))
    for part in parts:
        if isinstance(part, Grid):
            odd = [[(leading(text) or 0.0) >= SHOWN_FROM and column > 2 for column, text in enumerate(row)]
                   for row in part.rows]  # fmt: skip
            rows = [
                [Cell(text, leading(text) if column > 1 else text, best=strange)
                 for column, (text, strange) in enumerate(zip(row, strange_ones, strict=True))]
                for row, strange_ones in zip(part.rows, odd, strict=True)
            ]  # fmt: skip
            header = list(part.header)
            if len(runs) == 1:
                header, rows = header[1:], [row[1:] for row in rows]
            bold = f" Bold: at least {SHOWN_FROM:.0f}."
            blocks.append(Table("What was odd about the answers, %", header, rows, sortable=True, note=note + bold))
            if len(runs) > 1:
                blocks = _worst_first(blocks, rows, header, note + bold)
    return blocks


def _worst_first(
    whole: Sequence[Block], rows: Sequence[Sequence[Cell]], header: Sequence[str], note: str
) -> list[Block]:  # fmt: skip
    """Of several runs the lines that are worth a look, and all of them for those who ask."""
    odd = [row for row in rows if any(cell.best for cell in row)]
    (table,) = whole
    assert isinstance(table, Table)
    everything = replace(table, caption="All datasets of all runs", folded=True)
    if not odd:
        nothing = Text(f"No share of blank, oddly formed or nearly right answers reaches {SHOWN_FROM:.0f} %.")
        return [nothing, everything]
    shown = Table("What was odd about the answers, %", header, odd, sortable=True, note=note)
    return [shown, replace(everything, note="")]


def setup_sections(run: Told, anchor: str) -> list[Section]:
    """The resolved configuration and the environment of every session."""
    sections = []
    values = flat(run.config)
    if values:
        rows = [[Cell(key), Cell(in_words(value), wraps=True)] for key, value in values.items()]
        table = Table("Resolved configuration", ["Key", "Value"], rows, numeric=False, folded=True)
        sections.append(Section(f"{anchor}configuration", "Configuration", [table]))
    if environment := _environment(run):
        sections.append(Section(f"{anchor}environment", "Environment", [environment]))
    return sections


def differences(runs: Sequence[Told], names: Sequence[str]) -> Table | None:
    """The keys in which the runs' configurations differ, a column a run."""
    keys = {key: values for key, values in differing(runs).items() if key != "name"}
    if not keys:
        return None
    rows = [
        [Cell(key), *(Cell("·" if value is ... else in_words(value), wraps=True) for value in values)]
        for key, values in keys.items()
    ]
    return Table(
        "What differs between the configurations", ["Key", *names], rows, numeric=False,
        note="A dot: the run has no such key. What only says where a run was carried out (runtime.*) is not compared.",
    )  # fmt: skip


def in_words(value: Any) -> str:
    """A value of a configuration, on one line."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return ", ".join(
            str(item["name"]) if [item["name"]] == list(item.get("datasets", [item["name"]]))
            else f"{item['name']} ({', '.join(map(str, item['datasets']))})"
            for item in value
        )  # fmt: skip
    return redact(json.dumps(value, ensure_ascii=False, default=str))


def _environment(run: Told) -> Table | None:
    rows = []
    for number, session in enumerate(run.sessions, start=1):
        prefix = f"session {number}: " if len(run.sessions) > 1 else ""
        argv = session.get("argv")
        told = {
            "command": " ".join(map(str, argv)) if isinstance(argv, list) else None,
            "python": session.get("python"),
            "platform": session.get("platform"),
            "commit of fcit_ray": session.get("git_commit"),
        }
        versions = session.get("versions")
        told |= versions if isinstance(versions, Mapping) else {}
        rows += [[Cell(f"{prefix}{key}"), Cell(redact(str(value)), wraps=True)] for key, value in told.items() if value]
    if run.results is not None and run.results.get("attention"):
        rows.append([Cell("attention kernel"), Cell(str(run.results["attention"]))])
    if run.results is not None and (aside := run.results.get("quarantined")):
        counts = ", ".join(f"{count} of {name}" for name, count in aside.items())
        rows.append([Cell("records set aside"), Cell(counts, wraps=True)])
    return Table("Environment", ["What", "Value"], rows, numeric=False) if rows else None


def gaps(run: Told) -> list[Block]:
    """What of the run could not be read."""
    return [Text(gap, warns=True) for gap in run.gaps]
