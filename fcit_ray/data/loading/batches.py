"""A client's records in order, in batches and in steps: a function of its seed alone, not of where it trains."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from torch import Tensor

from fcit_ray.seeds import derive_seed


class Batches(Protocol):
    """What a client trains on: every batch of every epoch, collated. A call is a fresh pass over the same records."""

    def __call__(self, piece_size: int | None = None, /) -> Iterable[dict[str, Tensor]]:
        """In pieces of at most so many records, each padded to its own longest; None: in those that it trains on."""
        ...


def epoch_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..num_records-1, another one in every epoch."""
    return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(num_records)


def num_steps(num_records: int, batch_size: int, epochs: int) -> int:
    """Steps of a client's local training, the last of each epoch possibly short; the schedule is laid over them."""
    return epochs * -(-num_records // batch_size)


def step_sizes(num_records: int, batch_size: int, epochs: int) -> list[int]:
    """Records of each of those steps."""
    return epochs * [min(batch_size, num_records - start) for start in range(0, num_records, batch_size)]


def in_steps(
    batches: Iterable[dict[str, Tensor]], num_records: int, batch_size: int
) -> Iterator[list[dict[str, Tensor]]]:
    """The collated batches of every epoch, those that make one step together.

    Args:
        batches: each of at most `batch_size` records, and none of records of two steps.
        num_records: of an epoch, whose last step may be short.
        batch_size: records of a step.
    """
    step: list[dict[str, Tensor]] = []
    count, left = 0, num_records
    for batch in batches:
        step.append(batch)
        count += len(batch["input_ids"])
        left -= len(batch["input_ids"])
        if count >= batch_size or left <= 0:
            assert max(count - batch_size, -left) <= 0, "the batches do not fill the steps: shard and job disagree"
            yield step
            step, count, left = [], 0, left or num_records
    assert not step, "the batches end within a step: shard and job disagree"
