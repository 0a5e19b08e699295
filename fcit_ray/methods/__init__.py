"""The continual methods by name. A new one costs its file and a line here (or none here: name it `module:Class`)."""

from collections.abc import Mapping
from typing import Any

from fcit_ray.methods.base import Method
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.lwf import Lwf
from fcit_ray.registry import build

METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "ewc": Ewc,
    "lwf": Lwf,
    "disco": Disco,
}


def make_method(values: Mapping[str, Any]) -> Method:
    """The method of a configuration's `method` section; `ConfigError` says which key is wrong."""
    return build("method", Method, METHODS, values)
