"""Chat messages to LLaVA's conversations: roles, content parts, pictures named in them or beside them.

What is taken is what TRL, ms-swift, LLaMA-Factory and the hub's vision sets write: `messages` of `role` and `content`,
the content a text or a list of parts; a part `image` that names its picture (`image`, `path`, `url`, `image_url`) or is
the mark of the next one (or, by `index`, of a certain one) of the record's own `images` or `image`.

A system message, which LLaVA's template has no place for, comes before the first question, as templates without a
system role have it (Gemma's); dropping it would teach answers whose reason is not seen.
"""

import re
from collections.abc import Mapping
from typing import Any

from fcit_ray.errors import DataError
from fcit_ray.models.prompt import IMAGE_TOKEN

_ROLES = {"user": "human", "human": "human", "assistant": "gpt", "gpt": "gpt"}
_SYSTEM = ("system", "developer")
_MARKS = re.compile(rf"(?:{IMAGE_TOKEN}\s*)*")


def from_messages(item: Mapping[str, Any]) -> dict[str, Any]:
    """A record of chat messages in LLaVA's words: `conversations`, and all its pictures under `image`.

    Raises:
        DataError: says which message cannot be taken.
    """
    messages = item["messages"]
    if not isinstance(messages, list) or not messages:
        raise DataError("'messages' holds none; expected a list of user and assistant messages")
    beside = _listed(item.get("images") if item.get("images") is not None else item.get("image"))
    pictures = _Pictures(beside)
    turns: list[dict[str, str]] = []
    system = [_text_of(item["system"], "'system'")] if item.get("system") else []
    for number, message in enumerate(messages):
        what = f"message {number}"
        if not isinstance(message, Mapping):
            raise DataError(f"{what} is {message!r:.80}; expected role and content")
        role = message.get("role", message.get("from"))
        text = pictures.text_of(message.get("content", message.get("value")), what)
        if role in _SYSTEM and not turns:
            system.append(text)
        elif role in _ROLES:
            turns.append({"from": _ROLES[role], "value": text})
        else:
            raise DataError(
                f"{what} has the role {role!r}; expected user and assistant in turn, a system message first"
            )
    made = {key: value for key, value in item.items() if key not in ("messages", "images", "image", "system")}
    if found := pictures.all():
        made["image"] = found
    return {**made, "conversations": with_system(turns, "\n\n".join(system))}


def with_system(turns: list[dict[str, str]], system: str) -> list[dict[str, str]]:
    """A conversation whose first question says first what its system message says."""
    if not system or not turns:
        return turns
    first = turns[0]["value"]
    end = match.end() if (match := _MARKS.match(first)) else 0
    return [{**turns[0], "value": f"{first[:end]}{system}\n\n{first[end:]}"}, *turns[1:]]


class _Pictures:
    """The pictures of one record, as its parts come to them.

    Args:
        beside: those that the record lists beside its messages.
    """

    def __init__(self, beside: list[Any]):
        self._beside = beside
        self._named: list[Any] = []
        self._marks: list[int] = []

    def text_of(self, content: Any, what: str) -> str:
        """A message's text with a mark for each picture in it."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list) or not content:
            raise DataError(f"{what}: content is {content!r:.80}; expected text, or a list of parts")
        text, after_mark = "", False
        for number, part in enumerate(content):
            place = f"{what}, part {number}"
            if not isinstance(part, Mapping):
                raise DataError(f"{place} is {part!r:.80}; expected a type and what goes with it")
            if part.get("type") == "text":
                piece = _text_of(part.get("text"), f"{place}: text")
                mark = False
            elif part.get("type") in ("image", "image_url"):
                self._add(part, place)
                piece, mark = IMAGE_TOKEN, True
            else:
                raise DataError(f"{place} is of type {part.get('type')!r}; expected text or image")
            # LLaVA's data has a line to itself for each picture.
            text += f"\n{piece}" if text and (mark or after_mark) else piece
            after_mark = mark
        return text

    def _add(self, part: Mapping[str, Any], place: str) -> None:
        for key in ("image", "path", "url", "image_url"):
            value = part.get(key)
            if key == "image_url" and isinstance(value, Mapping):
                value = value.get("url")
            if value is not None:
                self._named.append(value)
                return
        index = part.get("index")
        self._marks.append(len(self._marks) if index is None else index)
        if not isinstance(self._marks[-1], int) or not 0 <= self._marks[-1] < len(self._beside):
            raise DataError(
                f"{place} stands for a picture that is not there: the record lists {len(self._beside)} under 'images'"
            )

    def all(self) -> list[Any]:
        """The pictures in the order of their marks.

        Raises:
            DataError: they are named twice, or more are listed than are marked.
        """
        if self._named and self._beside:
            raise DataError("names pictures in its messages and under 'images' too; expected one of the two")
        if self._marks:
            if len(set(self._marks)) != len(self._beside):
                raise DataError(f"lists {len(self._beside)} pictures and marks {len(set(self._marks))} in its messages")
            return [self._beside[mark] for mark in self._marks]
        return self._named or self._beside


def _text_of(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} is {value!r:.80}; expected text")
    return value


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
