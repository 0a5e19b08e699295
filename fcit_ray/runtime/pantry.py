"""Prepared records that the trials of a sweep have in common: made once, kept while there is room.

Trials of one seed and partition want the same blocks: pictures decoded, texts tokenised, identity features computed.
They would each make them anew, and lose them with their driver; here they belong to an actor of the sweep's.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fcit_ray.importing import swift_imports

with swift_imports():  # the actor begins with it
    import ray

    from fcit_ray.data.loading.samples import SampleEncoder
    from fcit_ray.runtime.blocks import Block, Prepare, Wanted, prepare_blocks, quiet

_AT_A_TIME = 1000
"""Records asked for in one call: what is needed first is not kept back by what is needed last."""


class Pantry:
    """Blocks by what they were made of; those not wanted for longest go first.

    Args:
        budget: bytes to keep. What a driver holds stays in the object store, whether it is kept here or not.
        prepare: makes blocks.
        size: bytes of a block, by its reference.
    """

    def __init__(self, budget: int, prepare: Prepare = prepare_blocks, size: Callable[[Any], int] | None = None):
        quiet()
        self._budget = budget
        self._size = size or _size
        self._prepare = prepare
        self._lock = threading.Lock()  # of two that want the same the second finds it made
        self._kept: OrderedDict[str, tuple[Block, int]] = OrderedDict()
        self._made = self._found = 0

    def blocks(self, pieces: Sequence[Wanted], encoder: SampleEncoder, gently: bool = False) -> list[Block]:
        """As `prepare_blocks`; only what is not here is made. What failed is not kept: it may be mended."""
        keys = [_key(piece, encoder) for piece in pieces]
        with self._lock:
            missing = {key: piece for key, piece in zip(keys, pieces, strict=True) if key not in self._kept}
            wanted = [*missing.values()]
            made = dict(zip(missing, self._prepare(wanted, encoder, gently) if wanted else [], strict=True))
            self._made += len(made)
            self._found += len(keys) - len(made)
            blocks = [made[key] if key in made else self._kept[key][0] for key in keys]
            for key, block in zip(keys, blocks, strict=True):
                if block.failed:
                    continue
                self._kept[key] = (block, self._kept[key][1] if key in self._kept else self._size(block.ref))
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

    def __call__(self, pieces: Sequence[Wanted], encoder: SampleEncoder, gently: bool = False, /) -> Iterator[Block]:
        for passing, some in groupby(pieces, lambda piece: piece.passing):
            if passing:  # no other trial will want it
                yield from prepare_blocks(list(some), encoder, gently)
                continue
            for portion in _in_portions(list(some)):
                yield from ray.get(self.pantry.blocks.remote(portion, encoder, gently))


def _in_portions(pieces: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    portion: list[Wanted] = []
    for piece in pieces:
        if portion and sum(len(other.records) for other in portion) + len(piece.records) > _AT_A_TIME:
            yield portion
            portion = []
        portion.append(piece)
    if portion:
        yield portion


def _key(piece: Wanted, encoder: SampleEncoder) -> str:
    digest = hashlib.sha256(repr((encoder, piece.part)).encode())
    for text in piece.records:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def _size(block: Any) -> int:
    """Bytes of a block in the object store."""
    return int(ray.experimental.get_object_locations([block])[block].get("object_size") or 0)
