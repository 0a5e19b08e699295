"""Client updates that failed: how many are missing from a run's figures, and which."""

from collections.abc import Mapping
from typing import Any

from fcit_ray.report.blocks import Block, Cell, Section, Table, Text
from fcit_ray.report.reading import Told
from fcit_ray.results.figures import failures_from


def failures_of(run: Told) -> Mapping[str, int]:
    """Client `updates` that were planned, `missing` and `retried`; of a run that is not finished, so far. {} if none.

    See `figures.failures_from`.
    """
    if run.results is not None:
        return dict(run.results.get("failures", {}))
    return failures_from(run.records)


def missing_updates(run: Told) -> list[Block]:
    """That updates are missing, where some are: the figures are of those that came."""
    counts = failures_of(run)
    if not counts.get("missing"):
        return []
    so_far = "" if run.finished else " so far"
    return [
        Text(
            f"{counts['missing']} of {counts['updates']} client updates are missing{so_far} (failures.then=drop): "
            "the figures are of those that came.",
            warns=True,
        )
    ]


def failed_section(run: Told, anchor: str) -> list[Section]:
    """Every update that failed at least once: where, why, and whether it came in the end; nothing where none did."""
    rows = []
    for record in run.rounds:
        for failure in record.get("failures", ()):
            came = "missing" if failure["dropped"] else "came when tried again"
            cells = [
                f"stage {record['stage'] + 1}, round {record['round'] + 1}",
                str(failure["client"]), str(failure["task"]), came, str(len(failure["attempts"])), _why(failure),
            ]  # fmt: skip
            rows.append([Cell(text, wraps=place == 5) for place, text in enumerate(cells)])
    if not rows:
        return []
    header = ["Round", "Client", "Task", "Update", "Failed attempts", "Why, the last time"]
    table = Table("Client updates that failed", header, rows, sortable=True, numeric=False)
    return [Section(f"{anchor}failures", "Updates that failed", [table])]


def _why(failure: Mapping[str, Any]) -> str:
    last = failure["attempts"][-1] if failure["attempts"] else {}
    return str(last.get("reason", ""))
