"""What the tiny base model is taught before it meets the benchmark: the same drawings, questions in other words.

No wording here equals or contains one of the benchmark's (`tests/models/test_tiny.py` checks it), so that the base
knows the content (counting, comparing, reading, letters of options) and a task's format is left to learn.
"""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fcit_ray.data.miniature.scenes import (
    AUTHORS,
    BAR_LABELS,
    COLORS,
    GRID,
    ICONS,
    MARKERS,
    SIZES,
    SOLIDS,
    STYLES,
    TITLES,
    Item,
    Scene,
    jitter,
    scatter,
    square,
    word_items,
)
from fcit_ray.data.miniature.tasks import LETTERS, PLURALS, box_text, shuffled, with_article

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
BACKGROUND = ("white", "grey", "grass", "sky", "sand", "paper", "pink")


@dataclass(frozen=True)
class Question:
    """One question about a picture; `skill` is what it practises."""

    skill: str
    text: str
    answer: str


@dataclass(frozen=True)
class Lesson:
    """A picture and all that is asked about it.

    Attributes:
        scene: the picture.
        questions: short answers, as a benchmark's.
        recitals: everything of one sort about the picture, as pairs. Each pair's second word is a look-up of its
            first, one step instead of the two that a question takes, and many in one text: looking up is learned
            here first, asking second.
    """

    scene: Scene
    questions: tuple[Question, ...]
    recitals: tuple[Question, ...] = ()


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
            standing = _standing(item.height, [bar.height for bar in bars.values()])
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
                    "rank": _standing(bar.height, [b.height for b in bars.values()]),
                    "partner": WHAT.index(str(bar.height)),
                }
            elif item.row in spelled:
                look |= {"word": WORDS.index(words[item.row]), "line": 1 + spelled.index(item.row)}
            else:
                partner = words[item.row].replace(item.name, "", 1)
                look |= {
                    "partner": WHAT.index(partner),
                    "rank": _standing(numbers[item.row], list(numbers.values())),
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


def _standing(value: int, values: Sequence[int]) -> int:
    return 3 if value == max(values) else 1 if value == min(values) else 2


OPENINGS = (*[""] * 8, "look well. ", "here is a thing to solve. ", "now then: ", "my friend would like to know: ")
CLOSINGS = (*[""] * 8, " be quick.", " say it shortly.", "\nreply with as little text as you can.", "\nno long reply.")


def _ask(rng: random.Random, skill: str, forms: Sequence[str], answer: str, **fields: str) -> Question:
    text = rng.choice(OPENINGS) + rng.choice(forms).format(**fields) + rng.choice(CLOSINGS)
    return Question(skill, text, answer)


def _pick(rng: random.Random, skill: str, stem: str, right: str, wrong: Sequence[str]) -> Question:
    """The letter of the right option, options laid out in one of several ways."""
    letter = rng.randrange(len(LETTERS))
    options = list(wrong[: len(LETTERS) - 1])
    options.insert(letter, right)
    mark, gap = rng.choice(((".", "\n"), (".", " "), (")", "\n"), (")", ", "), (":", "; ")))
    lines = gap.join(f"{name}{mark} {option}" for name, option in zip(LETTERS, options, strict=True))
    return Question(skill, f"{rng.choice(OPENINGS)}{stem}\n{lines}\n{rng.choice(PICK_CLOSINGS)}", LETTERS[letter])


def _recite(rng: random.Random, skill: str, form: str, pairs: Sequence[tuple[str, str]]) -> Question:
    """Pairs in random order, so that only looking tells what comes second."""
    text = ", ".join(f"{first} {second}" for first, second in rng.sample(list(pairs), len(pairs)))
    return Question(skill, form, text)


def _both_ways(
    rng: random.Random, skill: str, first: str, second: str, pairs: Sequence[tuple[str, str]]
) -> list[Question]:
    """Recitals from first to second and back, where a word names one pair only."""
    found = []
    for one, other, way in ((first, second, pairs), (second, first, [(b, a) for a, b in pairs])):
        unique = sorted(set(way))
        if len({a for a, _ in unique}) == len(unique):
            found.append(_recite(rng, skill, f"list {one} and {other}.", unique))
    return found


PICK_CLOSINGS = ("pick a letter.", "say the letter.", "only the letter, please.", "letter?", "which letter fits?")
COPY = ("find {right} in this list:", "where is {right} listed?", "the entry {right} has a letter:")
YES_NO = ("no", "yes")

COUNT_KIND = ("number of {names}?", "tell me how many {names} you see.", "{names}: how many?", "count {names} only.")
COUNT_COLOR = ("number of {color} ones?", "tell me how many {color} ones you see.", "count {color} ones only.")
COUNT_ALL = ("number of all things?", "tell me how many things you see.", "count all.")
REST_COLOR = (
    "leave out {color} ones; count the rest.",
    "without {color} ones, how many stay?",
    "remove {color} objects, how many remain?",
    "subtract {color} ones: number left?",
    "if {color} ones were taken away, number of objects left?",
)
REST_KIND = (
    "leave out {names}; count the rest.",
    "without {names}, how many stay?",
    "remove every {name}, how many remain?",
    "subtract {names}: number left?",
    "if {names} were taken away, number of objects left?",
)
COLOR_OF = ("color of the {name}?", "tell me the {name}'s color.", "which color has the {name}?", "{name}: color?")
NAME_OF = ("name the {color} one.", "the {color} thing is a?", "which shape is {color}?", "{color}: object or shape?")
IS_THERE = ("can you see any {color} {name}?", "look for a {color} {name}: found?", "{color} {name}, yes or no?")


def _counts(rng: random.Random, scene: Scene, sort: str) -> list[Question]:
    """Counting questions whose answers are from 0 to 9."""
    names = [item.name for item in scene.items]
    colors = [item.color for item in scene.items]
    name, color = rng.choice(names), rng.choice(colors)
    asked = [
        _ask(rng, f"{sort} count kind", COUNT_KIND, str(names.count(name)), names=PLURALS[name]),
        _ask(rng, f"{sort} count color", COUNT_COLOR, str(colors.count(color)), color=color),
    ]
    if len(names) < 10:
        asked.append(_ask(rng, f"{sort} count all", COUNT_ALL, str(len(names))))
    kind_left, color_left = len(names) - names.count(name), len(colors) - colors.count(color)
    if kind_left < 10:
        fields = {"name": name, "names": PLURALS[name]}
        asked.append(_ask(rng, f"{sort} rest kind", REST_KIND, str(kind_left), **fields))
    if color_left < 10:
        asked.append(_ask(rng, f"{sort} rest color", REST_COLOR, str(color_left), color=color))
    return asked


def _looks(rng: random.Random, items: Sequence[Item], family: Sequence[str], sort: str) -> list[Question]:
    """Colour of a name, name of a colour, presence: only where the question has one answer."""
    asked = []
    item = rng.choice(items)
    pairs = {(other.name, other.color) for other in items}
    if len({color for name, color in pairs if name == item.name}) == 1:
        asked.append(_ask(rng, f"{sort} color", COLOR_OF, item.color, name=item.name))
        stem = rng.choice(("the {name} is", "the {name} has as color", "color {name}")).format(name=item.name)
        asked.append(_pick(rng, f"{sort} pick color", stem, item.color, shuffled(rng, COLORS, (item.color,))))
    if len({name for name, color in pairs if color == item.color}) == 1:
        asked.append(_ask(rng, f"{sort} name", NAME_OF, item.name, color=item.color))
        if len(family) >= len(LETTERS):
            stem = rng.choice(("the {color} one is", "{color} is here the", "{color} has shape")).format(
                color=item.color
            )
            asked.append(_pick(rng, f"{sort} pick name", stem, item.name, shuffled(rng, family, (item.name,))))
    there = rng.random() < 0.5
    name, color = item.name, item.color
    while not there and (name, color) in pairs:
        name, color = (rng.choice(family), color) if rng.random() < 0.5 else (name, rng.choice(COLORS))
    asked.append(_ask(rng, f"{sort} is there", IS_THERE, YES_NO[there], name=name, color=color))
    return asked


def _recitals(rng: random.Random, items: Sequence[Item], sort: str) -> tuple[Question, ...]:
    """How many of each name and colour, and which colour each name has."""
    names, colors = [PLURALS.get(item.name, item.name) for item in items], [item.color for item in items]
    counts = [(word, str(words.count(word))) for words in (names, colors) for word in sorted(set(words))]
    found = _both_ways(rng, f"list {sort}", "name", "color", [(item.name, item.color) for item in items])
    return (_recite(rng, f"list {sort} numbers", "list all numbers.", counts), *found)


def _clumps(rng: random.Random, names: Sequence[str], most: int) -> list[tuple[str, str, str]]:
    """Looks with repeated names and colours, which make counting worth asking."""
    few = rng.sample(COLORS, rng.randint(1, 4))
    some = rng.sample(list(names), rng.randint(1, min(4, len(names))))
    if rng.random() < 0.4:  # one colour a name, as in a plot
        paint = dict(zip(some, shuffled(rng, COLORS), strict=False))
        return [(name, paint[name], rng.choice(SIZES)) for name in rng.choices(some, k=rng.randint(1, most))]
    return [(rng.choice(some), rng.choice(few), rng.choice(SIZES)) for _ in range(rng.randint(1, most))]


def solids_lesson(rng: random.Random) -> Lesson:
    if rng.random() < 0.3:
        looks = [
            (name, color, rng.choice(SIZES))
            for name, color in zip(shuffled(rng, SOLIDS), shuffled(rng, COLORS), strict=False)
        ]
    else:
        looks = _clumps(rng, SOLIDS, 9)
    scene = Scene(scatter(rng, "solid", looks), rng.choice(("grey", "grey", "white", "sand")))
    asked = (*_counts(rng, scene, "solid"), *_looks(rng, scene.items, SOLIDS, "solid"))
    return Lesson(scene, asked, _recitals(rng, scene.items, "solids"))


def markers_lesson(rng: random.Random) -> Lesson:
    looks = [(name, color, "large") for name, color, _ in _clumps(rng, MARKERS, 11)]
    scene = Scene(scatter(rng, "marker", looks), rng.choice(("white", "white", "paper")), axes=rng.random() < 0.5)
    asked = (*_counts(rng, scene, "marker"), *_looks(rng, scene.items, MARKERS, "marker"))
    return Lesson(scene, asked, _recitals(rng, scene.items, "markers"))


WHERE = ("corners of the {name}?", "where is the {color} {name}? give corners.", "frame the {color} {name}.")
PRESENT = ("one of these is drawn here:", "which of the four can be seen?", "what do you see of these?")
JOIN = ("name both, joined by {word}.", "left one, then right one, with {word} between.", "tell both with {word}.")
SENTENCE = ("tell both in a sentence that begins with {first} and has {word}.",)


def icons_lesson(rng: random.Random) -> Lesson:
    two = rng.random() < 0.4
    names = rng.sample(ICONS, 2 if two else rng.randint(1, 4))
    colors = shuffled(rng, COLORS)
    if two:
        items = tuple(
            Item("icon", name, rng.randint(0, 2), 2 * side, colors[side], span=2, shift=jitter(rng))
            for side, name in enumerate(names)
        )
    else:
        looks = [(name, color, "large") for name, color in zip(names, colors, strict=False)]
        items = scatter(rng, "icon", looks, span=(2, 2, 1))
    scene = Scene(items, rng.choice(BACKGROUND))
    asked = _looks(rng, items, ICONS, "icon")
    item = rng.choice(items)
    asked.append(_pick(rng, "icon present", rng.choice(PRESENT), item.name, shuffled(rng, ICONS, names)))
    for item in rng.sample(items, min(3, len(items))):
        asked.append(_ask(rng, "icon corners", WHERE, box_text(item), name=item.name, color=item.color))
    if two:
        word = rng.choice(("and", "next to", "beside", "near", "is near"))
        left, right = (with_article(f"{item.color} {item.name}") for item in items)
        asked.append(_ask(rng, "two", JOIN, f"{left} {word} {right}", word=word))
        first = rng.choice(("There is", "A", "An"))
        start = f"There is {left}" if first == "There is" else left[0].upper() + left[1:]
        first = start.split(" ")[0]
        asked.append(_ask(rng, "two", SENTENCE, f"{start} {word} {right}.", word=word, first=first))
    pairs = [(item.name, item.color) for item in items]
    return Lesson(scene, tuple(asked), tuple(_both_ways(rng, "list icons", "name", "color", pairs)))


NAME_IT = ("name it.", "this is called?", "which thing was drawn here?", "one thing was drawn: name?")


def single_lesson(rng: random.Random) -> Lesson:
    span = rng.choice((2, 3, 4))
    name, color = rng.choice(ICONS), rng.choice(COLORS)
    style = rng.choice(STYLES)
    place = rng.randint(0, GRID - span), rng.randint(0, GRID - span)
    item = Item("icon", name, *place, color, span=span, style=style, shift=jitter(rng, 2))
    scene = Scene((item,), rng.choice((*BACKGROUND, "slate")))
    asked = [_ask(rng, "single name", NAME_IT, name)]
    asked.append(_pick(rng, "single pick", rng.choice(PRESENT), name, shuffled(rng, ICONS, (name,))))
    asked.append(_ask(rng, "single color", ("color used?", "drawn in which color?"), color))
    return Lesson(scene, tuple(asked), tuple(_both_ways(rng, "list single", "name", "color", [(name, color)])))


READ_UP = ("read the upper word.", "upper line says?", "title line, read it.", "what is written higher up?")
READ_LOW = ("read the lower word.", "lower line says?", "author line, read it.", "what is written at the bottom?")
READ_COLOR = ("read the {color} word.", "what is written in {color}?", "the {color} letters say?")


def words_lesson(rng: random.Random) -> Lesson:
    upper, lower = rng.sample(TITLES + AUTHORS, 2)
    high = rng.randint(0, 2)
    low = rng.randint(high + 1, GRID - 1)
    one, two = rng.sample(COLORS, 2)
    items = [*word_items(upper, high, one), *word_items(lower, low, two)]
    spare = [row for row in range(GRID) if row not in (high, low)]
    if rng.random() < 0.7:
        mark = Item("marker", rng.choice(MARKERS), rng.choice(spare), rng.randint(0, 3), rng.choice(COLORS))
        items.append(mark)
    asked = (
        _ask(rng, "read", READ_UP, upper),
        _ask(rng, "read", READ_LOW, lower),
        _ask(rng, "read color", READ_COLOR, upper, color=one),
        _ask(rng, "read color", READ_COLOR, lower, color=two),
        _pick(rng, "read pick", "the upper word:", upper, rng.sample([w for w in TITLES + AUTHORS if w != upper], 3)),
    )
    scene = Scene(tuple(items), rng.choice(("paper", "pink", "sky", "sand", "white")))
    return Lesson(scene, asked, tuple(_both_ways(rng, "list words", "color", "word", [(one, upper), (two, lower)])))


BESIDE = ("value beside {row}?", "go to {row}: which digit?", "{row} has the number?", "number at {row}?")
TOP_DIGIT = ("greatest digit?", "largest value listed?", "maximum of the column?")
LOW_DIGIT = ("least digit?", "smallest value listed?", "minimum of the column?")
WHOSE = ("which row has {digit}?", "{digit} stands beside which letter?")


def table_lesson(rng: random.Random) -> Lesson:
    rows = rng.sample(BAR_LABELS, GRID)
    most = rng.randint(3, 9)
    numbers = [rng.randint(0, most) for _ in rows]
    left, right = rng.choice(((0, 1), (0, 2), (0, 3), (1, 3), (1, 2)))
    one, two = rng.choice((("blue", "black"), ("black", "black"), ("red", "blue")))
    items: list[Item] = []
    for row, (name, number) in enumerate(zip(rows, numbers, strict=True)):
        items += [Item("glyph", name, row, left, one), Item("glyph", str(number), row, right, two)]
    if rng.random() < 0.7:
        items += [Item("line", "", row, 0) for row in range(1, GRID)]
    asked = [_ask(rng, "table row", BESIDE, str(numbers[i]), row=rows[i]) for i in rng.sample(range(GRID), 2)]
    asked.append(_ask(rng, "table most", TOP_DIGIT, str(max(numbers))))
    asked.append(_ask(rng, "table least", LOW_DIGIT, str(min(numbers))))
    i = rng.randrange(GRID)
    if numbers.count(numbers[i]) == 1:
        asked.append(_ask(rng, "table whose", WHOSE, rows[i], digit=str(numbers[i])))
    pairs = list(zip(rows, map(str, numbers), strict=True))
    recitals = _both_ways(rng, "list rows", "row", "number", pairs)
    return Lesson(Scene(tuple(items), rng.choice(("white", "paper", "sky", "sand"))), tuple(asked), tuple(recitals))


def _bar_recitals(rng: random.Random, names: Sequence[str], heights: Sequence[int]) -> tuple[Question, ...]:
    """The height of every bar, and the bars from tall to short or back."""
    found = _both_ways(rng, "list heights", "bar", "height", list(zip(names, map(str, heights), strict=True)))
    order = [names[i] for i in sorted(range(len(names)), key=heights.__getitem__)]
    found.append(Question("sort bars", "sort from short to tall.", " ".join(order)))
    found.append(Question("sort bars", "sort from tall to short.", " ".join(reversed(order))))
    return tuple(found)


TALLEST = ("tallest bar: color?", "color of the bar with maximum height?", "highest one has which color?")
SHORTEST = ("shortest bar: color?", "color of the bar with minimum height?", "lowest one has which color?")
TOPS = ("{color} tops all: true?", "{color} as maximum, yes or no?", "no bar over {color}: right?")
SINKS = ("{color} under all: true?", "{color} as minimum, yes or no?", "no bar under {color}: right?")
OVER = (
    "{color} over {other}, yes or no?",
    "{color} greater, {other} smaller: true?",
    "{other} less tall, {color} more: right?",
)
HEIGHT = ("height of {color}?", "how tall is {color}?")


def bars_lesson(rng: random.Random) -> Lesson:
    colors = [color if rng.random() < 0.5 else color.capitalize() for color in shuffled(rng, COLORS)[:GRID]]
    heights = rng.sample(range(1, 9), GRID)
    items = tuple(
        Item("bar", "", GRID - 1, col, colors[col].lower(), height=heights[col], shift=(rng.randint(-1, 1), 0))
        for col in range(GRID)
    )
    order = [colors[i] for i in sorted(range(GRID), key=heights.__getitem__)]
    asked = [
        _ask(rng, "bars most", TALLEST, order[-1].lower()),
        _ask(rng, "bars least", SHORTEST, order[0].lower()),
    ]
    for skill, forms, right in (("bars tops", TOPS, order[-1]), ("bars sinks", SINKS, order[0])):
        yes = rng.random() < 0.5
        color = right if yes else rng.choice([color for color in colors if color != right])
        asked.append(_ask(rng, skill, forms, YES_NO[yes], color=color))
    for _ in range(2):
        yes = rng.random() < 0.5
        low, high = sorted(rng.sample(range(GRID), 2))
        color, other = (order[high], order[low]) if yes else (order[low], order[high])
        asked.append(_ask(rng, "bars over", OVER, YES_NO[yes], color=color, other=other))
    i = rng.randrange(GRID)
    asked.append(_ask(rng, "bars height", HEIGHT, str(heights[i]), color=colors[i]))
    recitals = _bar_recitals(rng, [color.lower() for color in colors], heights)
    return Lesson(Scene(items, rng.choice(("white", "white", "paper"))), tuple(asked), recitals)


LETTER_MOST = ("letter under the tallest bar?", "largest bar: its label?", "maximum is at which letter?")
LETTER_LEAST = ("letter under the shortest bar?", "smallest bar: its label?", "minimum is at which letter?")
LETTER_HEIGHT = ("height over {row}?", "value at {row}?")


def labelled_bars_lesson(rng: random.Random) -> Lesson:
    names = rng.sample(BAR_LABELS, GRID)
    heights = rng.sample(range(1, 7), GRID)
    color = rng.choice(COLORS)
    items: list[Item] = []
    for col in range(GRID):
        items.append(Item("bar", "", GRID - 2, col, color, height=heights[col], shift=(rng.randint(-1, 1), 0)))
        items.append(Item("glyph", names[col], GRID - 1, col, "black"))
    i = rng.randrange(GRID)
    asked = (
        _ask(rng, "labels most", LETTER_MOST, names[heights.index(max(heights))]),
        _ask(rng, "labels least", LETTER_LEAST, names[heights.index(min(heights))]),
        _ask(rng, "labels height", LETTER_HEIGHT, str(heights[i]), row=names[i]),
    )
    recitals = _bar_recitals(rng, names, heights)
    return Lesson(Scene(tuple(items), rng.choice(("white", "white", "paper"))), asked, recitals)


LESSONS: tuple[tuple[Callable[[random.Random], Lesson], float], ...] = (
    (solids_lesson, 1.5),
    (markers_lesson, 1.4),
    (icons_lesson, 2.2),
    (single_lesson, 0.4),
    (words_lesson, 0.6),
    (table_lesson, 0.9),
    (bars_lesson, 1.3),
    (labelled_bars_lesson, 1.2),
)


def make_lesson(rng: random.Random) -> Lesson:
    """A picture at random with its questions, and an exercise in finding an option's letter."""
    builders, weights = zip(*LESSONS, strict=True)
    lesson = rng.choices(builders, weights)[0](rng)
    family = rng.choice((COLORS, ICONS, MARKERS + SOLIDS, TITLES))
    right, *wrong = rng.sample(family, len(LETTERS))
    copy = _pick(rng, "copy letter", rng.choice(COPY).format(right=right), right, wrong)
    words = rng.sample(family, len(LETTERS))
    lines = "\n".join(f"{letter}. {word}" for letter, word in zip(LETTERS, words, strict=True))
    letters = [
        Question(recital.skill, f"{lines}\n{recital.text}", recital.answer)
        for recital in _both_ways(rng, "list letters", "entry", "letter", list(zip(words, LETTERS, strict=True)))
    ]
    return Lesson(lesson.scene, (*lesson.questions, copy), (*lesson.recitals, *letters))
