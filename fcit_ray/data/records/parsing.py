"""From a file's JSON to records: every field is checked, and what is wrong is said of each record by itself."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.config.datasets import Answer
from fcit_ray.data.records.faults import Fault
from fcit_ray.data.records.fields import (
    check_characters,
    check_text_or_number,
    is_number,
    is_text_or_number,
    printable,
    shown,
    text_of,
)
from fcit_ray.data.records.pictures import check_marks, pictures_of
from fcit_ray.data.records.place import Place
from fcit_ray.data.records.references import Captions, Votes, listed_answers, most_common
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import IMAGE_TOKEN, Turn

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as fractions of the side of the square the image is padded to."""

Items = Sequence[tuple[int, Any]]
"""Records as JSON, each with its position in its file: positions have gaps where records are in quarantine."""


# Bounded, or a pattern that looks for a number anywhere takes time that grows with the square of a row of digits.
_NUMBER = r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,4})?"
_BOX = re.compile(r"\[\s*" + r"\s*,\s*".join([f"({_NUMBER})"] * 4) + r"\s*\]")


@dataclass(frozen=True)
class Record:
    """One training conversation or one test question.

    Attributes:
        dataset: its name.
        id: `question_id` or `id` of the file, `printable`; for a training record without either, its position.
        images: its pictures, in the order in which they are read: paths relative to the root, absolute ones, or URIs;
            () is none.
        turns: the conversation; the last turn of a test record, mostly its only one, has no answer.
        answer: what a test question is scored against, for captions the first reference; None in training records,
            whose answers are in the turns.
        references: every reference caption, for captions only.
        box: the region asked for, for Grounding's test records only.
        size: width and height of the image in pixels, for Grounding's test records only.
        votes: what several people answered, for soft votes only.
        source: the file: relative to the root, absolute, or a URI.
        index: position in that file, from 0.
    """

    dataset: str
    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    answer: str | None = None
    references: tuple[str, ...] = ()
    box: Box | None = None
    size: tuple[int, int] | None = None
    votes: tuple[str, ...] = ()
    source: str = ""
    index: int = -1

    @property
    def where(self) -> str:
        """The record's place, for error messages."""
        return f"{self.source or self.dataset}: record {self.index} (id {self.id!r})"


PlaceOf = Callable[[tuple[str, ...], Sequence[Turn], Any], Place]
"""A training record's pictures' paths as its file has them, its conversation and all of it to where it belongs."""


def parse_train(
    place_of: PlaceOf, source: str, items: Items, shape: Callable[[int, Any], Any] = lambda index, item: item
) -> tuple[list[Record], list[Fault]]:
    """Training records of a file in their order, and what is wrong with those that are none.

    Args:
        place_of: where a record belongs; a `DataError` of it counts as the record's.
        source: the file, as its records name it.
        items: the file's records.
        shape: puts a record of other keys into LLaVA's shape, given its position; errors as `place_of`'s.
    """
    records: list[Record] = []
    faults: list[Fault] = []
    for index, given in items:
        name = _name(given, default=str(index))
        try:
            item = shape(index, given)
            name = _name(item, default=str(index))
            _check_id(item)
            images = pictures_of(item)
            turns = _conversation(item, len(images))
            place = place_of(images, turns, item)
            at = tuple(map(place.at, images))
            records.append(Record(place.dataset, name, at, turns, source=source, index=index))
        except DataError as error:
            faults.append(Fault(index, name, str(error)))
    return records, faults


def parse_test(
    place: Place,
    source: str,
    items: Items,
    answer: Answer,
    beside: Captions | Votes | None,
    shape: Callable[[int, Any], Any] = lambda index, item: item,
) -> tuple[list[Record], list[Fault]]:
    """As `parse_train`, for test records.

    Args:
        place: where the records belong.
        source: the file, as its records name it.
        items: the file's records.
        answer: of the dataset, as it is declared.
        beside: what the dataset's file of references holds, if it has one.
        shape: as in `parse_train`.
    """
    records: list[Record] = []
    faults: list[Fault] = []
    first_with: dict[str, int] = {}
    for index, given in items:
        name = _name(given, default="")
        try:
            item = shape(index, given)
            name = _name(item, default="")
            _check_id(item)
            if not name:
                raise DataError("has neither question_id nor id; expected one of them, to match its prediction")
            if first_with.setdefault(name, index) != index:
                raise DataError(f"has the id of record {first_with[name]}; expected ids to differ within a test file")
            images = pictures_of(item)
            before = item.get("before")
            turns = (*(_turns({"conversations": before}) if before else ()), Turn(_question(text_of(item, "text"))))
            check_marks([turn.question for turn in turns], len(images))
            references, votes = references_of(item, answer.kind, beside, name, images[0] if images else "")
            box, size = _region(item) if answer.kind == "box" else (None, None)
            wanted = references[0] if references else _reference_answer(item, answer.kind, votes)
            at = tuple(map(place.at, images))
            records.append(Record(place.dataset, name, at, turns, wanted, references, box, size, votes, source, index))
        except DataError as error:
            faults.append(Fault(index, name, str(error)))
    return records, faults


