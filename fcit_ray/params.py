"""Arithmetic on parameter mappings; sums run in the order given, in float32, so that their bits are repeatable."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fcit_ray.types import Params, Tree


def add(left: Params, right: Params) -> dict[str, torch.Tensor]:
    """`left + right`; names that `right` lacks keep their value. An unknown name in `right` is our own mistake."""
    assert right.keys() <= left.keys(), f"names unknown to the state: {sorted(right.keys() - left.keys())[:3]}"
    return {name: value + right[name] if name in right else value for name, value in left.items()}


def weighted_mean(items: Sequence[Params], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """Average each name over the items that have it, with the weights of those items (FedAvg, McMahan et al. 2017).

    A name sent by nobody is absent from the result. Weights are not assumed to sum to one. An item of weight zero
    counts for nothing, unless all who sent a name weigh nothing: then the name is absent too.
    """
    assert len(items) == len(weights), "one weight an item"
    assert all(weight >= 0 for weight in weights), f"weights are counts of samples, got {list(weights)}"
    names = dict.fromkeys(name for item in items for name in item)
    mean: dict[str, torch.Tensor] = {}
    for name in names:
        # Zero times infinity would be no number, so an item of weight zero is left out rather than multiplied.
        senders = [(item[name], weight) for item, weight in zip(items, weights, strict=True) if name in item and weight]
        if not senders:
            continue
        total = sum(weight for _, weight in senders)
        accumulated = torch.zeros_like(senders[0][0], dtype=torch.float32)
        for value, weight in senders:
            accumulated.add_(value, alpha=weight / total)
        mean[name] = accumulated
    return mean


def norm(params: Params) -> float:
    """Euclidean norm over all entries, 0.0 for an empty mapping."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in params.values()))


def clip_to_norm(params: Params, max_norm: float) -> Params:
    """The mapping as it is if its norm is at most `max_norm`, else scaled down so that it is, after rounding too.

    A mapping with an entry that is not finite has no direction to keep: it becomes zero.
    """
    length = norm(params)
    if length <= max_norm:
        return params
    if not math.isfinite(length):
        return {name: torch.zeros_like(value) for name, value in params.items()}
    # The factor and each product are rounded to float32, by at most 2^-24 of themselves each.
    scale = max_norm / length * (1 - 2**-22)
    return {name: value * scale for name, value in params.items()}


def num_bytes(params: Params) -> int:
    """Bytes on the wire."""
    return sum(value.numel() * value.element_size() for value in params.values())


def tree_bytes(*trees: Tree) -> int:
    """Bytes of all tensors in nested mappings and lists; what else they hold is too small to count."""

    def size(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, Mapping):
            return sum(map(size, value.values()))
        return sum(map(size, value)) if isinstance(value, list | tuple) else 0

    return sum(map(size, trees))


def params_sha256(params: Params) -> str:
    """Hexadecimal digest of names, dtypes, shapes and bytes: equal exactly when two runs learned the same bits.

    Names are taken in sorted order, so the order of the mapping does not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(params):
        value = params[name].detach().cpu().contiguous()
        # repr() quotes the name, so that no name can pass for another name with its dtype and shape.
        digest.update(f"{name!r} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
