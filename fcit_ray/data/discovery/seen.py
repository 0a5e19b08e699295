"""A record as far as it is needed to tell what a file is: its questions and answers, and its pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.data.discovery.keys import TURNS, FoundKeys
from fcit_ray.data.records.fields import is_text_or_number
from fcit_ray.data.records.references import listed_answers, most_common
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import IMAGE_TOKEN

_ASKS = ("human", "user")
_ANSWERS = ("gpt", "assistant")


@dataclass(frozen=True)
class Seen:
    """One record.

    Attributes:
        pairs: its questions, each with its answer.
        images: its pictures as the reader names them, files or places in the table.
    """

    pairs: tuple[tuple[str, str], ...]
    images: tuple[str, ...]


def seen_in(rows: Sequence[Any], found: FoundKeys) -> Iterator[Seen]:
    """The records that can be understood; what is wrong with others a check says."""
    for row in rows:
        if isinstance(row, Mapping) and (pairs := tuple(_pairs(row, found))):
            named = _named_images(row.get(found.keys["image"])) if "image" in found.keys else ()
            yield Seen(pairs, (*named, *(_images_of_messages(row, found))))


def _pairs(row: Mapping[str, Any], found: FoundKeys) -> Iterator[tuple[str, str]]:
    if found.turns is None:
        question, answer = row.get(found.keys["question"]), row.get(found.keys.get("answer", ""))
        if "answer" not in found.keys:
            try:
                answer = most_common(listed_answers(row))
            except DataError:
                return
        if is_text_or_number(question) and is_text_or_number(answer) and str(answer).strip():
            yield _plain(str(question)), str(answer).strip()
        return
    asked = ""
    for role, text in _messages(row, found):
        if role in _ASKS:
            asked = text
        elif role in _ANSWERS and text.strip():
            yield _plain(asked), text.strip()


def _messages(row: Mapping[str, Any], found: FoundKeys) -> Iterator[tuple[str, str]]:
    for message in _list(row.get(found.turns or "")):
        if isinstance(message, Mapping):
            for role, content in TURNS.values():
                if role in message and content in message:
                    yield str(message[role]), _text_of(message[content])


def _text_of(content: Any) -> str:
    """Text, or the text of a message's parts."""
    if isinstance(content, str):
        return content
    parts = [part for part in _list(content) if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    return " ".join(part["text"] for part in parts)


def _images_of_messages(row: Mapping[str, Any], found: FoundKeys) -> Iterator[str]:
    """Of chat messages, whose parts may be pictures themselves."""
    for message in _list(row.get(found.turns or "")):
        for part in _list(message.get("content")) if isinstance(message, Mapping) else ():
            if isinstance(part, Mapping) and str(part.get("type", "")).startswith("image"):
                of = next((part[key] for key in ("image", "path", "url", "image_url") if part.get(key)), None)
                yield from _named_images(of.get("url") if isinstance(of, Mapping) and "url" in of else of)


def _named_images(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list | tuple) else [value]:
        path = one.get("path") if isinstance(one, Mapping) else one
        if isinstance(path, str) and path.strip():
            yield path


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _plain(question: str) -> str:
    return " ".join(question.replace(IMAGE_TOKEN, " ").split())
