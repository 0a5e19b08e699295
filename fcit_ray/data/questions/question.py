"""One question to a trained model: read from whatever a user has, with its place and its pictures, none or several.

A value that cannot be asked keeps its place and says why, so that the others are answered.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from fcit_ray.data.formats.chat import from_messages
from fcit_ray.data.formats.shape import QUESTIONS
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.tokens import Sample
from fcit_ray.data.records.fields import check_characters, is_text_or_number, printable, shown, text_of
from fcit_ray.data.records.images import PictureError
from fcit_ray.data.records.parsing import Record
from fcit_ray.data.records.pictures import check_marks, named
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import IMAGE_TOKEN, Turn
from fcit_ray.storage.files import NUM_BYTES, misfit, misfit_content

TEXTS = (*QUESTIONS, "conversations", "messages")
"""Keys under which a question may stand, in the order in which they are looked for."""
IDS = ("question_id", "id")


@dataclass(frozen=True)
class Question:
    """What is asked, or why it cannot be.

    Attributes:
        record: the question with its place; `images` as the input names them.
        pictures: bytes or path of each of `record.images`; None where these lie in the data root.
        fault: why it cannot be asked, in words that follow its place; empty if nothing is known against it.
    """

    record: Record
    pictures: tuple[bytes | str, ...] | None = None
    fault: str = ""

    def open(self, number: int) -> IO[bytes]:
        """One of the pictures that it brings, open for reading.

        Raises:
            PictureError, OSError: it cannot be used.
        """
        assert self.pictures is not None, "its pictures lie in a data root"
        return _open(self.pictures[number])

    def encode(self, encoder: SampleEncoder) -> Sample:
        """The sample that a model takes.

        Raises:
            DataError: it cannot be asked; names its place.
        """
        if self.fault:
            raise DataError(f"{self.record.where}: {self.fault}")
        if self.pictures is not None:
            encoder = replace(encoder, open_image=_Brought(dict(zip(self.record.images, self.pictures, strict=True))))
        return encoder.encode_test(self.record)


@dataclass(frozen=True)
class _Brought:
    """Opens the pictures that a question brings, by what it calls them, in the place of the data root's."""

    pictures: Mapping[str, bytes | str]

    def __call__(self, root: str, image: str) -> IO[bytes]:
        return _open(self.pictures[image])


def _open(picture: bytes | str) -> IO[bytes]:
    if isinstance(picture, bytes):
        if reason := misfit_content(picture[:NUM_BYTES]):
            raise PictureError(reason)
        return BytesIO(picture)
    if reason := misfit(picture):  # before it is opened: a named pipe would never be
        raise PictureError(reason)
    return Path(picture).open("rb")


def read_question(item: Any, source: str, index: int, images: str) -> Question:
    """A question of a JSON value or a row of a table.

    Args:
        item: with a text under one of `TEXTS`, perhaps a picture under `image` or `images` (a path, bytes, the mapping
            of `bytes` and `path` that the datasets library writes, or a list of such), and perhaps an id under one of
            `IDS`. Of `conversations`, or chat `messages` (`formats.chat`), the last question is asked, and what was
            said before it stands before it.
        source: the input's file, for messages and for the answer's line.
        index: position in that file, from 0.
        images: folder that relative paths of pictures start from.
    """
    name = str(index)
    record = Record("", name, (), (), source=source, index=index)
    try:
        name = _id(item, name)
        record = replace(record, id=name)
        if next((key for key in TEXTS if item.get(key) is not None), "") == "messages":
            item = from_messages(item)
        found = _pictures(item, images, index)
        record = replace(record, images=tuple(shown_as for shown_as, _ in found))
        turns = _turns(item)
        check_marks([turn.question for turn in turns], len(found))
        return Question(replace(record, turns=turns), tuple(picture for _, picture in found))
    except DataError as error:
        return Question(record, fault=str(error))


def ask_about(pictures: Sequence[Path], text: str, source: str, index: int, names: Sequence[str]) -> Question:
    """A question in words about the files of pictures, or about none.

    Args:
        pictures: their paths.
        text: what is asked.
        source: the input, for messages.
        index: position in it.
        names: what the pictures are called; the first is the question's id, without any its position.
    """
    called = tuple(printable(name) for name in names)
    record = Record("", called[0] if called else str(index), called, (), source=source, index=index)
    paths = tuple(map(str, pictures))
    try:
        record = replace(record, turns=(Turn(checked_text(text)),))
        check_marks([text], len(paths))
        return Question(record, paths)
    except DataError as error:
        return Question(record, paths, str(error))


def checked_text(text: str) -> str:
    """A question's words.

    Raises:
        DataError: there are none, or they cannot be asked.
    """
    check_characters("the question", text)
    if not text.replace(IMAGE_TOKEN, "").strip():
        raise DataError(f"empty question ({text!r:.80}); expected words")
    return text


def _id(item: Any, default: str) -> str:
    if not isinstance(item, Mapping):
        raise DataError(f"is a JSON {type(item).__name__}; expected an object")
    for key in IDS:
        if item.get(key) not in (None, ""):
            if not is_text_or_number(item[key]):
                raise DataError(f"{key!r} is {shown(item[key])}; expected text or a number")
            return printable(str(item[key]))
    return default


def _pictures(item: Mapping[str, Any], images: str, index: int) -> list[tuple[str, bytes | str]]:
    """What each picture is called, and its bytes or its path."""
    values = named(item)
    unnamed = f"picture {index}" if len(values) == 1 else f"picture {index}."
    found: dict[str, bytes | str] = {}
    shown: list[str] = []
    for number, value in enumerate(values):
        shown_as, picture = _picture(value, images, f"{unnamed}{number}" if len(values) > 1 else unnamed)
        if found.setdefault(shown_as, picture) != picture:  # other bytes of the same name
            found[shown_as := f"{shown_as} ({number})"] = picture
        shown.append(shown_as)
    return [(name, found[name]) for name in shown]


def _picture(value: Any, images: str, unnamed: str) -> tuple[str, bytes | str]:
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            return printable(str(path)) if path else unnamed, content
        value = path
    if isinstance(value, bytes):
        return unnamed, value
    if not isinstance(value, str) or not value:
        raise DataError(f"'image' is {shown(value)}; expected a path, a picture's bytes, or a list of these")
    check_characters("'image'", value)
    if "\0" in value:
        raise DataError(f"image {value!r} holds a NUL character; expected a path")
    return value, os.path.join(images, value)


def _turns(item: Mapping[str, Any]) -> tuple[Turn, ...]:
    key = next((key for key in TEXTS if item.get(key) is not None), "text")
    if key != "conversations":
        return (Turn(checked_text(text_of(item, key))),)
    messages = item[key]
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError("'conversations' is no list of messages; expected human and gpt in turn")
    if len(messages) % 2 == 0:
        messages = messages[:-1]  # the answer to what is asked
    roles = [message.get("from") for message in messages]
    if not messages or roles != ["human", *["gpt", "human"] * (len(messages) // 2)]:
        raise DataError(f"roles are {printable(', '.join(map(str, roles))) or 'none'}; expected human, gpt in turn")
    texts = [text_of(message, "value") for message in messages]
    if odd := next((text for text in texts[1::2] if IMAGE_TOKEN in text), None):
        raise DataError(f"{IMAGE_TOKEN} in an answer ({odd!r:.80}); expected it in the questions only")
    before = zip(texts[:-1:2], texts[1::2], strict=True)
    return (*(Turn(question, answer.strip()) for question, answer in before), Turn(checked_text(texts[-1])))
