"""Tensors by the hash of their file: what several checkpoints have in common is written once and referred to.

An object is never changed. It is written whole or not at all, before anything refers to it, and goes when nothing that
is kept does: a kill at any moment leaves at worst objects that nobody needs, which the next collection takes.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from fcit_ray.errors import CheckpointError
from fcit_ray.results.encoding import decode, encode
from fcit_ray.storage import durable
from fcit_ray.storage.files import file_sha256
from fcit_ray.storage.safe_tensors import pieces, places
from fcit_ray.storage.trees import StoredTree, plain

FOLDER: Final = "objects"
_TREE: Final = "tree"
_NAME: Final = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class Written:
    """A file of tensors.

    Attributes:
        name: in its folder.
        bytes: its size.
        sha256: of its bytes.
    """

    name: str
    bytes: int
    sha256: str


class StoredObject(Mapping[str, Any]):
    """A tree that is an object; nothing of it is kept in memory, and it is checked as a whole before it is first read.

    Args:
        path: of the object.
        written: what it must be.
    """

    def __init__(self, path: Path, written: Written):
        self.path, self.written = path, written
        self._checked = False

    def __getitem__(self, key: str) -> Any:
        return self._tree()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._tree()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree())

    def __len__(self) -> int:
        return len(self._tree())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (plain(self),)

    def _tree(self) -> StoredTree:
        if not self._checked:
            check(self.path, self.written)
            self._checked = True
        where, metadata = places(self.path)
        return StoredTree(decode(json.loads(metadata[_TREE]), where), self._bytes)

    def _bytes(self, start: int, count: int) -> bytearray:
        content = bytearray(count)
        with self.path.open("rb") as file:
            file.seek(start)
            file.readinto(content)
        return content


@dataclass(frozen=True)
class Objects:
    """The objects in a folder.

    Attributes:
        folder: made when the first is put.
    """

    folder: Path

    def put_tree(self, tree: Mapping[str, Any], path: str) -> StoredObject:
        """As `put`, of a tree; `path` is where it lies in the state, for messages.

        Raises:
            OSError, UnicodeEncodeError: as `put`.
            CheckpointError: a leaf that is neither tensor nor JSON value.
        """
        if isinstance(tree, StoredObject) and tree.path.parent == self.folder:
            if not tree.path.is_file():
                check(tree.path, tree.written)
            return tree
        tensors: dict[str, Tensor] = {}
        document = encode(tree, path, tensors)
        written = self.put(tensors, {_TREE: json.dumps(document, allow_nan=False)})
        return StoredObject(self.folder / written.name, written)

    def put(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Written:
        """Write an object unless it is there; on return its bytes are on the disk, and its name after `sync`.

        Raises:
            OSError: the disk is full, or the like.
            UnicodeEncodeError: a name that is no Unicode.
        """
        digest, size = hashlib.sha256(), 0
        for piece in pieces(tensors, metadata):
            digest.update(piece)
            size += len(piece)
        sha256 = digest.hexdigest()
        path = self.folder / f"{sha256}.safetensors"
        if not path.is_file() or path.stat().st_size != size:
            self.folder.mkdir(exist_ok=True)
            temporary = durable.partial(path)
            write(tensors, temporary, metadata)
            os.replace(temporary, path)
        return Written(path.name, size, sha256)

    def sync(self) -> None:
        """Wait until the names of what was put are on the disk."""
        if self.folder.is_dir():
            durable.sync(self.folder)

    def collect(self, needed: Collection[str]) -> None:
        """Delete every object whose name is not among these, and what a kill left of one."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            name = path.name.removeprefix(".").removesuffix(durable.PARTIAL)
            if _NAME.fullmatch(name) and (path.name != name or name not in needed):
                path.unlink()


def write(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> Written:
    """Write a file of tensors; on return its bytes are on the disk.

    Raises:
        OSError: the disk is full, or the like.
        UnicodeEncodeError: a name that is no Unicode.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces(tensors, metadata):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return Written(path.name, size, digest.hexdigest())


def check(path: Path, expected: Written) -> None:
    """Read a file and refuse it if it is not what was written.

    Raises:
        CheckpointError: it is missing, cut or changed; names the file, what was expected and found, and what to do.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: missing, expected {expected.bytes} bytes with sha256 {expected.sha256}; "
            "copy it back or use another checkpoint"
        )
    size, digest = path.stat().st_size, file_sha256(path)
    if (size, digest) != (expected.bytes, expected.sha256):
        raise CheckpointError(
            f"{path}: damaged, expected sha256 {expected.sha256} ({expected.bytes} bytes), "
            f"found {digest} ({size} bytes); copy it again or use another checkpoint"
        )
