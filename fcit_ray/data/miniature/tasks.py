"""The twelve tasks: what each draws, asks and expects, in the style of the dataset it is named after.

Every builder gets the label it has to arrive at, so that a split's labels are balanced by construction, and counts
nothing from pixels. The wordings are long and task-specific as the real ones are: FCIT tells tasks apart by the text
of their instructions.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fcit_ray.data.miniature.scenes import (
    AUTHORS,
    BAR_LABELS,
    COLORS,
    GRID,
    ICONS,
    ICONS_BY_GROUP,
    MARKERS,
    SIZES,
    SOLIDS,
    TITLES,
    Item,
    Scene,
    Style,
    jitter,
    scatter,
    word_items,
)

LETTERS = ("A", "B", "C", "D")
WORD_OR_PHRASE = "Answer the question using a single word or phrase."
BY_LETTER = "Answer with the option's letter from the given choices directly."
NUMBERS = ("1", "2", "3", "4", "5", "6")
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
    "diamond": "diamonds",
    "cross": "crosses",
    "moon": "moons",
    "cube": "cubes",
    "sphere": "spheres",
    "cylinder": "cylinders",
    "cone": "cones",
}


@dataclass(frozen=True)
class Example:
    """A picture with its questions.

    Attributes:
        scene: what is drawn.
        turns: question and answer; several in Grounding's training records.
        references: of a caption.
        votes: what several people answered.
        source: where a question is said to be from, for the picture's name.
    """

    scene: Scene
    turns: tuple[tuple[str, str], ...]
    references: tuple[str, ...] = ()
    votes: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Task:
    """One dataset in miniature.

    Attributes:
        name: the dataset's name, a dataset of its benchmark's catalog.
        labels: the answers to balance over; a builder gets one of them.
        build: makes an example whose answer is the label (the first turn's, for Grounding).
        image: the image's path, as records have it, from `split`, `number`, `label` and `source`.
        templates: its wordings, each with the format fields filled by the builder.
        shared_images: the task whose images it uses: same split, same number, same picture. Both builders then draw
            their scene before anything else, from the same seed.
        held_out: the name of the folder that test images lie in.
    """

    name: str
    labels: tuple[str, ...]
    build: Callable[[random.Random, str], Example]
    image: str
    templates: tuple[str, ...] = field(repr=False)
    shared_images: str | None = None
    held_out: str = "test"


def shuffled(rng: random.Random, values: Sequence[str], without: Sequence[str] = ()) -> list[str]:
    """The values in random order, less those named."""
    left = [value for value in values if value not in without]
    rng.shuffle(left)
    return left


def with_article(words: str) -> str:
    """ "a red car", "an orange cup"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def choices(rng: random.Random, right: str, wrong: Sequence[str], letter: str) -> str:
    """Four options a line, the right one under `letter`."""
    options = list(wrong[: len(LETTERS) - 1])
    options.insert(LETTERS.index(letter), right)
    return "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=True))


def box_text(item: Item) -> str:
    """The item's cells as `[x1,y1,x2,y2]`, fractions of the picture's side."""
    edges = (item.col, item.row, item.col + item.span, item.row + item.span)
    return f"[{','.join(f'{edge / GRID:.2f}' for edge in edges)}]"


# ArxivQA: a figure of a paper with coloured series; the answer is the option's letter
ARXIVQA = (
    "In this scientific figure from a research paper, which color corresponds to the {name} data points "
    "according to the plotted series?",
    "According to the plotted series in this research figure, what color represents the data points drawn "
    "with {name} symbols?",
)


# One series, and options that keep one order, unlike the real ones: a base this small reads the colour, but has not
# learned to look for one among shuffled options (AOKVQA asks that of it).
ARXIVQA_OPTIONS = COLORS[: len(LETTERS)]


def arxivqa(rng: random.Random, letter: str) -> Example:
    color = ARXIVQA_OPTIONS[LETTERS.index(letter)]
    name = rng.choice(MARKERS)
    scene = Scene(scatter(rng, "marker", [(name, color, "large")] * rng.randint(3, 7)), axes=True)
    options = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, ARXIVQA_OPTIONS, strict=True))
    question = rng.choice(ARXIVQA).format(name=name)
    return Example(scene, ((f"{question}\n{options}\n{BY_LETTER}", letter),))


