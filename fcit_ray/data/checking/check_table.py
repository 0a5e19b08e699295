"""What a check found, for the eyes: a table, the first offenders of each dataset, and what was not looked at."""

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fcit_ray.data.checking.check_file import WARNINGS, Offence
from fcit_ray.data.checking.report import Report, Row

_NOTHING = "\u2013"
_KINDS = {
    "conversation": "Broken",
    "image": "Image",
    "duplicate": "Double",
    "tokens": "Long",
    "format": "Odd",
    "shared": "Shared",
    "file": "File",
}


def report_lines(report: Report, num_shown: int) -> Iterator[RenderableType]:
    """The report, piece by piece.

    Args:
        report: of `check_root`.
        num_shown: offenders spelled out for each dataset.
    """
    yield _table(report)
    yield from _offenders(report, num_shown)
    for row in report.rows:
        if row.num_without or row.num_several:
            said = f"of {row.num_records} records {row.num_without} name no picture, {row.num_several} several"
            yield Text(f"pictures: {row.group} {row.split}: {said}")
    yield from _warnings(report)
    if report.absent:
        yield Text(f"Absent: {', '.join(report.absent)}")
    if not report.checked_tokens:
        yield Text("Not checked: records over the token limit (name a model: --model PATH --max-length N)")
    if not report.decoded:
        yield Text("Not checked: pixels, beyond each image's header and end (--decode)")


def _table(report: Report) -> Table:
    table = Table(box=SIMPLE, collapse_padding=True, pad_edge=False)
    table.title, table.title_justify = f"Data root {report.root}", "left"
    for name in ("Dataset", "Split"):
        table.add_column(name, no_wrap=True)
    for name in ("Records", "Usable", *_KINDS.values(), "In train", "Aside"):
        table.add_column(name, justify="right")
    for row in report.rows:
        counts = [_count(report, row, kind) for kind in _KINDS]
        in_train = _NOTHING if row.num_in_train is None else str(row.num_in_train)
        style = "red" if row.num_usable < row.num_records - row.num_set_aside or "file" in row.num_offences else ""
        cells = [row.group, row.split, row.num_records, row.num_usable, *counts, in_train, row.num_set_aside]
        table.add_row(*map(str, cells), style=style)
    return table


def _count(report: Report, row: Row, kind: str) -> str:
    not_done = (
        (kind == "tokens" and not report.checked_tokens)
        or (kind == "format" and row.split == "partition")
        or (kind == "shared" and row.num_in_train is None)
    )
    return _NOTHING if not_done else str(row.num_offences.get(kind, 0))


def _offenders(report: Report, num_shown: int) -> Iterator[Text]:
    groups = {piece.source: piece.group for piece in report.pieces}
    by_group: dict[str, list[Offence]] = {}
    # What stops a run comes before what is only odd.
    for offence in sorted(report.offences, key=lambda offence: offence.kind in WARNINGS):
        by_group.setdefault(groups[offence.source], []).append(offence)
    for group in dict.fromkeys(groups.values()):
        offences = by_group.get(group, [])
        for offence in offences[:num_shown]:
            label = _KINDS[offence.kind].lower()
            if offence.index < 0:
                yield Text(f"{label}: {offence.reason}")
            else:
                yield Text(f"{label}: {offence.source}: record {offence.index} (id {offence.id!r}): {offence.reason}")
        if len(offences) > num_shown:
            yield Text(f"{group}: and {len(offences) - num_shown} more")


def _warnings(report: Report) -> Iterator[Text]:
    """What no single record is at fault for, and a score would be."""
    kinds = {piece.group: piece.dataset.answer.kind for piece in report.pieces if piece.dataset}
    for row in report.rows:
        looked_at = row.num_records - row.num_set_aside
        if shared := row.num_offences.get("shared", 0):
            yield Text(
                f"Warning: {row.group}: {shared} of {looked_at} {row.split} records are training records too, with the "
                "same question, pictures and answer: their score says what was memorised",
                style="bold red",
            )
        if (odd := row.num_offences.get("format", 0)) > looked_at / 2:
            yield Text(
                f"Warning: {row.group}: {odd} of {looked_at} {row.split} records have answers of another kind than "
                f"declared (answer: {kinds[row.group]}), by which they would be scored",
                style="bold red",
            )
