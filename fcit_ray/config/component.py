"""From a configuration section to the frozen dataclass that it names: a built-in one, or the user's by import path."""

import dataclasses
import importlib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fcit_ray.config.mistakes import describe, nearest, unknown_name
from fcit_ray.config.schema import ConfigError

Component = TypeVar("Component")


def build(
    section: str, base: type[Component], known: Mapping[str, type[Component]], values: Mapping[str, Any]
) -> Component:
    """Build the component that `values["name"]` names, with the other keys as its hyper-parameters.

    Args:
        section: the configuration key, for messages.
        base: what the component must be.
        known: built-in components by name.
        values: the section; `name` is a key of `known` or `package.module:Class`.

    Raises:
        ConfigError: no or unknown name, unknown hyper-parameter, or a value that does not fit its type.
    """
    name = values.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{section}.name: missing; one of {', '.join(known)}, or module:Class of your own")
    cls: Any = known.get(name) or _import(section, name, known)
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{section}.name: {name!r} is not a dataclass derived from {base.__module__}.{base.__name__}")
    given = {key: value for key, value in values.items() if key != "name"}
    fields = [field.name for field in dataclasses.fields(cls)]
    if unknown := [key for key in given if key not in fields]:
        choices = ", ".join(fields) or "none"
        raise ConfigError(
            "\n".join(f"{section}.{key}: unknown key; {name} takes: {choices}{nearest(key, fields)}" for key in unknown)
        )
    try:
        component: Component = TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        raise ConfigError(describe(error, section)) from None
    for key, value in given.items():  # pydantic takes true for 1, and infinity for a number
        taken = getattr(component, key)
        if (isinstance(value, bool) and isinstance(taken, int | float) and not isinstance(taken, bool)) or (
            isinstance(taken, float) and not math.isfinite(taken)
        ):
            raise ConfigError(f"{section}.{key}: expected a finite number (got {value!r})")
    return component


def _import(section: str, name: str, known: Mapping[str, Any]) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(unknown_name(section, name, known))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the latter two: no module's name at all
        raise ConfigError(f"{section}.name: cannot import {name!r}: {error}") from error
