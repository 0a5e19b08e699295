"""The order in which a client sees its records: a function of its seed alone, not of where it trains."""

from collections.abc import Iterator, Sequence

import numpy as np

from fcit_ray.data.samples import Sample
from fcit_ray.seeds import derive_seed


def epoch_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..num_records-1, another one in every epoch."""
    return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(num_records)


def num_steps(num_records: int, batch_size: int, epochs: int) -> int:
    """Batches that `batches` yields; the learning-rate schedule is laid over them."""
    return epochs * -(-num_records // batch_size)


def batches(samples: Sequence[Sample], batch_size: int, seed: int, epochs: int) -> Iterator[list[Sample]]:
    """Go through the samples `epochs` times, shuffled; the last batch of an epoch may be short."""
    for epoch in range(epochs):
        order = epoch_order(len(samples), seed, epoch)
        for start in range(0, len(order), batch_size):
            yield [samples[index] for index in order[start : start + batch_size]]
