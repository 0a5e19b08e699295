"""The released code's clients and schedule: numbers of numpy's own legacy generator, worked out apart from ours."""

import numpy as np
import pytest

from fcit_ray.data.partition.selection import released, released_schedule, seeded
from fcit_ray.types import Setting


def setting(clients: int = 50, chosen: int = 5, seed: int = 0) -> Setting:
    return Setting(num_stages=8, num_rounds=10, num_clients=clients, clients_per_round=chosen, seed=seed)


@pytest.mark.parametrize(
    ("stage", "round", "drawn", "order"),
    [
        # numpy.random.seed(0); numpy.random.choice(50, 5, replace=False) prints 28 11 10 41 2. A Python set of five
        # has 32 places, a number lies at its remainder: 41 at 9, before 10.
        (0, 0, [28, 11, 10, 41, 2], [2, 41, 10, 11, 28]),
        # seed(11) gives 37 45 36 22 2, which lie at 5, 13, 4, 22 and 2
        (1, 1, [37, 45, 36, 22, 2], [2, 36, 37, 45, 22]),
    ],
)
def test_released_clients_are_the_authors_in_the_order_of_their_set(stage, round, drawn, order):
    np.random.seed(10 * stage + round)
    assert np.random.choice(np.arange(50), 5, replace=False).tolist() == drawn
    assert released(setting(), stage, round) == order
    assert released(setting(seed=7), stage, round) == order  # whatever the run's seed


@pytest.mark.parametrize("select", [released, seeded])
def test_clients_are_drawn_without_replacement(select):
    for clients, chosen in ((50, 5), (7, 7), (10, 1)):
        for stage in range(8):
            for round in range(10):
                drawn = select(setting(clients, chosen), stage, round)
                assert len(drawn) == len(set(drawn)) == chosen
                assert set(drawn) <= set(range(clients))


def test_drawing_leaves_the_global_generator_alone():
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    released(setting(), 3, 4)
    released_schedule(8, 5, 8)
    assert np.random.random() == expected


def test_a_schedule_not_given_is_drawn_as_released():
    # seed 0: numpy.random.choice(8, 5) prints 4 7 5 0 3; seed 10: 1 5 4 7 0
    assert released_schedule(2, 5, 8) == ((0, 3, 4, 5, 7), (0, 1, 4, 5, 7))
