"""LoRA rules by name."""

from collections.abc import Mapping
from typing import Any

from fcit_ray.lora.base import FactorAverage, LoraRule
from fcit_ray.registry import build

LORA_RULES: dict[str, type[LoraRule]] = {"factors": FactorAverage}


def make_lora_rule(values: Mapping[str, Any]) -> LoraRule:
    """The rule of a configuration's `lora` section; `ConfigError` says which key is wrong."""
    return build("lora", LoraRule, LORA_RULES, values)
