"""Records of any keys in one shape, LLaVA's, so that one way of checking does for all.

Training: `id`, `image` (a path, a list of paths, or none) and `conversations`. Questions: `question_id` or `id`,
`image`, `text`, `answer`, and `before`, the earlier turns of a conversation whose last question is asked. A record that
has this shape already stays what it is.
"""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fcit_ray.config.datasets import Keys
from fcit_ray.config.mistakes import nearest
from fcit_ray.data.formats.chat import from_messages, with_system
from fcit_ray.data.records.fields import check_text_or_number, printable, shown
from fcit_ray.errors import DataError
from fcit_ray.storage.location import redact

QUESTIONS = ("text", "question", "prompt")
"""Keys under which a question may stand, in the order in which they are looked for."""
ANSWER = "answer"
_OTHERS = frozenset(("messages", "images", "system"))
"""Keys of which something has to be made."""


@dataclass(frozen=True)
class Shape:
    """Puts the records of one file into LLaVA's shape.

    Attributes:
        source: the file, of whose name the ids of test records are made that have none.
        keys: under which keys they hold what.
        asked: they are questions to a model, not what it is trained on.
    """

    source: str
    keys: Keys = field(default_factory=Keys)
    asked: bool = False

    def check(self, place: str, items: Iterable[tuple[int, Any]]) -> None:
        """Refuse a mapping that fits no record of a file.

        Raises:
            DataError: names the key, and those that there are.
        """
        for name, key in self.keys.model_dump().items():
            if key is None:
                continue
            records = [item for _, item in items if isinstance(item, Mapping)]
            if records and all(_at(item, key) is None for item in records):
                there = list(dict.fromkeys(printable(str(found)) for item in records for found in item))
                raise DataError(
                    f"{redact(place)}: no record has {key!r}, which keys.{name} of its dataset names; they have "
                    f"{', '.join(there) or 'nothing'}{nearest(key, there)}"
                )

    def __call__(self, index: int, item: Any) -> Any:
        """One record in LLaVA's shape.

        Args:
            index: its position in its file.
            item: as the file has it.

        Raises:
            DataError: it cannot be put so.
        """
        if not isinstance(item, Mapping) or (self._is_plain and self._has_the_shape(item)):
            return item
        made = self._renamed(item)
        if "messages" in made and "conversations" not in made:
            made = from_messages(made)
        elif isinstance(made.get("conversations"), list) and isinstance(made.get("system"), str) and made["system"]:
            made["conversations"] = with_system(made["conversations"], made.pop("system"))
        if "images" in made and "image" not in made:
            made["image"] = made.pop("images")
        if isinstance(made.get("image"), list | tuple | Mapping):
            made["image"] = _picture(made["image"])
            if made["image"] is None:
                del made["image"]
        made = self._question(index, made) if self.asked else _conversation(made)
        return item if made == item else made

    @cached_property
    def _is_plain(self) -> bool:
        return self.keys == Keys()

    def _has_the_shape(self, item: Mapping[str, Any]) -> bool:
        """Whether nothing need be done, as of most records: told by a look at its keys."""
        wanted = "text" if self.asked else "conversations"
        return wanted in item and isinstance(item.get("image"), str) and not (_OTHERS & item.keys())

    def _renamed(self, item: Mapping[str, Any]) -> dict[str, Any]:
        made = dict(item)
        others = {
            "id": ("question_id",),
            "image": ("images",),
            "question": ("text", "prompt", "messages", "conversations"),
            "answer": (),
        }
        for name, key in self.keys.model_dump().items():
            if key is None:
                continue
            value = _at(item, key)
            if value is None and name in ("question", "answer"):
                have = printable(", ".join(map(str, item))) or "nothing"
                raise DataError(f"has no {key!r}, which keys.{name} of its dataset names (only {have})")
            for other in (name, *others[name]):
                made.pop(other, None)
            if value is not None:
                made[name] = value
        return made

    def _question(self, index: int, made: dict[str, Any]) -> dict[str, Any]:
        if "text" in made:
            return made
        found = next((key for key in QUESTIONS if key in made), None)
        messages = made.get("conversations")
        if found:
            made["text"] = made.pop(found)
        elif isinstance(messages, list) and len(messages) > 1 and all(isinstance(m, Mapping) for m in messages):
            *before, question, answer = messages
            if (question.get("from"), answer.get("from")) != ("human", "gpt"):
                roles = printable(", ".join(str(message.get("from")) for message in messages))
                raise DataError(f"roles are {roles}; expected the question and its answer last")
            del made["conversations"]
            made |= {"text": question.get("value"), ANSWER: answer.get("value")}
            made |= {"before": before} if before else {}
        else:
            if _is_unnamed(made):
                have = printable(", ".join(map(str, made))) or "nothing"
                raise DataError(
                    f"has no question under {', '.join(map(repr, QUESTIONS))}, and no conversation (only {have}); "
                    "`keys` of its dataset or its file says under which key it stands"
                )
            return made
        if _is_unnamed(made):
            made["id"] = f"{posixpath.basename(self.source.partition('?')[0])}:{index}"
        return made


def _is_unnamed(item: Mapping[str, Any]) -> bool:
    return all(item.get(key) in (None, "") for key in ("question_id", "id"))


def _conversation(made: dict[str, Any]) -> dict[str, Any]:
    """A training record of a question and an answer as one turn."""
    found = next((key for key in QUESTIONS if key in made), None)
    if "conversations" in made or found is None or ANSWER not in made:
        return made
    turn = []
    for key, role in ((found, "human"), (ANSWER, "gpt")):
        value = made.pop(key)
        check_text_or_number(key, value)
        turn.append({"from": role, "value": str(value)})
    return {**made, "conversations": turn}


def _picture(value: Any) -> Any:
    """A picture's path, or the list of them; None where there is none."""
    if isinstance(value, list | tuple):
        found = list(map(_picture, value))
        return None if not found else found[0] if len(found) == 1 and isinstance(found[0], str) else found
    if isinstance(value, Mapping):
        if not isinstance(value.get("path"), str):
            raise DataError(f"'image' is {shown(dict(value))}; expected a path: bytes are read from tables alone")
        return value["path"] or None
    return None if value == "" else value


def _at(item: Mapping[str, Any], key: str) -> Any:
    """What lies under a key, or, where there is none of this name, along its dots."""
    if key in item:
        return item[key]
    value: Any = item
    for part in key.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            return None
    return value
