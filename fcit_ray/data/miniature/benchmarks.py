"""FCIT's neighbours in miniature: UCIT, CoIN and MLLM-DCL, in the layouts of their own files.

Most of their tasks draw and ask what one of FCIT's twelve does, behind an opening of their own, by which the text of
their instructions tells them apart. New are the captions of VizWiz, the ten answers of TextVQA, and the maps of Sci.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal

from fcit_ray.data.miniature.scenes import (
    BAR_LABELS,
    COLORS,
    GRID,
    ICONS,
    ICONS_BY_GROUP,
    MARKERS,
    SOLIDS,
    TITLES,
    Item,
    Scene,
    jitter,
    scatter,
)
from fcit_ray.data.miniature.tasks import (
    AUTHORS,
    BOOKS,
    LETTERS,
    NUMBERS,
    PLURALS,
    RENDITIONS,
    TASKS,
    WORD_OR_PHRASE,
    Example,
    Task,
    arxivqa,
    figureqa,
    grounding,
    iconqa,
    imagenet_r,
    ocrvqa,
    shuffled,
    super_clevr,
    with_article,
)

Benchmark = Literal["fcit", "ucit", "mllm_dcl", "coin"]
Build = Callable[[random.Random, str], Example]

NUM_VOTES = 10
VIZWIZ = (
    "Somebody who cannot see took this picture. Say in one sentence what is visible.",
    "Tell somebody who cannot see in one sentence what this picture shows.",
)
VIZWIZ_CAPTIONS = (
    "{One} on {ground}.",
    "There is {one} on {ground}.",
    "{One} lies on {ground}.",
    "A picture of {one} on {ground}.",
    "{Ground} with {one} on it.",
)
RS_COUNT = f"How many {{names}} does this remote sensing image show?\n{WORD_OR_PHRASE}"
RS_THERE = f"Is there any {{name}} in this remote sensing image?\n{WORD_OR_PHRASE}"
AD = f"What is the important object in front of the ego vehicle?\n{WORD_OR_PHRASE}"
WHICH_STATES = "Which states of this map are painted {color}? List them between commas."
TEXTVQA = f"What is the upper word that is written in this image?\n{WORD_OR_PHRASE}"
SOURCES = ("AI2D", "TQA", "VQA", "SciVerse")


def opened(build: Build, opening: str) -> Build:
    """What another task draws and asks, behind an opening."""

    def built(rng: random.Random, label: str) -> Example:
        example = build(rng, label)
        (question, answer), *rest = example.turns
        return replace(example, turns=((f"{opening}\n{question}", answer), *rest))

    return built


def vizwiz(rng: random.Random, name: str) -> Example:
    """One thing somewhere in the picture, as far off its middle as pictures of the blind are."""
    item = Item("icon", name, rng.randint(0, 2), rng.randint(0, 2), rng.choice(COLORS), span=2, shift=jitter(rng, 2))
    ground = rng.choice(("grass", "sand", "paper"))
    one = with_article(f"{item.color} {item.name}")
    fields = {"one": one, "One": one[0].upper() + one[1:], "ground": ground, "Ground": ground.capitalize()}
    captions = tuple(form.format(**fields) for form in VIZWIZ_CAPTIONS)
    return Example(Scene((item,), background=ground), ((rng.choice(VIZWIZ), rng.choice(captions)),), captions)


def remote_sensing(rng: random.Random, answer: str) -> Example:
    """Whether something is there, or how many."""
    asked, other, absent = shuffled(rng, MARKERS)[:3]
    color, second = shuffled(rng, COLORS)[:2]
    count = int(answer) if answer.isdigit() else rng.randint(1, 3)
    looks = [(asked, color, "large")] * count + [(other, second, "large")] * rng.randint(1, 4)
    scene = Scene(scatter(rng, "marker", looks), background="grass")
    if answer.isdigit():
        return Example(scene, ((RS_COUNT.format(names=PLURALS[asked]), answer),))
    return Example(scene, ((RS_THERE.format(name=asked if answer == "yes" else absent), answer),))


def driving(rng: random.Random, label: str) -> Example:
    """One vehicle, to be named with its colour: an answer of two words."""
    return replace(imagenet_r(rng, label), turns=((AD, label),))


def science(rng: random.Random, label: str) -> Example:
    """A diagram with options, or a map whose states are to be listed; the picture's name says which."""
    if label != "map":
        return replace(opened(arxivqa, "A question from a science lesson.")(rng, label), source=rng.choice(SOURCES))
    states = shuffled(rng, BAR_LABELS)[:GRID]
    color, other = shuffled(rng, COLORS, ("black",))[:2]
    painted = sorted(rng.sample(range(GRID), rng.randint(1, GRID - 1)))
    items: list[Item] = []
    for row, state in enumerate(states):
        paint = color if row in painted else other
        items += [Item("glyph", state, row, 1), Item("marker", "square", row, 2, paint, shift=jitter(rng))]
    answer = ",".join(states[row] for row in painted)
    return Example(Scene(tuple(items)), ((WHICH_STATES.format(color=color), answer),), source="MapQA")


