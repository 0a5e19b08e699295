"""The quantity split: covering, disjoint, seeded, and never below the minimum."""

import numpy as np
import pytest

from fcit_ray.data.partition import dirichlet_split


@pytest.mark.parametrize("beta", [0.05, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("min_samples", [0, 50])
def test_every_record_goes_to_exactly_one_client(beta, min_samples):
    parts = dirichlet_split(40_000, 50, beta, min_samples, seed=3)
    assert len(parts) == 50
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(40_000))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert min(map(len, parts)) >= min_samples


def test_beta_passed_as_the_minimum_leaves_clients_without_data():
    # The released slip: min_size = beta < 1, so a client may end up with next to nothing. At beta 0.5 over 50 clients
    # a share is below 50 / 40,000 for about two in a hundred; several of 50 clients over ten seeds.
    slipped = [len(part) for seed in range(10) for part in dirichlet_split(40_000, 50, 0.5, 0, seed)]
    repaired = [len(part) for seed in range(10) for part in dirichlet_split(40_000, 50, 0.5, 50, seed)]
    assert min(slipped) < 50 <= min(repaired)
    with pytest.raises(ValueError, match=r"benchmark\.min_samples=0\.5: expected a whole number"):
        dirichlet_split(40_000, 50, 0.5, 0.5, seed=0)


def test_a_draw_that_satisfies_the_minimum_is_left_as_it_is():
    free, checked = (dirichlet_split(1000, 4, 5.0, minimum, seed=1) for minimum in (0, 10))
    assert min(map(len, free)) > 10
    for one, other in zip(free, checked, strict=True):
        np.testing.assert_array_equal(one, other)


def test_raised_clients_take_from_the_others_in_proportion(monkeypatch):
    # 100 records, at least 10: 2 % and 8 % are raised to 10 each; the other 80 go 30 : 60, i.e. 26.67 and 53.33,
    # rounded down 26 and 53, and the record left over goes to the larger remainder, the first of the two.
    class Fixed:
        def dirichlet(self, alpha: np.ndarray) -> np.ndarray:
            return np.array([0.02, 0.30, 0.08, 0.60])

        def permutation(self, count: int) -> np.ndarray:
            return np.arange(count)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Fixed())
    assert [len(part) for part in dirichlet_split(100, 4, 1.0, 10, seed=0)] == [10, 27, 10, 53]


def test_smaller_beta_is_more_unequal():
    def spread(beta: float) -> float:
        return float(np.mean([np.std([len(p) for p in dirichlet_split(5000, 10, beta, 1, s)]) for s in range(20)]))

    assert spread(0.5) > spread(1.0) > spread(5.0)


def test_the_seed_decides():
    one, same, other = (dirichlet_split(500, 5, 1.0, 10, seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert [p.tolist() for p in one] != [p.tolist() for p in other]


def test_exactly_enough_records_gives_everyone_the_minimum():
    # Where all are raised, rounding must not take a record from anyone.
    for seed in range(20):
        assert [len(part) for part in dirichlet_split(70, 7, 0.5, 10, seed)] == [10] * 7


def test_too_few_records_name_the_key_and_the_numbers():
    with pytest.raises(ValueError, match=r"benchmark\.min_samples=50: 10 clients need 500 records, .* has 300"):
        dirichlet_split(300, 10, 1.0, 50, seed=0)
    with pytest.raises(ValueError, match=r"benchmark\.beta=0"):
        dirichlet_split(300, 10, 0, 1, seed=0)
    with pytest.raises(ValueError, match=r"benchmark\.num_clients=0"):
        dirichlet_split(300, 0, 1.0, 1, seed=0)
