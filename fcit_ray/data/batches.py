"""The order in which a client sees its records: a function of its seed alone, not of where it trains."""

import numpy as np

from fcit_ray.seeds import derive_seed


def epoch_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..num_records-1, another one in every epoch."""
    return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(num_records)


def num_steps(num_records: int, batch_size: int, epochs: int) -> int:
    """Batches of a client's local training, the last of each epoch possibly short; the schedule is laid over them."""
    return epochs * -(-num_records // batch_size)
