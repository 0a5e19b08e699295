"""Questions and recitals about a picture, in words that no benchmark task uses."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fcit_ray.data.miniature.scenes import (
    COLORS,
    Item,
    Scene,
)
from fcit_ray.data.miniature.tasks import LETTERS, PLURALS, shuffled


@dataclass(frozen=True)
class Question:
    """One question about a picture; `skill` is what it practises."""

    skill: str
    text: str
    answer: str


OPENINGS = (*[""] * 8, "look well. ", "here is a thing to solve. ", "now then: ", "my friend would like to know: ")


CLOSINGS = (*[""] * 8, " be quick.", " say it shortly.", "\nreply with as little text as you can.", "\nno long reply.")


def ask(rng: random.Random, skill: str, forms: Sequence[str], answer: str, **fields: str) -> Question:
    text = rng.choice(OPENINGS) + rng.choice(forms).format(**fields) + rng.choice(CLOSINGS)
    return Question(skill, text, answer)


def pick(rng: random.Random, skill: str, stem: str, right: str, wrong: Sequence[str]) -> Question:
    """The letter of the right option, options laid out in one of several ways."""
    letter = rng.randrange(len(LETTERS))
    options = list(wrong[: len(LETTERS) - 1])
    options.insert(letter, right)
    mark, gap = rng.choice(((".", "\n"), (".", " "), (")", "\n"), (")", ", "), (":", "; ")))
    lines = gap.join(f"{name}{mark} {option}" for name, option in zip(LETTERS, options, strict=True))
    return Question(skill, f"{rng.choice(OPENINGS)}{stem}\n{lines}\n{rng.choice(PICK_CLOSINGS)}", LETTERS[letter])


def recite(rng: random.Random, skill: str, form: str, pairs: Sequence[tuple[str, str]]) -> Question:
    """Pairs in random order, so that only looking tells what comes second."""
    text = ", ".join(f"{first} {second}" for first, second in rng.sample(list(pairs), len(pairs)))
    return Question(skill, form, text)


def both_ways(
    rng: random.Random, skill: str, first: str, second: str, pairs: Sequence[tuple[str, str]]
) -> list[Question]:
    """Recitals from first to second and back, where a word names one pair only."""
    found = []
    for one, other, way in ((first, second, pairs), (second, first, [(b, a) for a, b in pairs])):
        unique = sorted(set(way))
        if len({a for a, _ in unique}) == len(unique):
            found.append(recite(rng, skill, f"list {one} and {other}.", unique))
    return found


PICK_CLOSINGS = ("pick a letter.", "say the letter.", "only the letter, please.", "letter?", "which letter fits?")


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


def count_questions(rng: random.Random, scene: Scene, sort: str) -> list[Question]:
    """Counting questions whose answers are from 0 to 9."""
    names = [item.name for item in scene.items]
    colors = [item.color for item in scene.items]
    name, color = rng.choice(names), rng.choice(colors)
    asked = [
        ask(rng, f"{sort} count kind", COUNT_KIND, str(names.count(name)), names=PLURALS[name]),
        ask(rng, f"{sort} count color", COUNT_COLOR, str(colors.count(color)), color=color),
    ]
    if len(names) < 10:
        asked.append(ask(rng, f"{sort} count all", COUNT_ALL, str(len(names))))
    kind_left, color_left = len(names) - names.count(name), len(colors) - colors.count(color)
    if kind_left < 10:
        fields = {"name": name, "names": PLURALS[name]}
        asked.append(ask(rng, f"{sort} rest kind", REST_KIND, str(kind_left), **fields))
    if color_left < 10:
        asked.append(ask(rng, f"{sort} rest color", REST_COLOR, str(color_left), color=color))
    return asked


def look_questions(rng: random.Random, items: Sequence[Item], family: Sequence[str], sort: str) -> list[Question]:
    """Colour of a name, name of a colour, presence: only where the question has one answer."""
    asked = []
    item = rng.choice(items)
    pairs = {(other.name, other.color) for other in items}
    if len({color for name, color in pairs if name == item.name}) == 1:
        asked.append(ask(rng, f"{sort} color", COLOR_OF, item.color, name=item.name))
        stem = rng.choice(("the {name} is", "the {name} has as color", "color {name}")).format(name=item.name)
        asked.append(pick(rng, f"{sort} pick color", stem, item.color, shuffled(rng, COLORS, (item.color,))))
    if len({name for name, color in pairs if color == item.color}) == 1:
        asked.append(ask(rng, f"{sort} name", NAME_OF, item.name, color=item.color))
        if len(family) >= len(LETTERS):
            stem = rng.choice(("the {color} one is", "{color} is here the", "{color} has shape")).format(
                color=item.color
            )
            asked.append(pick(rng, f"{sort} pick name", stem, item.name, shuffled(rng, family, (item.name,))))
    there = rng.random() < 0.5
    name, color = item.name, item.color
    while not there and (name, color) in pairs:
        name, color = (rng.choice(family), color) if rng.random() < 0.5 else (name, rng.choice(COLORS))
    asked.append(ask(rng, f"{sort} is there", IS_THERE, YES_NO[there], name=name, color=color))
    return asked


def item_recitals(rng: random.Random, items: Sequence[Item], sort: str) -> tuple[Question, ...]:
    """How many of each name and colour, and which colour each name has."""
    names, colors = [PLURALS.get(item.name, item.name) for item in items], [item.color for item in items]
    counts = [(word, str(words.count(word))) for words in (names, colors) for word in sorted(set(words))]
    found = both_ways(rng, f"list {sort}", "name", "color", [(item.name, item.color) for item in items])
    return (recite(rng, f"list {sort} numbers", "list all numbers.", counts), *found)
