"""LoRA rules by name."""

from collections.abc import Mapping
from typing import Any

from fcit_ray.lora.base import FactorAverage, LoraRule
from fcit_ray.lora.fedex import FedEx
from fcit_ray.lora.fedsa import FedSA
from fcit_ray.lora.ffa import FFA
from fcit_ray.lora.flora import FLoRA
from fcit_ray.lora.hlora import HLoRA
from fcit_ray.lora.zero_pad import ZeroPad
from fcit_ray.registry import build

LORA_RULES: dict[str, type[LoraRule]] = {
    "factors": FactorAverage,
    "fedex": FedEx,
    "flora": FLoRA,
    "ffa": FFA,
    "fedsa": FedSA,
    "zero_pad": ZeroPad,
    "hlora": HLoRA,
}


def make_lora_rule(values: Mapping[str, Any]) -> LoraRule:
    """The rule of a configuration's `lora` section; `ConfigError` says which key is wrong."""
    return build("lora", LoraRule, LORA_RULES, values)
