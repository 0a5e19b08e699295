"""Single values of a file's JSON: what may stand in a field of a record, and words for what may not."""

import math
import re
from collections.abc import Mapping
from typing import Any

from fcit_ray.errors import DataError

_SURROGATE = "half a character (an unpaired surrogate); expected text that UTF-8 can hold"
_RESERVED = re.compile(r"[\ufdd0-\ufdef]")
"""Unicode's noncharacters: for a program's own use, never in text that is exchanged. Ours: `models/plain_text.py`."""


def printable(text: str) -> str:
    """The text with what UTF-8 cannot hold, an unpaired surrogate, written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_number(value: Any) -> bool:
    """Whether a value is a number; Python takes JSON's `true` for one, and reads NaN and Infinity, which JSON lacks."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_text_or_number(value: Any) -> bool:
    return isinstance(value, str) or is_number(value)


def check_text_or_number(key: str, value: Any) -> None:
    """Refuse what is neither: JSON's NaN and Infinity, which Python reads, would become the words "nan" and "inf".

    Raises:
        DataError: names the key and what is there.
    """
    if not is_text_or_number(value):
        raise DataError(f"{key!r} is {shown(value)}; expected text or a number")


def shown(value: Any) -> str:
    """A value of a JSON file, briefly, as the file spells it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    try:
        return f"{value!r:.80}"
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def text_of(item: Any, key: str) -> str:
    """A non-blank text field. Numbers are taken as they print, since some files hold `3` where others hold `"3"`.

    Raises:
        DataError: no such field, or no text in it.
    """
    if not isinstance(item, Mapping):
        raise DataError(f"is a JSON {type(item).__name__}; expected an object")
    if key not in item:
        raise DataError(f"has no {key!r} (only {printable(', '.join(map(str, item))) or 'nothing'})")
    value = item[key]
    if not is_text_or_number(value):
        raise DataError(f"{key!r} is {shown(value)}; expected text")
    text = str(value)
    if not text.strip():
        raise DataError(f"{key!r} is empty; expected text")
    check_characters(repr(key), text)
    return text


def check_characters(what: str, text: str) -> None:
    """Refuse text with what no text can hold.

    Raises:
        DataError: names what was given as `what`, and the code.
    """
    if printable(text) != text:
        raise DataError(f"{what} is {text!r:.80}, which holds {_SURROGATE}")
    if found := _RESERVED.search(text):
        raise DataError(
            f"{what} is {text!r:.80}, which holds U+{ord(found[0]):X}, no character but a code that Unicode keeps for "
            f"programs' own use; expected text"
        )
