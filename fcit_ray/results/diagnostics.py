"""What was odd about the predictions of finished runs, in a table: the blanks, other forms and near misses.

A score alone does not tell a model that does not know from one that answers in another form than the test asks for.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fcit_ray.results.tables import UNDEFINED

NUM_SHOWN = 10
"""Lines for the terminal: the worst ones."""
SHOWN_FROM = 5.0
"""Percent from which a share is worth a line."""

_COLUMNS = {"Blank": "blank", "Other form": "other_form", "Near": "near", "Off by one": "off_by_one"}
NOTE = (
    "Percent of the predictions after the last stage. Blank: empty. Other form: neither blank nor of the form of the "
    "dataset's answers. Near: wrong, but right apart from form (full stop, article, number word, option's bracket). "
    "Off by one: of integer answers. A dash: not to be had."
)


@dataclass(frozen=True, kw_only=True)
class Oddity:
    """One dataset of one method, means over its seeds, in percent; nan where a share is not to be had.

    Attributes:
        label: of the runs.
        dataset: a key of the catalog.
        percent: the score.
        blank: empty predictions.
        other_form: neither empty nor of the form of the dataset's answers.
        near: wrong, but right apart from its form.
        off_by_one: of the records whose answer is an integer.
    """

    label: str
    dataset: str
    percent: float
    blank: float
    other_form: float
    near: float
    off_by_one: float

    @property
    def worst(self) -> float:
        """The largest of the shares."""
        return max(share for share in map(self.share, _COLUMNS.values()) if not math.isnan(share))

    def share(self, name: str) -> float:
        return float(getattr(self, name))


def oddities(results: Iterable[Mapping[str, Any]]) -> list[Oddity]:
    """One for every label and dataset, in order of first appearance; runs of older releases have none."""
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for result in results:
        for dataset, parts in result.get("diagnostics", {}).items():
            if "blank_frac" in parts:
                found.setdefault((result["label"], dataset), []).append(parts)
    return [
        Oddity(
            label=label,
            dataset=dataset,
            percent=_mean(part["percent"] for part in parts),
            blank=100 * _mean(part["blank_frac"] for part in parts),
            # A blank is of no form, so the two never count the same prediction.
            other_form=100 * _mean(1 - part.get("format_frac", math.nan) - part["blank_frac"] for part in parts),
            near=100 * _mean(part.get("near_frac", math.nan) for part in parts),
            off_by_one=100 * _mean(part.get("off_by_one_frac", math.nan) for part in parts),
        )
        for (label, dataset), parts in found.items()
    ]


def diagnostics_table(results: Iterable[Mapping[str, Any]]) -> Table | None:
    """For the terminal: the `NUM_SHOWN` worst lines, worst first; None where no share reaches `SHOWN_FROM`."""
    odd = sorted((line for line in oddities(results) if line.worst >= SHOWN_FROM), key=lambda line: -line.worst)
    if not odd:
        return None
    left = f" {len(odd) - NUM_SHOWN} more lines, all below {odd[NUM_SHOWN - 1].worst:.1f}." if odd[NUM_SHOWN:] else ""
    note = Text(NOTE + left, no_wrap=False, overflow="fold")  # also where the console wraps nothing else: between words
    table = Table(title="Diagnostics: the worst", caption=note, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("Method", overflow="fold", min_width=8, max_width=24)
    table.add_column("Dataset", no_wrap=True)
    for name in ("Score", *_COLUMNS):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for line in odd[:NUM_SHOWN]:
        cells = [
            Text(_cell(share), style="bold" if share >= SHOWN_FROM else "")
            for share in map(line.share, _COLUMNS.values())
        ]
        table.add_row(Text(line.label), Text(line.dataset), Text(_cell(line.percent)), *cells)
    return table


def diagnostics_markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """For a report: every method and dataset, shares from `SHOWN_FROM` on bold; empty where nothing is known."""
    lines = oddities(results)
    if not lines:
        return ""
    text = ["", "## Diagnostics", "", NOTE, "", f"| Method | Dataset | Score | {' | '.join(_COLUMNS)} |"]
    text.append("|---|---|" + "---:|" * (1 + len(_COLUMNS)))
    for line in lines:
        shares = [
            f"**{_cell(share)}**" if share >= SHOWN_FROM else _cell(share)
            for share in map(line.share, _COLUMNS.values())
        ]
        cells = [line.label.replace("|", "\\|"), line.dataset, _cell(line.percent), *shares]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)


def _cell(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{round(value, 1) + 0.0:.1f}"
