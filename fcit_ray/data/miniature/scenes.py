"""What a miniature picture holds: items on a 4 x 4 grid, and the vocabulary they are drawn from.

A scene says everything about its picture, so answers are counted from the scene and never from the pixels.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

GRID = 4  # cells a side
CELL = 16  # pixels a cell's side; the vision tower's patch, so that one patch sees one cell
SIDE = GRID * CELL  # pixels of the picture's side

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "black")
SOLIDS = ("cube", "sphere", "cylinder", "cone")
MARKERS = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "moon")
ICONS_BY_GROUP = {
    "food": ("apple", "pizza", "carrot", "cake"),
    "animal": ("fish", "bird", "cat", "snail"),
    "vehicle": ("car", "boat", "truck", "rocket"),
    "thing": ("house", "tree", "umbrella", "cup"),
}
ICONS = tuple(name for group in ICONS_BY_GROUP.values() for name in group)
SIZES = ("small", "large")
TITLES = ("Moon", "Star", "King", "Lion", "Gold", "Fire", "Wind", "Lake", "Rose", "Time", "Snow", "Bird")
AUTHORS = ("Adam", "Emma", "Ivan", "Nina", "Otto", "Paul", "Zara", "Hugo", "Jane", "Carl", "Vera", "Dora")
BAR_LABELS = ("K", "M", "P", "R", "S", "T", "W", "X")

Kind = Literal["solid", "marker", "icon", "glyph", "bar", "line"]
Style = Literal["fill", "outline"]
STYLES: tuple[Style, ...] = get_args(Style)


@dataclass(frozen=True)
class Item:
    """One thing in the picture.

    Attributes:
        kind: the family it is drawn by.
        name: what it is, within the family; a glyph's character; empty for bars and lines.
        row: its top cell, from 0 at the top; a bar's lowest row.
        col: its left cell, from 0.
        color: a name of `COLORS`.
        size: "small" or "large"; only solids come in both.
        span: cells it covers, a side.
        style: filled, or only its outline (pictures of single objects).
        height: a bar's height in half cells (8 pixels); a line's ("axis") is 0.
        shift: pixels it is shifted to the right and down.
    """

    kind: Kind
    name: str
    row: int
    col: int
    color: str = "black"
    size: str = "large"
    span: int = 1
    style: Style = "fill"
    height: int = 0
    shift: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Scene:
    """A picture: its items, drawn in order, over one background."""

    items: tuple[Item, ...]
    background: str = "white"
    axes: bool = False

    def of(self, *kinds: Kind) -> tuple[Item, ...]:
        """The items of the kinds named, in order."""
        assert set(kinds) <= set(get_args(Kind)), f"unknown kind in {kinds}; see Kind"
        return tuple(item for item in self.items if item.kind in kinds)


@dataclass
class Cells:
    """The cells of one picture that are still free; takes squares of them at random.

    Attributes:
        rng: where the choices come from.
        free: cells (row, col) not taken yet.
    """

    rng: random.Random
    free: set[tuple[int, int]] = field(default_factory=lambda: {(r, c) for r in range(GRID) for c in range(GRID)})

    def take(self, span: int = 1) -> tuple[int, int] | None:
        """Take a free square of `span` cells a side; its top left cell, or None where none is left."""
        corners = [
            (row, col)
            for row in range(GRID - span + 1)
            for col in range(GRID - span + 1)
            if self.free.issuperset(square(row, col, span))
        ]
        if not corners:
            return None
        row, col = self.rng.choice(corners)
        self.free.difference_update(square(row, col, span))
        return row, col


def square(row: int, col: int, span: int) -> list[tuple[int, int]]:
    """The cells of the square whose top left cell is (row, col)."""
    return [(r, c) for r in range(row, row + span) for c in range(col, col + span)]


def jitter(rng: random.Random, most: int = 1) -> tuple[int, int]:
    """A shift of at most `most` pixels each way."""
    return rng.randint(-most, most), rng.randint(-most, most)


def scatter(
    rng: random.Random, kind: Kind, looks: Iterable[tuple[str, str, str]], span: int | Sequence[int] = 1
) -> tuple[Item, ...]:
    """Put things on free cells.

    Args:
        rng: where the places come from.
        kind: the family of all of them.
        looks: (name, colour, size) of each.
        span: cells a side; a sequence is drawn from for each (the larger give way where there is no room).
    """
    cells = Cells(rng)
    items = []
    for name, color, size in looks:
        side = span if isinstance(span, int) else rng.choice(span)
        place = cells.take(side)
        while place is None and side > 1:
            side -= 1
            place = cells.take(side)
        assert place is not None, "more things than cells; ask for fewer"
        items.append(Item(kind, name, *place, color=color, size=size, span=side, shift=jitter(rng)))
    return tuple(items)


def word_items(word: str, row: int, color: str, col: int = 0) -> tuple[Item, ...]:
    """A word's capital letters, one a cell, from `col` to the right."""
    return tuple(Item("glyph", letter, row, col + i, color) for i, letter in enumerate(word.upper()))
