"""What methods with one adapter per stage have in common: who trains what, and what a merge of adapters is.

A stage of a heterogeneous schedule mixes tasks; the adapters are the stages', not the tasks'.

Legend: K adapters, r rank of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcit_ray.federated.method import Method
from fcit_ray.federated.traits import Trait
from fcit_ray.models.names import adapter_index, adapter_name, layer_of, lora_factor
from fcit_ray.types import Assignment, Client, Params, Setting, Tree


@dataclass(frozen=True, kw_only=True)
class AdapterPerStage(Method):
    """Stage s trains adapter s, alone; what becomes of the earlier ones is the method's own."""

    def num_adapters(self, setting: Setting) -> int:
        """One per stage; the total rank must be a multiple of it (the bank says so)."""
        return max(1, setting.num_stages)

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        return [Assignment(train=(stage,)) for _ in clients]


@dataclass(frozen=True, kw_only=True)
class MergedPerStage(AdapterPerStage):
    """Of these, the ones that answer with adapters that never met in training."""

    declares = frozenset({Trait.MERGES_ADAPTERS})


def merge_factors(
    params: Params, count: int, weight: float, merges: Callable[[str], bool] = lambda layer: True
) -> dict[str, Tensor]:
    """Put `weight` times the sum of the first `count` adapters' factors into adapter 0, and zeros into the others.

    A product of two sums has cross terms: (B_0 + B_1)(A_0 + A_1) holds B_0 A_1 and B_1 A_0 too.

    Args:
        params: global values of all adapters; what is no LoRA factor stays.
        count: adapters that have been trained (the A of the others is noise that meets a B of zero), at least 1.
        weight: of each factor.
        merges: by the module path of a layer, whether it is merged; the others keep their adapters.

    Returns:
        All of `params`, new tensors where something changed; sums in float32, in the order of the adapters.
    """
    merged = dict(params)
    for name, value in params.items():
        if lora_factor(name) is None or not merges(layer_of(name)):
            continue
        if adapter_index(name) != 0:
            merged[name] = torch.zeros_like(value)
            continue
        total = value.clone()
        for k in range(1, count):
            total += params[of_adapter(name, k)]
        merged[name] = total * weight
    return merged


def of_adapter(name: str, index: int) -> str:
    """The same parameter of another adapter."""
    own = adapter_index(name)
    assert own is not None, f"{name} belongs to no adapter"
    return name.replace(f".{adapter_name(own)}.", f".{adapter_name(index)}.")
