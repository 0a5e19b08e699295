"""The parts of an algorithm by axis and name, and from a configuration's section to the part that it names.

A part is a frozen dataclass of hyper-parameters. Its file is imported when the part is asked for: to know the names,
and what a misspelled one was meant for, takes no torch. A new part costs its file and a line here, or none here: name
it `module:Class`.
"""

import dataclasses
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fcit_ray.config.mistakes import describe, nearest, unknown_name
from fcit_ray.errors import ConfigError

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config

Component = TypeVar("Component")


@dataclass(frozen=True)
class Axis:
    """One choice that every algorithm makes; places are `module:Class`, modules below `fcit_ray`.

    Attributes:
        what: the choice, in words.
        base: what every part of this axis derives from.
        parts: where the built-in parts are, by name.
    """

    what: str
    base: str
    parts: Mapping[str, str]


AXES: dict[str, Axis] = {
    "method": Axis(
        "continual method",
        "federated.method:Method",
        {
            "finetune": "methods.finetune:Finetune",
            "lwf": "methods.lwf:Lwf",
            "ewc": "methods.ewc:Ewc",
            "l2p": "methods.l2p:L2P",
            "olora": "methods.olora:OLora",
            "merged_loras": "methods.merged_loras:MergedLoras",
            "moelora": "methods.moelora:MoELoRA",
            "modal_prompt": "methods.modal_prompt:ModalPrompt",
            "hide": "methods.hide:Hide",
            "disco": "methods.disco:Disco",
        },
    ),
    "local": Axis(
        "local rule",
        "federated.local_optim:LocalRule",
        {
            "plain": "federated.local_optim:Plain",
            "fedprox": "federated.local_optim:FedProx",
            "scaffold": "federated.local_optim:Scaffold",
        },
    ),
    "server": Axis(
        "server optimiser",
        "federated.server_optim:ServerOptimizer",
        {
            "fedavg": "federated.server_optim:FedAvg",
            "fedavgm": "federated.server_optim:FedAvgM",
            "fedadagrad": "federated.server_optim:FedAdagrad",
            "fedyogi": "federated.server_optim:FedYogi",
            "fedadam": "federated.server_optim:FedAdam",
        },
    ),
    "lora": Axis(
        "LoRA rule",
        "federated.lora.base:LoraRule",
        {
            "factors": "federated.lora.base:FactorAverage",
            "fedex": "federated.lora.fedex:FedEx",
            "flora": "federated.lora.flora:FLoRA",
            "ffa": "federated.lora.ffa:FFA",
            "fedsa": "federated.lora.fedsa:FedSA",
            "zero_pad": "federated.lora.zero_pad:ZeroPad",
            "hlora": "federated.lora.hlora:HLoRA",
        },
    ),
    "robust": Axis(
        "rule over clients",
        "federated.robust:Rule",
        {
            "mean": "federated.robust:Mean",
            "median": "federated.robust:Median",
            "trimmed_mean": "federated.robust:TrimmedMean",
            "krum": "federated.robust:Krum",
            "multi_krum": "federated.robust:MultiKrum",
            "clipped_mean": "federated.robust:ClippedMean",
        },
    ),
    "privacy": Axis(
        "privacy rule",
        "federated.privacy:Privacy",
        {
            "none": "federated.privacy:NoPrivacy",
            "token_noise": "federated.privacy:TokenNoise",
            "dp_fedavg": "federated.privacy:DpFedAvg",
        },
    ),
}
"""The six axes, by the section of a configuration that chooses on them."""


def part_class(axis: str, name: str) -> Any:
    """The class of a built-in part, imported now.

    Raises:
        KeyError: no such axis or name.
    """
    return _class(AXES[axis].parts[name])


def check_names(config: "Config") -> None:
    """Refuse a built-in name that there is not, before anything is imported for it.

    Raises:
        ConfigError: one line per such name.
    """
    lines = []
    for section, axis in AXES.items():
        name = getattr(config, section).get("name")
        if isinstance(name, str) and ":" not in name and name not in axis.parts:
            lines.append(unknown_name(section, name, axis.parts))
    if lines:
        raise ConfigError("\n".join(lines))


def make(axis: str, values: Mapping[str, Any]) -> Any:
    """Make the part that `values["name"]` names, with the other keys as its hyper-parameters.

    Args:
        axis: the section of the configuration, a key of `AXES`.
        values: the section; `name` is a built-in name or `package.module:Class`.

    Raises:
        ConfigError: no or unknown name, unknown hyper-parameter, or a value that does not fit its type.
    """
    known, name = AXES[axis].parts, values.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{axis}.name: missing; one of {', '.join(known)}, or module:Class of your own")
    base = _class(AXES[axis].base)
    cls: Any = part_class(axis, name) if name in known else _import(axis, name, known)
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{axis}.name: {name!r} is not a dataclass derived from {base.__module__}.{base.__name__}")
    return build(axis, cls, values)


def build(section: str, cls: type[Component], values: Mapping[str, Any]) -> Component:
    """A frozen dataclass from the keys of a section; `name` is how the section calls it.

    Raises:
        ConfigError: unknown hyper-parameter, or a value that does not fit its type.
    """
    from pydantic import TypeAdapter, ValidationError

    given = {key: value for key, value in values.items() if key != "name"}
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if unknown := [key for key in given if key not in fields]:
        choices = ", ".join(fields) or "none"
        raise ConfigError(
            "\n".join(
                f"{section}.{key}: unknown key; {values['name']} takes: {choices}{nearest(key, fields)}"
                for key in unknown
            )
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


def _class(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"fcit_ray.{module}"), attribute)


def _import(section: str, name: str, known: Mapping[str, Any]) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(unknown_name(section, name, known))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the latter two: no module's name at all
        raise ConfigError(f"{section}.name: cannot import {name!r}: {error}") from error
