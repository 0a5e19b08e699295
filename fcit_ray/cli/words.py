"""What schemas and docstrings say of a key or a hyper-parameter, in words: for `show` and for the documentation."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "of at least {} letters",
    "maxLength": "of at most {} letters",
    "minItems": "of at least {}",
    "maxItems": "of at most {}",
}


def type_in_words(schema: Mapping[str, Any], definitions: Mapping[str, Any], code: str = "{}") -> str:
    """What a value may be.

    Args:
        schema: JSON schema of the value.
        definitions: what its references name.
        code: how a literal value is set.
    """
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return f"a mapping ({', '.join(code.format(key) for key in target['properties'])})"
    if "anyOf" in schema or "oneOf" in schema:
        choices = schema.get("anyOf") or schema["oneOf"]
        return " or ".join(type_in_words(choice, definitions, code) for choice in choices)
    if "const" in schema:
        return code.format(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(code.format(choice) for choice in schema["enum"])
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "array":
        if fixed := schema.get("prefixItems"):
            words = "a list of " + ", ".join(type_in_words(entry, definitions, code) for entry in fixed)
        else:
            words = f"a list, each {type_in_words(schema.get('items', {}), definitions, code)}"
    elif kind == "object":
        words = "a mapping"
    else:
        words = "a path" if schema.get("format") == "path" else _TYPES.get(str(kind), "any value")
    bounds = [text.format(f"{schema[key]:g}") for key, text in _BOUNDS.items() if key in schema]
    return " ".join([words, " and ".join(bounds)]).strip()


def described_attributes(cls: type) -> dict[str, str]:
    """The descriptions under `Attributes:` of a class's docstring and of those it derives from, by name."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        lines = inspect.cleandoc(owner.__dict__.get("__doc__") or "").partition("Attributes:\n")[2].splitlines()
        name = ""
        for line in lines:
            if line and not line.startswith(" "):
                break
            if named := re.match(r" {4}(\w+): (.*)", line):
                name = named[1]
                found[name] = named[2]
            elif name and line.strip():
                found[name] += " " + line.strip()
    return found


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, on one line, without its stop."""
    paragraph = " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())
    # A stop that ends a sentence: not that of `et al.` or an initial.
    return re.split(r"(?<![ .][A-Z])(?<! al)\. (?=[A-Z(])", f"{paragraph} ", maxsplit=1)[0].strip(" .:")