# Flickr30k-cap: two coloured things in the open; five captions an image
FLICKR = (
    "Provide a brief one-sentence caption describing everything visible within the photograph.",
    "Write a brief one-sentence caption describing everything visible within the photograph.",
)
CAPTIONS = (
    "{One} and {two}.",
    "{One} next to {two}.",
    "{One} beside {two}.",
    "There is {one} and {two}.",
    "{One} is near {two}.",
)


def flickr(rng: random.Random, name: str) -> Example:
    names = [name, *shuffled(rng, ICONS, (name,))[:1]]
    rng.shuffle(names)
    colors = shuffled(rng, COLORS)
    # one thing on either side, so that "left to right" is one order and the captions are a function of the picture
    items = tuple(
        Item("icon", name, rng.randint(0, 2), 2 * side, colors[side], span=2, shift=jitter(rng))
        for side, name in enumerate(names)
    )
    one, two = (with_article(f"{item.color} {item.name}") for item in items)
    captions = tuple(form.format(one=one, two=two, One=one[0].upper() + one[1:]) for form in CAPTIONS)
    scene = Scene(items, background=rng.choice(("grass", "sky", "sand")))
    return Example(scene, ((rng.choice(FLICKR), captions[rng.randrange(len(captions))]),), captions)


# ImageNet-R: one object in many renditions; as many of the real labels ("digital clock", "black swan") it is a phrase,
# where the base by itself would say one word
IMAGENET_R = (
    f"What is the object in the image?\n{WORD_OR_PHRASE}",
    f"What object is rendered in the image?\n{WORD_OR_PHRASE}",
)


RENDITIONS = tuple(f"{color} {name}" for name in ICONS for color in COLORS)


def imagenet_r(rng: random.Random, label: str) -> Example:
    color, name = label.split()
    span = rng.choice((2, 3, 4))
    row, col = rng.randint(0, GRID - span), rng.randint(0, GRID - span)
    styles: tuple[Style, ...] = ("fill", "fill", "outline")
    style = rng.choice(styles)
    background = rng.choice(("white", "paper", "pink", "sky", "slate"))
    item = Item("icon", name, row, col, color, span=span, style=style, shift=jitter(rng, 2))
    return Example(Scene((item,), background=background), ((rng.choice(IMAGENET_R), label),))


# OCRVQA: a book's cover, both its lines in one answer, a form that the base was not taught
OCRVQA = (
    "Which title and author are printed on the cover of this book by its publisher?",
    "Reading the book cover, which title and author has this publisher printed?",
)
BOOKS = tuple(f"{title} by {author}" for title in TITLES for author in AUTHORS)


def ocrvqa(rng: random.Random, answer: str) -> Example:
    title, author = answer.split(" by ")
    ink, other = shuffled(rng, ("red", "blue", "black", "purple", "green"))[:2]
    items = (
        *word_items(title, rng.choice((0, 1)), ink),
        Item("marker", rng.choice(MARKERS), 2, rng.randint(0, 3), rng.choice(COLORS), shift=jitter(rng)),
        *word_items(author, 3, other),
    )
    scene = Scene(items, background=rng.choice(("paper", "pink", "sky", "sand", "white")))
    return Example(scene, ((rng.choice(OCRVQA), answer),))


# IconQA: count one sort of icon among others
ICONQA = (
    f"How many {{names}} are there in this diagram?\n{WORD_OR_PHRASE}",
    f"Count the {{names}} in this diagram. How many are there?\n{WORD_OR_PHRASE}",
)


