"""LoRA rules by name."""

from collections.abc import Mapping
from typing import Any

from fcit_ray.config.component import build
from fcit_ray.federated.lora.base import FactorAverage, LoraRule
from fcit_ray.federated.lora.fedex import FedEx
from fcit_ray.federated.lora.fedsa import FedSA
from fcit_ray.federated.lora.ffa import FFA
from fcit_ray.federated.lora.flora import FLoRA
from fcit_ray.federated.lora.hlora import HLoRA
from fcit_ray.federated.lora.zero_pad import ZeroPad

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
