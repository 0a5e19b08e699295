"""Which clients take part in a round, and which task each of them holds: seeded by the run, or as released.

Legend: K clients, S stages, T tasks.
"""

from collections.abc import Callable

import numpy as np

from fcit_ray.seeds import derive_seed
from fcit_ray.types import Setting

Selection = Callable[[Setting, int, int], list[int]]
"""(setting, stage, round) to the selected clients, all different, in the order in which they are aggregated."""


def seeded(setting: Setting, stage: int, round: int) -> list[int]:
    """At random without replacement, by a seed of (run's seed, stage, round)."""
    draw = np.random.default_rng(derive_seed(setting.seed, "select", stage, round))
    return [int(client) for client in draw.choice(setting.num_clients, setting.clients_per_round, replace=False)]


def released(setting: Setting, stage: int, round: int) -> list[int]:
    """What the released code of FCIT draws, whatever the run's seed; stage and round count from 0, as they do there.

    `numpy.random.seed(10 * stage + round)`, then `numpy.random.choice(K, n, replace=False)`, here from a generator of
    its own with the same stream (numpy promises it for good), n = `clients_per_round` = `max(1, int(frac * K))`.

    The released code keeps the draw as a Python set and counts positions in the set's order, which in a heterogeneous
    stream decides which client holds which task. CPython's order of a set of small integers depends on them alone.

    Beyond ten rounds a stage the draws are those of the next stage: 10 * 0 + 10 = 10 * 1 + 0.
    """
    draw = np.random.RandomState(10 * stage + round).choice(
        setting.num_clients, setting.clients_per_round, replace=False
    )
    return list(set(draw.tolist()))


def released_schedule(num_stages: int, clients_per_round: int, num_tasks: int) -> tuple[tuple[int, ...], ...]:
    """The heterogeneous schedule that the released code draws where it is given no list, (S, n) tasks from 0.

    `numpy.random.seed(10 * stage)`, then n tasks uniformly with replacement, sorted.
    """
    return tuple(
        tuple(sorted(np.random.RandomState(10 * stage).choice(num_tasks, clients_per_round, replace=True).tolist()))
        for stage in range(num_stages)
    )


SELECTIONS: dict[str, Selection] = {"seeded": seeded, "released": released}
"""By the value of `benchmark.selection`."""
