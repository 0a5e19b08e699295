"""What a page is made of: tables, charts, figures and cards, as plain values; `page.jinja` says how they look."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fcit_ray.results.tables import UNDEFINED


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: as it is read.
        value: what it is sorted by; None goes last.
        heat: 0 to 1, how strongly it is coloured; None is not at all.
        best: of its column.
        wraps: whether the text may run over several lines.
    """

    text: str
    value: float | str | None = None
    heat: float | None = None
    best: bool = False
    wraps: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows.
        header: names of the columns.
        rows: of cells, as many as there are columns.
        sortable: whether the reader may order it by a column.
        numeric: whether what stands behind the first column is numbers, which are set to the right.
        note: how to read it.
        folded: whether it is shown only when asked for.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    numeric: bool = True
    note: str = ""
    folded: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Chart:
    """A picture of numbers, with the same numbers as a table.

    Attributes:
        title: above it.
        description: what is seen, for those who do not see it.
        spec: of Vega-Lite.
        table: what was drawn.
        legend: names of the series, in the order of their colours; nothing where there is one alone.
        note: how to read it.
    """

    title: str
    description: str
    spec: Mapping[str, Any]
    table: Table
    legend: Sequence[str] = ()
    note: str = ""
    kind: str = field(default="chart", init=False)


@dataclass(frozen=True)
class Tiles:
    """The figures that a reader looks for first: name, value, and what it means."""

    tiles: Sequence[tuple[str, str, str]]
    kind: str = field(default="tiles", init=False)


@dataclass(frozen=True)
class Text:
    """A paragraph; `warns` where something is missing or not finished."""

    text: str
    warns: bool = False
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Answer:
    """What one run answered: `right` is a score of at least a half."""

    run: str
    prediction: str
    score: float
    right: bool
    gate: Sequence[tuple[str, float]] = ()
    view: str = ""


@dataclass(frozen=True)
class Card:
    """A question, its picture and what was answered.

    Attributes:
        dataset: a key of the catalog.
        question_id: of the test file.
        question: empty where the test records are not at hand.
        reference: what was asked for.
        answers: one a run.
        picture: a data URI; empty where there is none, `missing` says why.
        size: of the picture, width and height in pixels.
        missing: why there is no picture.
        more: pictures of the question beside the first.
        after: the stage after which it was answered, in words.
    """

    dataset: str
    question_id: str
    question: str
    reference: str
    answers: Sequence[Answer]
    picture: str = ""
    size: tuple[int, int] = (0, 0)
    missing: str = ""
    more: int = 0
    after: str = ""

    @property
    def outcome(self) -> str:
        """`right`, `wrong` or, where runs disagree, `mixed`."""
        found = {answer.right for answer in self.answers}
        return "mixed" if len(found) > 1 else "right" if found == {True} else "wrong"


@dataclass(frozen=True)
class Cards:
    """Cards to look through, by dataset, outcome, run and text."""

    cards: Sequence[Card]
    datasets: Sequence[str]
    runs: Sequence[str]
    note: str
    kind: str = field(default="cards", init=False)


Block = Table | Chart | Tiles | Text | Cards


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; `anchor` is where links lead."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class RunPart:
    """All sections of one run, in a page of several."""

    anchor: str
    title: str
    told: str
    sections: Sequence[Section]


def known(value: Any) -> float:
    """A number of a record; nan for null, for what is absent and for what is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def number(value: float, digits: int = 1) -> str:
    """With so many digits behind the point; a dash for nan."""
    return UNDEFINED if not math.isfinite(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def number_cell(value: float, digits: int = 1, heat: float | None = None) -> Cell:
    """A number, sorted by its full precision."""
    finite = math.isfinite(value)
    return Cell(number(value, digits), value if finite else None, heat if finite else None)


def count_cell(value: int, heat: float | None = None) -> Cell:
    """A count; of nothing a middle dot, so that what is there stands out."""
    return Cell(f"{value:,}" if value else "·", value, heat)


def time_in_words(seconds: float) -> str:
    """54 s, 12 min, 3 h 05 min."""
    if not math.isfinite(seconds):
        return UNDEFINED
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_in_words(count: float) -> str:
    """0 B, 69.1 MB, 1.2 GB: powers of ten."""
    if not math.isfinite(count):
        return UNDEFINED
    for power, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count:.0f} B"