def textvqa(rng: random.Random, title: str) -> Example:
    """A word to read, and what ten people read: most of them the word, in one case or another."""
    example = ocrvqa(rng, f"{title} by {rng.choice(AUTHORS)}")
    wrong = rng.sample([word for word in TITLES if word != title], rng.randint(0, 3))
    votes = [rng.choice((title, title.lower(), title.upper())) for _ in range(NUM_VOTES - len(wrong))] + wrong
    rng.shuffle(votes)
    return replace(example, turns=((TEXTVQA, title),), votes=tuple(votes))


def _by_name(tasks: Iterable[Task]) -> dict[str, Task]:
    return {task.name: task for task in tasks}


_VEHICLES = tuple(f"{color} {name}" for name in ICONS_BY_GROUP["vehicle"] for color in COLORS)
_PHOTO = "COCO2014/{split}2014/COCO_{split}2014_"
_UCIT = (
    *(TASKS[name] for name in ("ImageNet-R", "ArxivQA", "IconQA", "CLEVR-Math")),
    replace(TASKS["Flickr30k-cap"], name="Flickr30k"),
    Task("VizWiz", ICONS, vizwiz, "VizWiz/{split}/VizWiz_{split}_{number:08d}.png", VIZWIZ, held_out="val"),
)
_MLLM_DCL = (
    Task("RS", ("yes", "no", "2", "3"), remote_sensing, "images/{split}_{number:06d}.png", (RS_COUNT, RS_THERE)),
    Task(
        "Med",
        COLORS + SOLIDS,
        opened(super_clevr, "This is a slide under a microscope."),
        "images/{split}_{number:06d}.png",
        (),
    ),
    Task("AD", _VEHICLES, driving, "images/{split}_{number:06d}.png", (AD,)),
    Task("Sci", (*LETTERS, "map", "map"), science, "images/{source}_{split}_{number:06d}.png", (WHICH_STATES,)),
    Task(
        "Fin",
        ("yes", "no"),
        opened(figureqa, "The bars of this chart are prices of stocks."),
        "images/{split}_{number:06d}.png",
        (),
    ),
)
_COIN = (
    Task(
        "ScienceQA",
        LETTERS,
        opened(arxivqa, "A question from a science lesson."),
        "ScienceQA/images/{split}/{number}/image.png",
        (),
    ),
    Task("TextVQA", TITLES, textvqa, "TextVQA/train_images/{split}{number:06d}.png", (TEXTVQA,), held_out="val"),
    Task("ImageNet", RENDITIONS, imagenet_r, "ImageNet/{split}/{label}/{number:05d}.png", (), held_out="val"),
    Task(
        "GQA",
        COLORS + SOLIDS,
        opened(super_clevr, "Look at the relations of this scene."),
        "GQA/images/{split}{number:07d}.png",
        (),
    ),
    Task(
        "VizWiz",
        NUMBERS,
        opened(iconqa, "Somebody who cannot see asks this."),
        "VizWiz/{split}/VizWiz_{split}_{number:08d}.png",
        (),
        held_out="val",
    ),
    Task("Grounding", ("",), grounding, _PHOTO + "{number:012d}.png", (), held_out="val"),
    Task(
        "VQAv2",
        ("yes", "no"),
        opened(figureqa, "A question about what everybody can see."),
        _PHOTO + "9{number:011d}.png",
        (),
        held_out="val",
    ),
    Task("OCRVQA", BOOKS, ocrvqa, "OCR-VQA/images/{split}{number:06d}.png", ()),
)
BENCHMARKS: Mapping[Benchmark, Mapping[str, Task]] = {
    "fcit": TASKS,
    "ucit": _by_name(_UCIT),
    "mllm_dcl": _by_name(_MLLM_DCL),
    "coin": _by_name(_COIN),
}
"""The tasks of each benchmark, by their names in its catalog."""