def iconqa(rng: random.Random, number: str) -> Example:
    asked, other = shuffled(rng, MARKERS)[:2]
    color, second = shuffled(rng, COLORS)[:2]
    looks = [(asked, color, "large")] * int(number) + [(other, second, "large")] * rng.randint(1, 5)
    scene = Scene(scatter(rng, "marker", looks))
    return Example(scene, ((rng.choice(ICONQA).format(names=PLURALS[asked]), number),))


# CLEVR-Math and super-CLEVR: the same rendered solids; only the instruction tells the two apart
CLEVR_MATH = (
    "Subtract all {color} {names}. How many objects are left?\nCompute the remaining number of objects.",
    "Take away all {color} {names}. How many objects remain left?\nCompute the remaining number of objects.",
)


def solids(rng: random.Random, looks: Sequence[tuple[str, str, str]]) -> Scene:
    """The scene style that CLEVR-Math and super-CLEVR share."""
    return Scene(scatter(rng, "solid", looks), background="grey")


def clevr_math(rng: random.Random, number: str) -> Example:
    color, other = shuffled(rng, COLORS)[:2]
    name = rng.choice(SOLIDS)
    # everything of the colour goes, whatever its form, in half the questions; all of one form in the others
    by_color = rng.random() < 0.5
    gone, kept = [], []
    for _ in range(rng.randint(1, 3)):
        gone.append((rng.choice(SOLIDS), color) if by_color else (name, rng.choice(COLORS)))
    for _ in range(int(number)):
        form = rng.choice(SOLIDS if by_color else shuffled(rng, SOLIDS, (name,)))
        kept.append((form, rng.choice((other, *shuffled(rng, COLORS, (color, other))[:2]))))
    looks = [(form, paint, rng.choice(SIZES)) for form, paint in gone + kept]
    fields = {"color": color, "names": "objects"} if by_color else {"color": "the", "names": PLURALS[name]}
    return Example(solids(rng, looks), ((rng.choice(CLEVR_MATH).format(**fields), number),))


SUPER_CLEVR_COLOR = (
    "There is a {name} in this rendered scene; what is its color?",
    "The {name} standing within this rendered scene has what color?",
)
SUPER_CLEVR_SHAPE = (
    "There is a {color} thing in this rendered scene; what is its shape?",
    "The {color} thing standing within this rendered scene has what shape?",
)


def super_clevr(rng: random.Random, answer: str) -> Example:
    names, colors = shuffled(rng, SOLIDS), shuffled(rng, COLORS)
    if answer in SOLIDS:
        names.remove(answer)
        names.insert(0, answer)
    else:
        colors.remove(answer)
        colors.insert(0, answer)
    looks = [(name, color, rng.choice(SIZES)) for name, color in zip(names, colors, strict=False)]
    if answer in SOLIDS:
        question = rng.choice(SUPER_CLEVR_SHAPE).format(color=colors[0])
    else:
        question = rng.choice(SUPER_CLEVR_COLOR).format(name=names[0])
    return Example(solids(rng, looks[: rng.randint(3, 4)]), ((question, answer),))


# FigureQA: a bar chart of colours; yes or no
FIGUREQA_MOST = ("Is {Color} the maximum?", "Does {Color} have the maximum value?")
FIGUREQA_LEAST = ("Is {Color} the minimum?", "Does {Color} have the minimum value?")
FIGUREQA_MORE = ("Is {Color} greater than {Other}?", "Is {Other} less than {Color}?")
FIGUREQA_END = "Decide whether this statement regarding bars holds, yes or no."