def parse_box(text: str) -> Box | None:
    """Read `[x1, y1, x2, y2]`; None unless that, give or take space and a full stop, is the whole text."""
    match = _BOX.fullmatch(text.strip().rstrip("."))
    if not match:
        return None
    left, top, right, bottom = (float(group) for group in match.groups())
    return (left, top, right, bottom) if all(map(math.isfinite, (left, top, right, bottom))) else None


def holds_box(text: str) -> bool:
    """Whether `[x1, y1, x2, y2]` stands anywhere in the text."""
    return _BOX.search(text) is not None


def _name(item: Any, default: str) -> str:
    _, value = _id(item)
    return printable(str(value)) if is_text_or_number(value) else default


def _id(item: Any) -> tuple[str, Any]:
    """The key that a record is named by and what is there; None if there is no name."""
    if isinstance(item, Mapping):
        for key in ("question_id", "id"):
            if item.get(key) not in (None, ""):
                return key, item[key]
    return "id", None


def _check_id(item: Any) -> None:
    key, value = _id(item)
    if value is not None:
        check_text_or_number(key, value)


def _question(text: str) -> str:
    if not text.replace(IMAGE_TOKEN, "").strip():
        raise DataError(f"empty question ({text!r}); expected words beside {IMAGE_TOKEN}")
    return text


def _answer(text: str) -> str:
    if not text.strip():
        raise DataError("empty answer; expected text")
    if IMAGE_TOKEN in text:
        raise DataError(f"{IMAGE_TOKEN} in an answer ({text!r:.80}); expected it in the question only")
    return text.strip()


def _conversation(item: Any, num_images: int) -> tuple[Turn, ...]:
    turns = _turns(item)
    check_marks([turn.question for turn in turns], num_images)
    return turns


def _turns(item: Any) -> tuple[Turn, ...]:
    if not isinstance(item, Mapping):
        raise DataError(f"is a JSON {type(item).__name__}; expected an object")
    messages = item.get("conversations")
    if not isinstance(messages, list) or not messages:
        raise DataError("has no conversations; expected a list of human and gpt messages")
    roles = [message.get("from") if isinstance(message, Mapping) else None for message in messages]
    if roles != ["human", "gpt"] * (len(roles) // 2):
        if roles == [*(["human", "gpt"] * (len(roles) // 2)), "human"]:
            raise DataError(f"message {len(roles) - 1}: a human turn without an answer")
        raise DataError(f"roles are {printable(', '.join(map(str, roles)))}; expected human, gpt in turn")
    values = []
    for position, message in enumerate(messages):
        value = message.get("value")
        if not isinstance(value, str):
            raise DataError(f"message {position}: value is {shown(value)}; expected text")
        check_characters(f"message {position}: value", value)
        try:
            values.append(_answer(value) if position % 2 else _question(value))
        except DataError as error:
            raise DataError(f"message {position}: {error}") from None
    return tuple(Turn(question, answer) for question, answer in zip(values[::2], values[1::2], strict=True))


def references_of(
    item: Any, kind: str, beside: Captions | Votes | None, name: str, image: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The reference captions of a record and what people answered: of a file beside, or the record's own."""
    if kind == "caption":
        if isinstance(beside, Captions):
            return beside.of(name, image), ()
        if "answers" in item:
            return tuple(_answer(text) for text in listed_answers(item)), ()
        return (_answer(text_of(item, "answer")),), ()
    if kind == "soft_vote":
        return (), beside.of(name) if isinstance(beside, Votes) else listed_answers(item)
    return (), ()


def _reference_answer(item: Any, kind: str, votes: Sequence[str] = ()) -> str:
    if votes and "answer" not in item:
        return most_common(votes)
    key = "answer_bbox" if kind == "box" and "answer" not in item else "answer"
    if kind == "box" and isinstance(item[key], list):
        if not all(map(is_number, item[key])):
            raise DataError(f"{key!r} is {shown(item[key])}; expected [x1, y1, x2, y2]")
        return str(item[key])
    return _answer(text_of(item, key))


def _region(item: Any) -> tuple[Box, tuple[int, int]]:
    if "answer_bbox" not in item:
        raise DataError("has no 'answer_bbox'; expected [x1, y1, x2, y2]")
    given = item["answer_bbox"]
    is_list = isinstance(given, list) and all(map(is_number, given))
    box = parse_box(str(given)) if is_list or isinstance(given, str) else None
    if box is None or not (box[0] < box[2] and box[1] < box[3]):
        raise DataError(f"answer_bbox is {shown(given)}; expected [x1, y1, x2, y2], x1 < x2, y1 < y2")
    size = item.get("size")
    if not (
        isinstance(size, list)
        and len(size) == 2
        and all(isinstance(side, int | float) and 1 <= side < math.inf for side in size)
    ):
        raise DataError(f"size is {shown(size)}; expected [width, height] in pixels")
    return box, (int(size[0]), int(size[1]))
