"""Arithmetic on parameter mappings; sums run in the order given, in float32, so that their bits are repeatable.

Items of a round may wait outside of the memory. So what goes through many of them holds the values of one at a time,
and makes what it derives from them when it is asked for (`Lazy`).
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from fcit_ray.types import Params, Tree


def add(left: Params, right: Params) -> dict[str, torch.Tensor]:
    """`left + right`; names that `right` lacks keep their value. An unknown name in `right` is our own mistake."""
    assert right.keys() <= left.keys(), f"names unknown to the state: {sorted(right.keys() - left.keys())[:3]}"
    return {name: value + right[name] if name in right else value for name, value in left.items()}


class Lazy(Mapping[str, torch.Tensor]):
    """Values that are made when they are asked for, and not kept; pickled, it is a plain mapping.

    Args:
        names: of the values, in their order.
        value: makes one.
    """

    def __init__(self, names: Collection[str], value: Callable[[str], torch.Tensor]):
        self._names = names if isinstance(names, Mapping) else dict.fromkeys(names)
        self._value = value

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._value(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class RunningMean:
    """`weighted_mean` of items that come one after another: the same bits when all have been added in their order.

    Where an item is left out in the end, what was added is scaled up: the mean of those that came, but for rounding.

    Args:
        senders: by name the sum of the weights of those who will send it, as `weights_by_name` gives it.
    """

    def __init__(self, senders: Mapping[str, float]):
        self._senders = senders
        self._sums: dict[str, torch.Tensor] = {}
        self._came: dict[str, float] = {}

    def add(self, item: Params, weight: float) -> None:
        """The next item. One of weight zero counts for nothing."""
        if not weight:  # zero times infinity would be no number
            return
        for name, value in item.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(value, dtype=torch.float32)
            self._sums[name].add_(value, alpha=weight / self._senders[name])
            self._came[name] = self._came.get(name, 0) + weight

    def mean(self) -> dict[str, torch.Tensor]:
        """What has become of it, in the order in which the names came; called once, at the end."""
        for name, came in self._came.items():
            if came != self._senders[name]:
                self._sums[name].mul_(self._senders[name] / came)
        self._came = {}
        return self._sums


def weights_by_name(items: Sequence[Collection[str]], weights: Sequence[float]) -> dict[str, float]:
    """By each name the sum of the weights of those items that have it, in the order of the first to have it."""
    assert len(items) == len(weights), "one weight an item"
    assert all(weight >= 0 for weight in weights), f"weights are counts of samples, got {list(weights)}"
    sums: dict[str, float] = {}
    for item, weight in zip(items, weights, strict=True):
        for name in item:
            sums[name] = sums.get(name, 0) + weight
    return sums


def weighted_mean(items: Sequence[Params], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """Average each name over the items that have it, with the weights of those items (FedAvg, McMahan et al. 2017).

    A name sent by nobody is absent from the result. Weights are not assumed to sum to one. An item of weight zero
    counts for nothing, unless all who sent a name weigh nothing: then the name is absent too.
    """
    senders = weights_by_name(items, weights)
    running = RunningMean(senders)
    for item, weight in zip(items, weights, strict=True):
        running.add(item, weight)
    mean = running.mean()
    return {name: mean[name] for name in senders if name in mean}


def part(item: Params, name: str, start: int, stop: int) -> torch.Tensor:
    """Entries `start` to `stop` (excluded) of a value as it lies flat; no others of one in a file are read."""
    read = getattr(item, "part", None)
    found: torch.Tensor = read(name, start, stop) if read else item[name].reshape(-1)[start:stop]
    return found


def norm(params: Params) -> float:
    """Euclidean norm over all entries, 0.0 for an empty mapping."""
    return math.sqrt(sum(map(_square, params.values())))


def _square(value: torch.Tensor) -> float:
    wide = value.double()
    return float((wide.square() if wide is value else wide.square_()).sum())


def clip_to_norm(params: Params, max_norm: float) -> Params:
    """The mapping as it is if its norm is at most `max_norm`, else scaled down so that it is, after rounding too.

    A mapping with an entry that is not finite has no direction to keep: it becomes zero.
    """
    length = norm(params)
    if length <= max_norm:
        return params
    if not math.isfinite(length):
        return Lazy(params, lambda name: torch.zeros_like(params[name]))
    # The factor and each product are rounded to float32, by at most 2^-24 of themselves each.
    scale = max_norm / length * (1 - 2**-22)
    return Lazy(params, lambda name: params[name] * scale)


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
