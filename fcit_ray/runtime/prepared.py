"""A shard on its way to a worker: the pieces that are made of it, or will be, in the object store."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from fcit_ray.data.loading.samples import Sample
from fcit_ray.runtime.blocks import Block, from_table, raise_failure
from fcit_ray.runtime.forecast import Job, Piece, pieces_of

WAIT_S = 30.0
"""For a piece, before it is asked for anew."""

Ask = Callable[[Sequence[Piece]], list[Block]]
"""Waits for pieces; travels to the workers."""


@dataclass(frozen=True)
class AskDriver:
    """How workers ask for pieces.

    Attributes:
        driver: handle of the actor whose `blocks` is `RayShards.blocks`.
    """

    driver: Any

    def __call__(self, pieces: Sequence[Piece]) -> list[Block]:
        while (blocks := ray.get(self.driver.blocks.remote(pieces, WAIT_S))) is None:
            pass
        return list(blocks)


class PreparedShard:
    """A shard whose pieces are made, or will be; `read` waits for those that are not there.

    Args:
        pieces: of all its records in their order; none of a shard that is streamed, whose pieces are in the order read.
        size: records.
        ask: waits for pieces.
        blocks: of the pieces, if they were all there when it was handed out.
        stream: whose shard it is, if it is streamed.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        size: int,
        ask: Ask,
        blocks: Sequence[Block] | None = None,
        stream: Job | None = None,
    ):
        self._pieces = pieces
        self._size = size
        self._ask = ask
        self._blocks = blocks
        self._stream = stream
        self._tables: list[pa.Table] = []

    def __len__(self) -> int:
        return self._size

    @property
    def at_hand(self) -> bool:
        """Whether all of it is there."""
        return self._blocks is not None

    @property
    def is_streamed(self) -> bool:
        """Whether it is prepared anew each time that it is read."""
        return self._stream is not None

    def read(self, order: np.ndarray) -> Iterable[Sample]:
        """The samples at these positions, in this order.

        Raises:
            DataError, ModelError, RunFailed: what stopped their making.
        """
        if self._stream is None:
            yield from self._read_kept(order)
            return
        job = self._stream
        for piece in pieces_of("train", job.task, order.tolist(), job.piece_size, job.client):
            [block] = self._ask([piece])
            yield from samples_of(block)

    def _read_kept(self, order: np.ndarray) -> Iterable[Sample]:
        if self._blocks is None:
            self._blocks = self._ask(self._pieces)
        if not self._tables:
            self._tables = list(ray.get([block.ref for block in self._blocks]))
            for table in self._tables:
                raise_failure(table)
        where = [(number, row) for number, piece in enumerate(self._pieces) for row in range(len(piece.rows))]
        for index in order:
            number, row = where[index]
            yield from from_table(self._tables[number], [row])


def samples_of(block: Block) -> list[Sample]:
    """The samples of a piece; their arrays are read-only views of the object store.

    Raises:
        DataError, ModelError, RunFailed: what stopped their making.
    """
    return list(from_table(ray.get(block.ref), block.rows))
