"""Prepared records that the trials of a sweep have in common: made once, kept while there is room.

Trials of one seed and partition want the same blocks: pictures decoded, texts tokenised, identity features computed.
They would each make them anew, and lose them with their driver; here they belong to an actor of the sweep's.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.runtime.blocks import Part, Prepare, prepare_blocks, quiet


class Pantry:
    """Blocks by what they were made of; those not wanted for longest go first.

    Args:
        budget: bytes to keep. What a driver holds stays in the object store, whether it is kept here or not.
        prepare: makes blocks.
        size: bytes of a block.
    """

    def __init__(self, budget: int, prepare: Prepare = prepare_blocks, size: Callable[[Any], int] | None = None):
        quiet()
        self._budget = budget
        self._size = size or _size
        self._prepare = prepare
        self._lock = threading.Lock()  # of two that want the same the second finds it made
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._made = self._found = 0

    def blocks(self, pieces: Sequence[Sequence[str]], encoder: SampleEncoder, part: Part) -> list[Any]:
        """As `prepare_blocks`; only what is not here is made."""
        keys = [_key(piece, encoder, part) for piece in pieces]
        with self._lock:
            missing = {key: piece for key, piece in zip(keys, pieces, strict=True) if key not in self._kept}
            made = dict(zip(missing, self._prepare([*missing.values()], encoder, part) if missing else [], strict=True))
            self._made += len(made)
            self._found += len(keys) - len(made)
            blocks = [made[key] if key in made else self._kept[key][0] for key in keys]
            for key, block in zip(keys, blocks, strict=True):
                self._kept[key] = (block, self._kept[key][1] if key in self._kept else self._size(block))
                self._kept.move_to_end(key)
            while sum(size for _, size in self._kept.values()) > self._budget:
                self._kept.popitem(last=False)
            return blocks

    def counts(self) -> tuple[int, int]:
        """Blocks made, and blocks that were there already."""
        return self._made, self._found


@dataclass(frozen=True)
class FromPantry:
    """What a driver prepares by, where the sweep has a pantry.

    Attributes:
        pantry: handle of the actor.
    """

    pantry: Any

    def __call__(self, pieces: Sequence[Sequence[str]], encoder: SampleEncoder, part: Part) -> list[Any]:
        return list(ray.get(self.pantry.blocks.remote(pieces, encoder, part)))


def _key(piece: Sequence[str], encoder: SampleEncoder, part: Part) -> str:
    digest = hashlib.sha256(repr((encoder, part)).encode())
    for text in piece:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def _size(block: Any) -> int:
    """Bytes of a block in the object store."""
    return int(ray.experimental.get_object_locations([block])[block].get("object_size") or 0)
