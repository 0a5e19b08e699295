"""Who holds how many records: the quantity-heterogeneous split of one dataset over the clients.

Legend: K clients, N records.
"""

import numpy as np


def dirichlet_split(num_records: int, num_clients: int, beta: float, min_samples: int, seed: int) -> list[np.ndarray]:
    """Split records over clients by Dirichlet(beta * 1_K) proportions of a seeded permutation.

    One draw, then repaired: clients below the minimum are raised to it and the rest is shared among the others in
    their drawn proportions, until none is below. A draw that already satisfies the minimum stays as it is. The usual
    alternative, drawing again until all clients have enough, does not end at the paper's sizes (K = 50, beta = 0.5),
    which is how the released code came to pass beta itself, i.e. less than one record, as the minimum.

    Args:
        num_records: N.
        num_clients: K.
        beta: concentration; towards 0 one client holds nearly everything, towards infinity all hold N / K.
        min_samples: records every client has at least.
        seed: of the proportions and the permutation.

    Returns:
        Sorted record indices of every client; together they are each of 0..N-1 once.

    Raises:
        ValueError: a value out of range, or too few records for the minimum.
    """
    if num_clients < 1:
        raise ValueError(f"benchmark.num_clients={num_clients}: expected at least 1")
    if not beta > 0:
        raise ValueError(f"benchmark.beta={beta}: expected a positive concentration")
    if isinstance(min_samples, bool) or not isinstance(min_samples, int | np.integer) or min_samples < 0:
        raise ValueError(f"benchmark.min_samples={min_samples!r}: expected a whole number of records")
    if num_records < num_clients * min_samples:
        raise ValueError(
            f"benchmark.min_samples={min_samples}: {num_clients} clients need {num_clients * min_samples} records, "
            f"the dataset has {num_records}; lower benchmark.min_samples or benchmark.num_clients"
        )
    rng = np.random.default_rng(seed)
    shares = _raised(rng.dirichlet(np.full(num_clients, beta)), num_records, int(min_samples))  # (K,)
    sizes = np.floor(shares).astype(np.int64)
    # Largest remainder: the records lost to rounding down go, one each, to those who lost most.
    sizes[np.argsort(sizes - shares, kind="stable")[: num_records - sizes.sum()]] += 1
    parts = np.split(rng.permutation(num_records), np.cumsum(sizes)[:-1])
    return [np.sort(part) for part in parts]


def _raised(proportions: np.ndarray, total: int, minimum: int) -> np.ndarray:
    """Shares of `total` proportional to `proportions`, (K,), but for those raised to `minimum`."""
    at_minimum = np.zeros(len(proportions), dtype=bool)
    while True:
        free = total - minimum * at_minimum.sum()
        weights = np.where(at_minimum, 0.0, proportions)
        shares = np.where(at_minimum, float(minimum), free * weights / max(weights.sum(), np.finfo(float).tiny))
        low = shares < minimum
        if not low.any():
            return shares
        at_minimum |= low
