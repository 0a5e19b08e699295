"""Nested mappings of tensors as bytes, one after another, and read back a tensor at a time.

What is laid out is told apart from where its bytes lie, so that many trees of one shape have one layout.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Read = Callable[[int, int], bytearray]
"""Called with a position and a number of bytes."""


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie.

    Attributes:
        dtype: of the tensor.
        shape: of the tensor.
        start: position of its first byte.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class StoredTree(Mapping[str, Any]):
    """A tree whose tensors are read when they are asked for, and not kept; pickled, it is a plain one.

    Args:
        nodes: as the tree, but with a `Place` instead of each tensor.
        read: brings the bytes.
    """

    def __init__(self, nodes: Mapping[str, Any], read: Read):
        self._nodes = nodes
        self._read = read

    def __getitem__(self, key: str) -> Any:
        return self._value(self._nodes[key])

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (plain(self),)

    def part(self, key: str, start: int, stop: int) -> Tensor:
        """Entries `start` to `stop` (excluded) of a tensor as it lies flat; no others are read."""
        place = self._nodes[key]
        size = place.dtype.itemsize
        return _tensor(self._read(place.start + start * size, (stop - start) * size), place.dtype, (stop - start,))

    def _value(self, node: Any) -> Any:
        if isinstance(node, Place):
            return _tensor(self._read(node.start, node.num_bytes), node.dtype, node.shape)
        if isinstance(node, Mapping):
            return StoredTree(node, self._read)
        if isinstance(node, list | tuple):
            return type(node)(self._value(item) for item in node)
        return node


def lay_out(tree: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Tensor], int]:
    """The nodes of a tree, its tensors in the order of their bytes (contiguous, on the CPU), and their bytes in all."""
    tensors: list[Tensor] = []
    size = 0

    def nodes(value: Any) -> Any:
        nonlocal size
        if isinstance(value, Tensor):
            dense = value.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
            place = Place(dense.dtype, tuple(dense.shape), size)
            tensors.append(dense)
            size += place.num_bytes
            return place
        if isinstance(value, Mapping):
            return {key: nodes(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(nodes(item) for item in value)
        return value

    return nodes(tree), tensors, size


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    content: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return content


def plain(tree: Any) -> Any:
    """The same values with all that is stored read into memory: mappings become dictionaries."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return tree


def _tensor(content: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=torch.uint8).view(dtype).reshape(shape)
