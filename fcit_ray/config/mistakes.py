"""What a user wrote and what was probably meant: a line for every mistake, none for what only follows from another."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fcit_ray.storage.location import redact

NAMED = ("method", "server", "local", "lora", "robust", "privacy")
"""Sections of the configuration that hold a `name` and its hyper-parameters."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'disco'?` for what looks like one of the choices, else nothing."""
    by_case = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(word.casefold(), by_case, n=1, cutoff=0.6)
    return f"; did you mean {by_case[close[0]]!r}?" if close and by_case[close[0]] != word else ""


def describe(error: ValidationError, prefix: str = "", schema: type[BaseModel] | None = None) -> str:
    """One line per offending key: dotted key, value, what was expected.

    Args:
        error: of pydantic.
        prefix: dotted key of what was checked.
        schema: of what was checked, where it is to be searched for keys like those that it does not know.
    """
    items: dict[str, list[Any]] = {}
    for item in error.errors(include_url=False):
        # Where a value may be of several types, pydantic adds the type it tried, such as "literal['homogeneous']".
        path = [str(part) for part in item["loc"] if "[" not in str(part)]
        items.setdefault(".".join([prefix, *path] if prefix else path), []).append(item)
    unknown = {key for key, found in items.items() if _is_unknown(found[0])}
    meant = {key: _suggestion(key.removeprefix(f"{prefix}.") if prefix else key, schema) for key in unknown}
    lines = []
    for key, found in items.items():
        above = key.rpartition(".")[0]
        # One of the types that a value may have says where in it the mistake is; the others only that it is none.
        if any(other.startswith(f"{key}.") for other in items):
            continue
        item = _telling(found)
        if item["type"] == "missing" and any(key == suggestion for suggestion, _ in meant.values()):
            continue  # it is there, misspelled
        if item["type"] == "value_error" and any(other.rpartition(".")[0] == above for other in unknown):
            continue  # it may contradict a default, where the user gave a value under a misspelled key
        lines.append(f"{key}: {_message(key, item)}{meant.get(key, ('', ''))[1]}")
    return "\n".join(lines)


def _is_unknown(item: Any) -> bool:
    return item["type"] in ("extra_forbidden", "unexpected_keyword_argument")


def _telling(found: list[Any]) -> Any:
    """Of several complaints about one value, which may be of several types, the one about its own type."""
    for item in found:
        if isinstance(item["input"], str) == (item["type"] == "literal_error"):
            return item
    return found[0]


def _message(key: str, item: Any) -> str:
    kind, given = item["type"], item["input"]
    message = _expected(item)
    if _is_unknown(item):
        return "unknown key"
    if kind == "missing":
        return "missing"
    if kind == "invalid_key":
        return "expected a text as key"
    if kind == "dict_type" and key in NAMED and isinstance(given, str):
        return f"expected a name and its keys; write {key}.name={given}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        message = f"expected keys and their values, such as {key}.<key>=<value>"
    elif kind == "tuple_type" and isinstance(given, str):
        return f"expected a list; write '{key}=[{redact(given)}]'"
    elif kind == "literal_error" and isinstance(given, str):
        return f"{message} (got {given!r:.80}){nearest(given, _choices(item))}"
    elif not item["loc"]:  # a check of all hyper-parameters together: what was given is no single value
        return message
    return f"{message} (got {redact(repr(given)):.80})"


def _expected(item: Any) -> str:
    """What would have been right, in our words: pydantic names the kind of mistake, and changes its sentences."""
    limits = item.get("ctx", {})
    match item["type"]:
        case "greater_than":
            return f"expected a number above {limits['gt']:g}"
        case "greater_than_equal":
            return f"expected at least {limits['ge']:g}"
        case "less_than":
            return f"expected a number below {limits['lt']:g}"
        case "less_than_equal":
            return f"expected at most {limits['le']:g}"
        case "finite_number":
            return "expected a finite number"
        case "float_type" | "float_parsing":
            return "expected a number"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return "expected a whole number"
        case "bool_type" | "bool_parsing":
            return "expected true or false"
        case "string_type":
            return "expected a text"
        case "string_too_short":
            return "expected a text that is not empty"
        case "too_short":
            return f"expected {limits['min_length']} at least"
        case "list_type" | "tuple_type":
            return "expected a list"
        case "path_type":
            return "expected a path"
        case "literal_error":
            *others, last = _choices(item)
            return f"expected {', '.join(others)} or {last}" if others else f"expected {last}"
    return str(item["msg"]).removeprefix("Value error, ")


def _choices(item: Any) -> list[str]:
    """What a value that has to be one of several may be."""
    return re.findall(r"'([^']*)'", item["ctx"]["expected"])


def _suggestion(key: str, schema: type[BaseModel] | None) -> tuple[str, str]:
    """The dotted key of a schema that an unknown one was probably meant for, if any, and what to say."""
    if schema is None:
        return "", ""
    known = list(_keys(schema))
    above, _, own = key.rpartition(".")
    place = re.sub(r"\.\d+(?=\.|$)", "", above)  # tasks.0 is any of the tasks
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == place]
    if close := difflib.get_close_matches(own, beside, n=1, cutoff=0.7):
        meant = f"{above}.{close[0]}" if above else close[0]
        return meant, f"; did you mean {meant}?"
    elsewhere: dict[str, str] = {}
    for name in known:
        elsewhere.setdefault(name.rpartition(".")[2], name)
    if close := difflib.get_close_matches(own, elsewhere, n=1, cutoff=0.85):
        return elsewhere[close[0]], f"; did you mean {elsewhere[close[0]]}?"
    return "", f"; {above} takes: {', '.join(beside)}" if above else f"; there are: {', '.join(beside)}"


def _keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _keys(part, f"{prefix}{name}.")


def unknown_name(section: str, name: str, known: Mapping[str, Any] | Iterable[str]) -> str:
    """What to say of a name that a section does not know."""
    return f"{section}.name: unknown {name!r}; one of {', '.join(known)}, or module:Class of your own" + nearest(
        name, known
    )
