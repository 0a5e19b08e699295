"""Who holds which records of one task: splits over the clients by quantity, by label, equally, or by a natural group.

Every split returns the sorted record indices of every client, which together are each of 0..N-1 once.

Legend: K clients, N records.
"""

from collections import Counter
from collections.abc import Sequence

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
    _check(num_records, num_clients, min_samples, beta)
    rng = np.random.default_rng(seed)
    shares = _raised(rng.dirichlet(np.full(num_clients, beta)), num_records, int(min_samples))  # (K,)
    parts = np.split(rng.permutation(num_records), np.cumsum(_whole(shares, num_records))[:-1])
    return [np.sort(part) for part in parts]


def label_split(labels: Sequence[str], num_clients: int, beta: float, min_samples: int, seed: int) -> list[np.ndarray]:
    """Label-skewed split: the records of each label go to the clients in Dirichlet(beta * 1_K) proportions of its own.

    Distribution-based label imbalance of Li et al. 2022, "Federated Learning on Non-IID Data Silos" (arXiv 2102.02079,
    section 4.1), there without a minimum. Clients below it get records one by one from whoever holds most, so the
    split stays as skewed as the minimum allows. Where every record has a label of its own, as captions have, nothing
    is skewed.

    Args:
        labels: of the N records.
        num_clients: K.
        beta: concentration; towards 0 one client holds all records of a label, towards infinity all hold as many.
        min_samples: records every client has at least.
        seed: of the proportions, and of which records of a label go where.

    Raises:
        ValueError: a value out of range, or too few records for the minimum.
    """
    _check(len(labels), num_clients, min_samples, beta)
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    held: list[list[int]] = [[] for _ in range(num_clients)]
    for label in sorted(members):
        sizes = _whole(rng.dirichlet(np.full(num_clients, beta)) * len(members[label]), len(members[label]))  # (K,)
        for client, part in enumerate(np.split(rng.permutation(members[label]), np.cumsum(sizes)[:-1])):
            held[client] += part.tolist()
    for client in range(num_clients):  # shuffled, so that what is given away is of no particular label
        held[client] = rng.permutation(np.array(held[client], dtype=np.int64)).tolist()
    for poor in held:
        while len(poor) < min_samples:
            poor.append(max(held, key=len).pop())
    return [np.sort(np.array(indices, dtype=np.int64)) for indices in held]


def equal_split(num_records: int, num_clients: int, min_samples: int, seed: int) -> list[np.ndarray]:
    """Shares of a seeded permutation that differ by one record at most, the larger ones first.

    Raises:
        ValueError: a value out of range, or too few records for the minimum.
    """
    _check(num_records, num_clients, min_samples)
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(num_records), num_clients)]


def group_split(groups: Sequence[str], num_clients: int, min_samples: int) -> list[np.ndarray]:
    """Natural split: all records of one group (a site, an author) go to one client.

    Groups are dealt, the largest first, each to the client that holds fewest records by then; of equal ones the first
    to appear goes first, and to the first client. Nothing is drawn.

    Args:
        groups: of the N records.
        num_clients: K.
        min_samples: records every client must have; groups are not divided to reach it.

    Raises:
        ValueError: fewer groups than clients, a client below the minimum, or a value out of range.
    """
    _check(len(groups), num_clients, min_samples)
    sizes = Counter(groups)
    if len(sizes) < num_clients:
        raise ValueError(
            f"benchmark.num_clients={num_clients}: benchmark.partition_field has only {len(sizes)} different values"
        )
    holder: dict[str, int] = {}
    counts = [0] * num_clients
    for group, size in sizes.most_common():  # in the order of appearance where they are equal
        holder[group] = counts.index(min(counts))
        counts[holder[group]] += size
    if min(counts) < min_samples:
        raise ValueError(
            f"benchmark.min_samples={min_samples}: a client gets {min(counts)} records, since groups stay whole; "
            "lower benchmark.min_samples or benchmark.num_clients"
        )
    owners = np.array([holder[group] for group in groups])
    return [np.flatnonzero(owners == client) for client in range(num_clients)]


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


def _whole(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `shares` that add up to `total`, (K,)."""
    sizes = np.floor(shares).astype(np.int64)
    # Largest remainder: the records lost to rounding down go, one each, to those who lost most.
    sizes[np.argsort(sizes - shares, kind="stable")[: total - sizes.sum()]] += 1
    return sizes


def _check(num_records: int, num_clients: int, min_samples: int, beta: float = 1.0) -> None:
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