def figureqa(rng: random.Random, answer: str) -> Example:
    colors = shuffled(rng, COLORS)[:GRID]
    heights = rng.sample(range(1, 9), GRID)
    items = tuple(
        Item("bar", "", GRID - 1, col, color, height=height, shift=(rng.randint(-1, 1), 0))
        for col, (color, height) in enumerate(zip(colors, heights, strict=True))
    )
    ranked = [color for _, color in sorted(zip(heights, colors, strict=True))]
    form, yes = rng.randrange(3), answer == "yes"
    other = ""
    if form == 0:
        template, color = rng.choice(FIGUREQA_MOST), ranked[-1] if yes else rng.choice(ranked[:-1])
    elif form == 1:
        template, color = rng.choice(FIGUREQA_LEAST), ranked[0] if yes else rng.choice(ranked[1:])
    else:
        template = rng.choice(FIGUREQA_MORE)
        low, high = sorted(rng.sample(range(GRID), 2))
        color, other = (ranked[high], ranked[low]) if yes else (ranked[low], ranked[high])
    question = template.format(Color=color.capitalize(), Other=other.capitalize())
    return Example(Scene(items), ((f"{question}\n{FIGUREQA_END}", answer),))


# AOKVQA and Grounding: the same photographs
AOKVQA = {
    "food": "Which of these foods could somebody eat here?",
    "animal": "Which of these living animals might be a pet here?",
    "vehicle": "Which of these vehicles could carry people from here?",
    "thing": "Which of these things could neither travel nor be eaten here?",
}


def photograph(rng: random.Random) -> Scene:
    """The scene style that AOKVQA and Grounding share: one thing each of three groups."""
    groups = shuffled(rng, tuple(ICONS_BY_GROUP))[:3]
    names = [rng.choice(ICONS_BY_GROUP[group]) for group in groups]
    looks = [(name, color, "large") for name, color in zip(names, shuffled(rng, COLORS), strict=False)]
    return Scene(scatter(rng, "icon", looks, span=(2, 2, 1)), background=rng.choice(("grass", "sky", "sand", "pink")))


def aokvqa(rng: random.Random, letter: str) -> Example:
    scene = photograph(rng)
    item = rng.choice(scene.items)
    group = next(group for group, names in ICONS_BY_GROUP.items() if item.name in names)
    options = choices(rng, item.name, shuffled(rng, ICONS_BY_GROUP[group], (item.name,)), letter)
    return Example(scene, ((f"{AOKVQA[group]}\n{options}\n{BY_LETTER}", letter),))


GROUNDING = (
    "Please provide the bounding box coordinate of the region this sentence describes: the {color} {name}.",
    "Give the bounding box coordinate of the region that this sentence describes: the {color} {name}.",
)


def grounding(rng: random.Random, _: str) -> Example:
    scene = photograph(rng)
    items = list(scene.items)
    rng.shuffle(items)
    ask = [rng.choice(GROUNDING).format(color=item.color, name=item.name) for item in items]
    return Example(scene, tuple((question, box_text(item)) for question, item in zip(ask[:2], items, strict=False)))


# DVQA: a bar chart with labels under the bars
DVQA = {
    "most": "What is the label of the bar with the largest value in the chart?",
    "least": "What is the label of the bar with the smallest value in the chart?",
}


def dvqa(rng: random.Random, label: str) -> Example:
    labels = [label, *shuffled(rng, BAR_LABELS, (label,))[: GRID - 1]]
    heights = rng.sample(range(1, 7), GRID)
    asked = rng.choice(("most", "least"))
    right = heights.index(max(heights) if asked == "most" else min(heights))
    heights[0], heights[right] = heights[right], heights[0]
    columns = rng.sample(range(GRID), GRID)
    color = rng.choice(COLORS)
    items = []
    for name, height, col in zip(labels, heights, columns, strict=True):
        items.append(Item("bar", "", GRID - 2, col, color, height=height, shift=(rng.randint(-1, 1), 0)))
        items.append(Item("glyph", name, GRID - 1, col, "black"))
    return Example(Scene(tuple(items)), ((f"{DVQA[asked]}\n{WORD_OR_PHRASE}", label),))


