"""Which keys of a file's records hold what, told by names that are in use and by what stands under them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fcit_ray.data.records.fields import is_text_or_number

ROLES = ("question", "answer", "image", "id")
NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("question_id", "id", "qid", "uid", "sample_id", "record_id"),
    "image": (
        "image", "images", "img", "imgs", "picture", "pictures", "photo", "image_path", "img_path", "image_file",
        "image_name", "imagepath", "file_name", "filename", "path",
    ),
    "question": ("text", "question", "prompt", "instruction", "query", "problem", "input"),
    "answer": (
        "answer", "response", "output", "label", "target", "caption", "solution", "completion", "ground_truth", "gt",
    ),
}  # fmt: skip
"""Names that are in use for a role, the usual first; they are compared without case, spaces, dots and dashes."""
TURNS: Mapping[str, tuple[str, str]] = {"conversations": ("from", "value"), "messages": ("role", "content")}
"""Keys of whole conversations, LLaVA's and chat's, and what their messages hold."""
_USUAL = {
    "question": ("text", "question", "prompt"),
    "answer": ("answer",),
    "image": ("image", "images"),
    "id": ("question_id", "id"),
}
_PICTURE = re.compile(r"\.(png|jpe?g|webp|bmp|gif|tiff?)$", re.IGNORECASE)
_MOST = 0.9
"""The share of the records for which something must hold to be taken for a rule."""


@dataclass(frozen=True)
class FoundKeys:
    """What the keys of a file's records were taken for.

    Attributes:
        turns: the key of whole conversations; None where question and answer have keys of their own.
        keys: by role, those of question, answer, image and id that were found.
        counts: how many records have each key.
        why: what spoke for a key that is not named as usual, by key.
        missing: what was not found and is needed, in words; empty if all was.
    """

    turns: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def unusual(self) -> Mapping[str, str]:
        """The keys that must be declared, by role."""
        return {role: key for role, key in self.keys.items() if key not in _USUAL[role]}


def find_keys(rows: Sequence[Any], given: Mapping[str, str] | None = None) -> FoundKeys:
    """Tell the keys of some records.

    Args:
        rows: as a file holds them.
        given: keys that the user names, by role.
    """
    counts = Counter(str(key) for row in rows if isinstance(row, Mapping) for key in row)
    if not counts:
        return FoundKeys(missing="its records have no keys")
    common = {key for key, count in counts.items() if count >= _MOST * len(rows)}
    keys: dict[str, str] = dict(given or {})
    if absent := [key for key in keys.values() if key not in counts]:
        return FoundKeys(missing=f"no record has {absent[0]!r}; they have {_listed(counts, rows)}")
    why: dict[str, str] = dict.fromkeys(keys.values(), "as --key says")
    # Pictures and ids may be left out of some records, questions and answers not.
    for role, among in (("id", counts.keys()), ("image", counts.keys())):
        if role not in keys and (name := _named(role, among)):
            keys[role] = name
    if "image" not in keys and (name := _by_content(rows, common, _is_picture)):
        keys["image"], why[name] = name, "its values end like files of pictures"
    turns = None if "question" in keys else next((key for key in TURNS if key in common), None)
    if not turns:
        taken = set(keys.values())
        for role in ("question", "answer"):
            if role not in keys and (
                name := _named(role, [key for key in counts if key in common and key not in taken])
            ):
                keys[role] = name
                taken.add(name)
        left = [key for key in common - taken if _share(rows, key, is_text_or_number) >= _MOST]
        if "question" not in keys:
            asking = [key for key in left if _share(rows, key, lambda value: str(value).strip().endswith("?")) >= 0.5]
            if len(asking) == 1:
                keys["question"], why[asking[0]] = asking[0], "its values end with question marks"
                left.remove(asking[0])
        if "answer" not in keys and "question" in keys and len(left) == 1:
            keys["answer"], why[left[0]] = left[0], "no other key holds text"
    votes = "answer" not in keys and "answers" in common and _share(rows, "answers", _is_votes) >= _MOST
    missing = [] if turns else [role for role in ("question", "answer") if role not in keys]
    if votes and "answer" in missing:
        missing.remove("answer")
    words = ""
    if missing:
        words = (
            f"no key of its records is known to hold the {' and the '.join(missing)}; they have {_listed(counts, rows)}"
            f"; say which by --key {missing[0]}=NAME"
        )
    return FoundKeys(
        turns, keys, {key: counts[key] for key in [*keys.values(), *([turns] if turns else [])]}, why, words
    )


def _listed(counts: Counter[str], rows: Sequence[Any]) -> str:
    shown = [f"{key} ({count} of {len(rows)})" for key, count in counts.most_common(12)]
    return ", ".join(shown) + (f" and {len(counts) - 12} more" if len(counts) > 12 else "")


def _named(role: str, among: Iterable[str]) -> str | None:
    plain = {re.sub(r"[\s.\-_]", "", key).casefold(): key for key in reversed(list(among))}
    return next((plain[name] for name in (n.replace("_", "") for n in NAMES[role]) if name in plain), None)


def _is_votes(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1


def _share(rows: Sequence[Any], key: str, holds: Callable[[Any], bool]) -> float:
    values = [row[key] for row in rows if isinstance(row, Mapping) and row.get(key) is not None]
    return sum(map(holds, values)) / len(values) if values else 0.0


def _by_content(rows: Sequence[Any], among: Iterable[str], holds: Callable[[Any], bool]) -> str | None:
    fitting = sorted(key for key in among if _share(rows, key, holds) >= _MOST)
    return fitting[0] if len(fitting) == 1 else None


def _is_picture(value: Any) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return bool(several) and all(
        (isinstance(one, Mapping) and {"bytes", "path"} & one.keys())
        or isinstance(one, bytes)
        or (isinstance(one, str) and _PICTURE.search(one) is not None)
        for one in several
    )
