"""What the tiny base model is taught before it meets the benchmark: the same drawings, questions in other words.

No wording here equals or contains one of the benchmark's (`tests/tools/test_tiny_base.py` checks it), so that the base
knows the content (counting, comparing, reading, letters of options) and a task's format is left to learn.
"""

import random
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
    word_items,
)
from fcit_ray.data.miniature.tasks import LETTERS, box_text, shuffled, with_article
from tools.tiny_base.questions import (
    YES_NO,
    Question,
    ask,
    both_ways,
    count_questions,
    item_recitals,
    look_questions,
    pick,
)

BACKGROUND = ("white", "grey", "grass", "sky", "sand", "paper", "pink")


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


COPY = ("find {right} in this list:", "where is {right} listed?", "the entry {right} has a letter:")


def clumps(rng: random.Random, names: Sequence[str], most: int) -> list[tuple[str, str, str]]:
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
        looks = clumps(rng, SOLIDS, 9)
    scene = Scene(scatter(rng, "solid", looks), rng.choice(("grey", "grey", "white", "sand")))
    asked = (*count_questions(rng, scene, "solid"), *look_questions(rng, scene.items, SOLIDS, "solid"))
    return Lesson(scene, asked, item_recitals(rng, scene.items, "solids"))


def markers_lesson(rng: random.Random) -> Lesson:
    looks = [(name, color, "large") for name, color, _ in clumps(rng, MARKERS, 11)]
    scene = Scene(scatter(rng, "marker", looks), rng.choice(("white", "white", "paper")), axes=rng.random() < 0.5)
    asked = (*count_questions(rng, scene, "marker"), *look_questions(rng, scene.items, MARKERS, "marker"))
    return Lesson(scene, asked, item_recitals(rng, scene.items, "markers"))


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
    asked = look_questions(rng, items, ICONS, "icon")
    item = rng.choice(items)
    asked.append(pick(rng, "icon present", rng.choice(PRESENT), item.name, shuffled(rng, ICONS, names)))
    for item in rng.sample(items, min(3, len(items))):
        asked.append(ask(rng, "icon corners", WHERE, box_text(item), name=item.name, color=item.color))
    if two:
        word = rng.choice(("and", "next to", "beside", "near", "is near"))
        left, right = (with_article(f"{item.color} {item.name}") for item in items)
        asked.append(ask(rng, "two", JOIN, f"{left} {word} {right}", word=word))
        first = rng.choice(("There is", "A", "An"))
        start = f"There is {left}" if first == "There is" else left[0].upper() + left[1:]
        first = start.split(" ")[0]
        asked.append(ask(rng, "two", SENTENCE, f"{start} {word} {right}.", word=word, first=first))
    pairs = [(item.name, item.color) for item in items]
    return Lesson(scene, tuple(asked), tuple(both_ways(rng, "list icons", "name", "color", pairs)))


NAME_IT = ("name it.", "this is called?", "which thing was drawn here?", "one thing was drawn: name?")


def single_lesson(rng: random.Random) -> Lesson:
    span = rng.choice((2, 3, 4))
    name, color = rng.choice(ICONS), rng.choice(COLORS)
    style = rng.choice(STYLES)
    place = rng.randint(0, GRID - span), rng.randint(0, GRID - span)
    item = Item("icon", name, *place, color, span=span, style=style, shift=jitter(rng, 2))
    scene = Scene((item,), rng.choice((*BACKGROUND, "slate")))
    asked = [ask(rng, "single name", NAME_IT, name)]
    asked.append(pick(rng, "single pick", rng.choice(PRESENT), name, shuffled(rng, ICONS, (name,))))
    asked.append(ask(rng, "single color", ("color used?", "drawn in which color?"), color))
    return Lesson(scene, tuple(asked), tuple(both_ways(rng, "list single", "name", "color", [(name, color)])))


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
        ask(rng, "read", READ_UP, upper),
        ask(rng, "read", READ_LOW, lower),
        ask(rng, "read color", READ_COLOR, upper, color=one),
        ask(rng, "read color", READ_COLOR, lower, color=two),
        pick(rng, "read pick", "the upper word:", upper, rng.sample([w for w in TITLES + AUTHORS if w != upper], 3)),
    )
    scene = Scene(tuple(items), rng.choice(("paper", "pink", "sky", "sand", "white")))
    return Lesson(scene, asked, tuple(both_ways(rng, "list words", "color", "word", [(one, upper), (two, lower)])))


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
    asked = [ask(rng, "table row", BESIDE, str(numbers[i]), row=rows[i]) for i in rng.sample(range(GRID), 2)]
    asked.append(ask(rng, "table most", TOP_DIGIT, str(max(numbers))))
    asked.append(ask(rng, "table least", LOW_DIGIT, str(min(numbers))))
    i = rng.randrange(GRID)
    if numbers.count(numbers[i]) == 1:
        asked.append(ask(rng, "table whose", WHOSE, rows[i], digit=str(numbers[i])))
    pairs = list(zip(rows, map(str, numbers), strict=True))
    recitals = both_ways(rng, "list rows", "row", "number", pairs)
    return Lesson(Scene(tuple(items), rng.choice(("white", "paper", "sky", "sand"))), tuple(asked), tuple(recitals))


def _bar_recitals(rng: random.Random, names: Sequence[str], heights: Sequence[int]) -> tuple[Question, ...]:
    """The height of every bar, and the bars from tall to short or back."""
    found = both_ways(rng, "list heights", "bar", "height", list(zip(names, map(str, heights), strict=True)))
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
        ask(rng, "bars most", TALLEST, order[-1].lower()),
        ask(rng, "bars least", SHORTEST, order[0].lower()),
    ]
    for skill, forms, right in (("bars tops", TOPS, order[-1]), ("bars sinks", SINKS, order[0])):
        yes = rng.random() < 0.5
        color = right if yes else rng.choice([color for color in colors if color != right])
        asked.append(ask(rng, skill, forms, YES_NO[yes], color=color))
    for _ in range(2):
        yes = rng.random() < 0.5
        low, high = sorted(rng.sample(range(GRID), 2))
        color, other = (order[high], order[low]) if yes else (order[low], order[high])
        asked.append(ask(rng, "bars over", OVER, YES_NO[yes], color=color, other=other))
    i = rng.randrange(GRID)
    asked.append(ask(rng, "bars height", HEIGHT, str(heights[i]), color=colors[i]))
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
        ask(rng, "labels most", LETTER_MOST, names[heights.index(max(heights))]),
        ask(rng, "labels least", LETTER_LEAST, names[heights.index(min(heights))]),
        ask(rng, "labels height", LETTER_HEIGHT, str(heights[i]), row=names[i]),
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
    copy = pick(rng, "copy letter", rng.choice(COPY).format(right=right), right, wrong)
    words = rng.sample(family, len(LETTERS))
    lines = "\n".join(f"{letter}. {word}" for letter, word in zip(LETTERS, words, strict=True))
    letters = [
        Question(recital.skill, f"{lines}\n{recital.text}", recital.answer)
        for recital in both_ways(rng, "list letters", "entry", "letter", list(zip(words, LETTERS, strict=True)))
    ]
    return Lesson(lesson.scene, (*lesson.questions, copy), (*lesson.recitals, *letters))
