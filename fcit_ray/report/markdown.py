"""The tables of the results room read back from their Markdown: what they hold is decided there alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fcit_ray.results.tables import markdown_table, row_from_results

_FIGURE = re.compile(r"[<>]?([-+]?\d+(?:\.\d+)?)")
_CELLS = re.compile(r"(?<!\\)\|")
LOWER_IS_BETTER = {"Forgetting"}
NO_MATTER_OF_BEST = {"Seconds", "MB moved"}


@dataclass(frozen=True)
class Grid:
    """A table of Markdown.

    Attributes:
        header: names of the columns.
        rows: of texts, as many as there are columns.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def best(self, column: int) -> set[int]:
        """The rows with the best figure of a column as shown, ties included; none if there is nothing to compare."""
        name = self.header[column]
        values = {index: value for index, row in enumerate(self.rows) if (value := leading(row[column])) is not None}
        if not column or name in NO_MATTER_OF_BEST or len(values) < 2:
            return set()
        winner = min(values.values()) if name in LOWER_IS_BETTER else max(values.values())
        return {index for index, value in values.items() if value == winner}


@dataclass(frozen=True)
class Heading:
    """A heading of Markdown, of whatever rank."""

    text: str


@dataclass(frozen=True)
class Written:
    """What stands in a piece of Markdown, in order: headings, tables, and paragraphs as texts."""

    parts: tuple[Grid | Heading | str, ...]

    @property
    def table(self) -> Grid:
        """The first table."""
        return next(part for part in self.parts if isinstance(part, Grid))

    @property
    def rest(self) -> tuple[Grid | Heading | str, ...]:
        """All but the first table."""
        return tuple(part for part in self.parts if part is not self.table)


def figures_of(results: Iterable[Mapping[str, Any]]) -> Written:
    """What the table of these runs says, and what stands below it."""
    return read_markdown(markdown_table([row_from_results(result) for result in results]))


def read_markdown(text: str) -> Written:
    """Headings, tables and paragraphs of the Markdown that the results room writes."""
    parts: list[Grid | Heading | str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if block.startswith("|") and len(lines) > 1:
            header, _, *rows = [_cells(line) for line in lines]
            parts.append(Grid(header, tuple(rows)))
        elif block.startswith("#"):
            parts.append(Heading(block.lstrip("# ")))
        elif block:
            parts.append(_plain(" ".join(lines)))
    return Written(tuple(parts))


def leading(text: str) -> float | None:
    """The number that a cell begins with; None where it has none."""
    found = _FIGURE.match(text)
    return float(found[1]) if found else None


def _cells(line: str) -> tuple[str, ...]:
    return tuple(_plain(cell.strip().replace("\\|", "|")) for cell in _CELLS.split(line.strip())[1:-1])


def _plain(text: str) -> str:
    """A cell or a paragraph that is bold as a whole, without the stars."""
    return text[2:-2] if len(text) > 4 and text.startswith("**") and text.endswith("**") else text
