"""One question to a trained model: read from whatever a user has, with its place and its picture.

A value that cannot be asked keeps its place and says why, so that the others are answered.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.tokens import Sample
from fcit_ray.data.records.fields import check_characters, is_text_or_number, printable, shown, text_of
from fcit_ray.data.records.images import PictureError
from fcit_ray.data.records.parsing import Record
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import IMAGE_TOKEN, Turn
from fcit_ray.storage.files import NUM_BYTES, misfit, misfit_content

TEXTS = ("text", "question", "prompt", "conversations")
"""Keys under which a question may stand, in the order in which they are looked for."""
IDS = ("question_id", "id")
NO_PICTURE = (
    "names no picture: these models are asked about one, and text alone is not answered; expected `image`, a path or "
    "the picture's bytes"
)


@dataclass(frozen=True)
class Question:
    """What is asked, or why it cannot be.

    Attributes:
        record: the question with its place; `images` as the input names them.
        picture: the picture's bytes, or its path; None where `record.images` lie in the data root.
        fault: why it cannot be asked, in words that follow its place; empty if nothing is known against it.
    """

    record: Record
    picture: bytes | str | None = None
    fault: str = ""

    def open(self) -> IO[bytes]:
        """The picture that it brings, open for reading.

        Raises:
            PictureError, OSError: it cannot be used.
        """
        assert self.picture is not None, "its picture lies in a data root"
        return _Picture(self.picture)("", self.record.images[0])

    def encode(self, encoder: SampleEncoder) -> Sample:
        """The sample that a model takes.

        Raises:
            DataError: it cannot be asked; names its place.
        """
        if self.fault:
            raise DataError(f"{self.record.where}: {self.fault}")
        if self.picture is not None:
            encoder = replace(encoder, open_image=_Picture(self.picture))
        return encoder.encode_test(self.record)


@dataclass(frozen=True)
class _Picture:
    """Opens the one picture that a question brings, in the place of the data root's."""

    picture: bytes | str

    def __call__(self, root: str, image: str) -> IO[bytes]:
        if isinstance(self.picture, bytes):
            if reason := misfit_content(self.picture[:NUM_BYTES]):
                raise PictureError(reason)
            return BytesIO(self.picture)
        if reason := misfit(self.picture):  # before it is opened: a named pipe would never be
            raise PictureError(reason)
        return Path(self.picture).open("rb")


def read_question(item: Any, source: str, index: int, images: str) -> Question:
    """A question of a JSON value or a row of a table.

    Args:
        item: with a text under one of `TEXTS`, a picture under `image` (a path, bytes, or the mapping of `bytes` and
            `path` that the datasets library writes), and perhaps an id under one of `IDS`. Of `conversations` the last
            human message is asked, and what was said before it stands before it.
        source: the input's file, for messages and for the answer's line.
        index: position in that file, from 0.
        images: folder that relative paths of pictures start from.
    """
    name = str(index)
    record = Record("", name, (), (), source=source, index=index)
    try:
        name = _id(item, name)
        record = replace(record, id=name)
        shown_as, picture = _picture(item, images, index)
        record = replace(record, images=(shown_as,))
        return Question(replace(record, turns=_turns(item)), picture)
    except DataError as error:
        return Question(record, fault=str(error))


def ask_about(picture: Path, text: str, source: str, index: int, name: str) -> Question:
    """A question in words about a picture's file.

    Args:
        picture: its path.
        text: what is asked.
        source: the input, for messages.
        index: position in it.
        name: the question's id; the picture's name is the same.
    """
    record = Record("", printable(name), (printable(name),), (), source=source, index=index)
    try:
        return Question(replace(record, turns=(Turn(checked_text(text)),)), str(picture))
    except DataError as error:
        return Question(record, str(picture), str(error))


def checked_text(text: str) -> str:
    """A question's words.

    Raises:
        DataError: there are none, or they cannot be asked.
    """
    check_characters("the question", text)
    if not text.replace(IMAGE_TOKEN, "").strip():
        raise DataError(f"empty question ({text!r:.80}); expected words")
    if text.count(IMAGE_TOKEN) > 1:
        raise DataError(f"{text.count(IMAGE_TOKEN)} {IMAGE_TOKEN} in one question; expected one picture a question")
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


def _picture(item: Mapping[str, Any], images: str, index: int) -> tuple[str, bytes | str]:
    """What the picture is called, and its bytes or its path."""
    value = item.get("image")
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            return printable(str(path)) if path else f"picture {index}", content
        value = path
    if isinstance(value, bytes):
        return f"picture {index}", value
    if value in (None, ""):
        raise DataError(NO_PICTURE)
    if not isinstance(value, str):
        raise DataError(f"'image' is {shown(value)}; expected one path, or the picture's bytes")
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
    if sum(text.count(IMAGE_TOKEN) for text in texts) > 1:
        raise DataError(f"several {IMAGE_TOKEN} in the conversation; expected one picture a question")
    before = zip(texts[:-1:2], texts[1::2], strict=True)
    return (*(Turn(question, answer.strip()) for question, answer in before), Turn(checked_text(texts[-1])))
