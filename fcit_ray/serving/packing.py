"""The bank's adapters as the tensors of one PEFT adapter, and back, bit for bit.

Legend: K adapters, r rank of each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fcit_ray.models.names import adapter_name
from fcit_ray.types import Params

PREFIX: Final = "base_model.model."
"""In front of a module's path in PEFT's files."""

Weights = Callable[[str], Sequence[float] | None]
"""Of every adapter in a layer, by the layer's module path, (K,); None is one for each."""


def all_one(layer: str) -> None:
    """Every adapter counts fully in every layer."""
    return None


def pack(params: Params, layers: Iterable[str], num_adapters: int, weights: Weights = all_one) -> dict[str, Tensor]:
    """A (K*r, in) and B (out, K*r) of every layer under PEFT's names for a single adapter.

    Args:
        params: the bank's values that answer.
        layers: module paths of the adapted layers.
        num_adapters: K.
        weights: multiplied into the columns of B.
    """
    packed = {}
    for layer in layers:
        a = [params[factor(layer, "A", k)] for k in range(num_adapters)]
        b = [params[factor(layer, "B", k)] for k in range(num_adapters)]
        folded = weights(layer)
        if folded is not None:
            b = [value * weight for value, weight in zip(b, folded, strict=True)]
        packed[f"{PREFIX}{layer}.lora_A.weight"] = torch.cat(a)
        packed[f"{PREFIX}{layer}.lora_B.weight"] = torch.cat(b, dim=1)
    return packed


def unpack(packed: Mapping[str, Tensor], layers: Iterable[str], num_adapters: int) -> dict[str, Tensor]:
    """The bank's values of an adapter that was packed with all weights one."""
    params = {}
    for layer in layers:
        a = packed[f"{PREFIX}{layer}.lora_A.weight"].chunk(num_adapters)
        b = packed[f"{PREFIX}{layer}.lora_B.weight"].chunk(num_adapters, dim=1)
        for k in range(num_adapters):
            params[factor(layer, "A", k)] = a[k].clone()
            params[factor(layer, "B", k)] = b[k].clone(memory_format=torch.contiguous_format)
    return params


def factor(layer: str, which: str, index: int) -> str:
    """The bank's name of one factor of one adapter."""
    return f"{layer}.lora_{which}.{adapter_name(index)}.weight"
