"""Where a round's updates wait: outside the driver's heap, until everybody has sent theirs.

What a worker sends lies in shared memory, where the driver looks at it without a copy. A little of it may stay there;
what would fill the memory goes into one file of the round, which has no name and vanishes with whoever holds it open.
"""

import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from fcit_ray.params import tree_bytes
from fcit_ray.storage.trees import Place, StoredTree, lay_out, raw
from fcit_ray.types import Tree

STAYS: Final = 512 * 2**20
"""Bytes that may wait where they came."""


class WaitingRoom:
    """Trees that wait; one with nothing large in it stays as it is.

    Args:
        folder: on the disk that takes what does not stay.
        stays: bytes that stay where they are.
    """

    def __init__(self, folder: Path, stays: int = STAYS):
        self._folder = folder
        self._stays = stays
        self._lock = threading.Lock()
        self._file: Any = None
        self._end = 0
        self._free: dict[int, list[int]] = {}  # bytes of a place -> where such places are
        self._taken: dict[int, tuple[int, int | None]] = {}  # id of a tree -> its bytes, its place in the file
        self._layouts: dict[Any, Mapping[str, Any]] = {}  # updates of one shape have one

    def __enter__(self) -> "WaitingRoom":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self._end

    def keep(self, tree: Tree, holds: int = 0) -> Tree:
        """The same values, as they will be found until the end of the round or `drop`.

        Args:
            tree: what waits.
            holds: bytes that cannot be freed as long as the tree stays where it is, if they are more than its own.

        Raises:
            OSError: the disk is full, or the like.
        """
        size = tree_bytes(tree)
        if not size:
            return tree
        with self._lock:
            if (holds := max(holds, size)) <= self._stays:
                self._stays -= holds
                self._taken[id(tree)] = (holds, None)
                return tree
        nodes, tensors, size = lay_out(tree)
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed at the end of the round)
            if left := self._free.get(size):
                start = left.pop()
            else:
                start, self._end = self._end, self._end + size
            nodes = self._layouts.setdefault(_shape(nodes), nodes)
        file = self._file.fileno()
        place = start
        for tensor in tensors:
            content = raw(tensor)
            while content:
                written = os.pwrite(file, content, place)
                content, place = content[written:], place + written

        stored = StoredTree(nodes, lambda at, count: _read(file, start + at, count))
        with self._lock:
            self._taken[id(stored)] = (size, start)
        return stored

    def drop(self, tree: Tree) -> None:
        """What was kept is wanted no more; its place is another's."""
        with self._lock:
            size, start = self._taken.pop(id(tree), (0, None))
            if start is None:
                self._stays += size
            else:
                self._free.setdefault(size, []).append(start)


def _read(file: int, start: int, count: int) -> bytearray:
    content = bytearray(count)
    view = memoryview(content)
    while view:
        found = os.preadv(file, [view], start)
        if not found:
            raise OSError("the file of a round's updates ends before they do")
        view, start = view[found:], start + found
    return content


def _shape(nodes: Any) -> Any:
    """What two layouts have in common that are the same."""
    if isinstance(nodes, Mapping):
        return tuple((key, _shape(value)) for key, value in nodes.items())
    if isinstance(nodes, list | tuple):
        return type(nodes), tuple(map(_shape, nodes))
    return nodes if isinstance(nodes, Place) else (type(nodes), repr(nodes))