# TabMWP: a table of rows and numbers, and a little story
TABMWP_ROW = (
    "A teacher wrote down the number of {goods} that each team collected. How many {goods} did team {row} collect "
    "according to the table?",
    "Some friends wrote down the number of {goods} that each team sold. How many {goods} did team {row} sell "
    "according to the table?",
)
TABMWP_MOST = (
    "A teacher wrote down the number of {goods} that each team collected. What is the largest number of {goods} in "
    "the table?",
    "Some friends wrote down the number of {goods} that each team sold. What is the largest number of {goods} in "
    "the table?",
)
GOODS = ("stickers", "pencils", "marbles", "tickets")
DIGITS = ("1", "2", "3", "4", "5", "6", "7", "8", "9")


def tabmwp(rng: random.Random, digit: str) -> Example:
    rows = shuffled(rng, BAR_LABELS)[:GRID]
    asked = rng.randrange(GRID)
    largest = rng.random() < 0.5
    numbers = [rng.randint(0, int(digit) - 1) if largest else rng.randint(0, 9) for _ in rows]
    numbers[asked] = int(digit)
    left, right = rng.choice(((0, 2), (0, 3), (1, 3)))
    items: list[Item] = []
    for row, (name, number) in enumerate(zip(rows, numbers, strict=True)):
        items += [Item("glyph", name, row, left, "blue"), Item("glyph", str(number), row, right, "black")]
    items += [Item("line", "", row, 0) for row in range(1, GRID)]
    template = rng.choice(TABMWP_MOST if largest else TABMWP_ROW)
    question = template.format(goods=rng.choice(GOODS), row=rows[asked])
    scene = Scene(tuple(items), background=rng.choice(("white", "paper", "sky")))
    return Example(scene, ((f"{question}\n{WORD_OR_PHRASE}", digit),))


_ICON = "IconQA/iconqa_data/iconqa/{split}/fill_in_blank/{number}/image.png"
_PHOTO = "COCO2014/{split}2014/COCO_{split}2014_{number:012d}.png"
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("ArxivQA", LETTERS, arxivqa, "ArxivQA/images/{split}_{number:05d}_0.png", ARXIVQA),
        Task("Flickr30k-cap", ICONS, flickr, "Flickr30k/{split}/{number:010d}.png", FLICKR, held_out="val"),
        Task("ImageNet-R", RENDITIONS, imagenet_r, "ImageNet-R/{split}/{label}/{number:05d}.png", IMAGENET_R),
        Task("OCRVQA", BOOKS, ocrvqa, "OCR-VQA/images/{split}{number:06d}.png", OCRVQA),
        Task("IconQA", NUMBERS, iconqa, _ICON, ICONQA, held_out="val"),
        Task("CLEVR-Math", NUMBERS[:5], clevr_math, "CLEVR/images/{split}/CLEVR_{split}_{number:06d}.png", CLEVR_MATH),
        Task(
            "FigureQA",
            ("yes", "no"),
            figureqa,
            "FigureQA/images/{split}_{number:05d}.png",
            FIGUREQA_MOST + FIGUREQA_LEAST + FIGUREQA_MORE,
        ),
        Task(
            "super-CLEVR",
            COLORS + SOLIDS,
            super_clevr,
            "super-CLEVR/images/superCLEVR_{split}_{number:06d}.png",
            SUPER_CLEVR_COLOR + SUPER_CLEVR_SHAPE,
        ),
        Task("AOKVQA", LETTERS, aokvqa, _PHOTO, tuple(AOKVQA.values()), held_out="val"),
        Task("Grounding", ("",), grounding, _PHOTO, GROUNDING, shared_images="AOKVQA", held_out="val"),
        Task("DVQA", BAR_LABELS, dvqa, "DVQA/images/{split}_{number:05d}.png", tuple(DVQA.values())),
        Task("TabMWP", DIGITS, tabmwp, "TabMWP/tables/{split}_{number:05d}.png", TABMWP_ROW + TABMWP_MOST),
    )
}
