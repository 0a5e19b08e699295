"""What every cell of a picture shows: the labels that the vision tower is taught first, patch by patch."""

import string
from collections.abc import Sequence

from fcit_ray.data.miniature.scenes import (
    AUTHORS,
    COLORS,
    GRID,
    ICONS,
    MARKERS,
    SIZES,
    SOLIDS,
    TITLES,
    Scene,
    square,
)

WHAT = ("", *SOLIDS, *MARKERS, *ICONS, *string.ascii_uppercase, *string.digits, "bar")


WORDS = ("", *TITLES, *AUTHORS)


MOST = 9  # counts end here


PATCH_CLASSES = {
    "what": len(WHAT),
    "color": len(COLORS) + 1,
    "part": 8,  # none, one cell, four quarters of a thing of 2 x 2 cells, a thing of 3 x 3, one of 4 x 4
    "extent": 11,  # none, small, large, and a bar's eight heights; a letter under a bar has the bar's
    "same name": MOST + 2,  # none, and how many things of this name there are, itself included
    "same color": MOST + 2,
    "other name": MOST + 2,  # none, and how many things have other names
    "other color": MOST + 2,
    "all": MOST + 2,
    "rank": 4,  # none, lowest, between, highest: bars, the letters under them, numbers in a table
    "partner": len(WHAT),  # of a table's letter the number in its row and the reverse; of a bar the letter under it
    "word": len(WORDS),  # the word that a letter stands in
    "line": 3,  # none, the upper word, the lower word
    "left": GRID + 2,  # none, and the edges of the square that a thing fills, in cells
    "top": GRID + 2,
    "right": GRID + 2,
    "bottom": GRID + 2,
}


def patch_labels(scene: Scene) -> list[dict[str, int]]:
    """What every cell shows and how it stands to the others, row by row: classes by attribute, absent is 0.

    Counts, ranks and partners are here so that the vision tower learns them, patch by patch and hence fast; to the
    language model they are then one look-up, like a colour.
    """
    labels: list[dict[str, int]] = [{} for _ in range(GRID * GRID)]
    things = scene.of("solid", "marker", "icon")
    glyphs = {(item.row, item.col): item for item in scene.of("glyph")}
    bars = {item.col: item for item in scene.of("bar")}
    lines = sorted({row for row, _ in glyphs}) if not bars else []
    words = {row: "".join(glyphs[key].name for key in sorted(glyphs) if key[0] == row).capitalize() for row in lines}
    spelled = [row for row in lines if words[row] in WORDS]
    numbers = {row: int(word[1:]) for row, word in words.items() if word[1:].isdigit()}
    for item in scene.items:
        look = {"what": WHAT.index(item.name or "bar"), "color": COLORS.index(item.color) + 1}
        if item.kind == "line":
            continue
        if item.kind == "bar":
            standing = rank_of(item.height, [bar.height for bar in bars.values()])
            for row in range(item.row + 1):
                # the whole column knows the height, so that it can be read off anywhere
                label = {"extent": 2 + item.height, "rank": standing}
                if (item.row - row) * 2 < item.height:
                    label |= look
                    if (item.row + 1, item.col) in glyphs:
                        label["partner"] = WHAT.index(glyphs[item.row + 1, item.col].name)
                labels[row * GRID + item.col] |= label
            continue
        if item.kind == "glyph":
            if item.col in bars:
                bar = bars[item.col]
                look |= {
                    "extent": 2 + bar.height,
                    "rank": rank_of(bar.height, [b.height for b in bars.values()]),
                    "partner": WHAT.index(str(bar.height)),
                }
            elif item.row in spelled:
                look |= {"word": WORDS.index(words[item.row]), "line": 1 + spelled.index(item.row)}
            else:
                partner = words[item.row].replace(item.name, "", 1)
                look |= {
                    "partner": WHAT.index(partner),
                    "rank": rank_of(numbers[item.row], list(numbers.values())),
                }
            labels[item.row * GRID + item.col] |= look
            continue
        for attribute, alike in (
            ("same name", [other.name == item.name for other in things]),
            ("same color", [other.color == item.color for other in things]),
            ("other name", [other.name != item.name for other in things]),
            ("other color", [other.color != item.color for other in things]),
            ("all", [True for _ in things]),
        ):
            look[attribute] = 1 + min(MOST, sum(alike))
        look["extent"] = 1 + SIZES.index(item.size)
        look |= {"left": 1 + item.col, "top": 1 + item.row}
        look |= {"right": 1 + item.col + item.span, "bottom": 1 + item.row + item.span}
        for row, col in square(item.row, item.col, item.span):
            part = {1: 1, 2: 2 + 2 * (row - item.row) + (col - item.col), 3: 6, 4: 7}[item.span]
            labels[row * GRID + col] = look | {"part": part}
    return labels


def rank_of(value: int, values: Sequence[int]) -> int:
    return 3 if value == max(values) else 1 if value == min(values) else 2
