"""The splits: covering, disjoint, seeded, and never below the minimum."""

import numpy as np
import pytest

from fcit_ray.data.partition.splits import dirichlet_split, equal_split, group_split, label_split


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


# By label


LABELS = ["yes", "no", "maybe", "four"] * 500


@pytest.mark.parametrize("min_samples", [0, 30])
def test_a_label_split_covers_every_record_once_and_keeps_the_minimum(min_samples):
    parts = label_split(LABELS, 50, 0.1, min_samples, seed=2)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(2000))
    assert min(map(len, parts)) >= min_samples
    assert len(parts) == 50


def test_a_smaller_beta_gives_each_client_fewer_labels():
    def purity(beta: float) -> float:
        """Mean over clients of the share of the most frequent label; 1/4 if all are mixed alike."""
        parts = [np.array(LABELS)[part] for seed in range(5) for part in label_split(LABELS, 10, beta, 1, seed)]
        return float(np.mean([max(np.unique(part, return_counts=True)[1]) / len(part) for part in parts]))

    assert purity(0.05) > purity(0.5) > purity(50.0)
    assert purity(0.05) > 0.7
    assert purity(50.0) < 0.35


def test_the_label_not_its_place_decides():
    # The same proportions whatever the order of the file: each client has as many of each label.
    def table(labels):
        return [
            {label: sum(labels[index] == label for index in part) for label in "ab"}
            for part in label_split(labels, 3, 1.0, 0, seed=4)
        ]

    assert table(["a"] * 30 + ["b"] * 20) == table(["b", "a"] * 20 + ["a"] * 10)


def test_exactly_enough_labelled_records_gives_everyone_the_minimum():
    assert [len(part) for part in label_split(LABELS[:70], 7, 0.05, 10, seed=0)] == [10] * 7
    with pytest.raises(ValueError, match=r"benchmark\.min_samples=11: 7 clients need 77 records"):
        label_split(LABELS[:70], 7, 0.05, 11, seed=0)


# Equally


def test_equal_shares_differ_by_one_record_at_most():
    # 11 = 4 + 4 + 3
    parts = equal_split(11, 3, 3, seed=0)
    assert [len(part) for part in parts] == [4, 4, 3]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(11))
    assert [part.tolist() for part in equal_split(11, 3, 3, seed=1)] != [part.tolist() for part in parts]
    with pytest.raises(ValueError, match=r"benchmark\.min_samples=4: 3 clients need 12 records"):
        equal_split(11, 3, 4, seed=0)


# By a natural group


def test_groups_are_dealt_whole_largest_first_to_the_client_with_fewest():
    # b has 4, d 3, a 2, c 2 (a appears before c). b to client 0; d to 1; a to 1 (3 < 4), now 5; c to 0 (4 < 5).
    groups = ["a", "b", "c", "b", "d", "b", "a", "d", "c", "d", "b"]
    parts = group_split(groups, 2, 1)
    assert [sorted({groups[index] for index in part}) for part in parts] == [["b", "c"], ["a", "d"]]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(11))


def test_too_few_groups_or_a_client_below_the_minimum_is_refused():
    with pytest.raises(ValueError, match=r"benchmark\.num_clients=3: .* has only 2 different values"):
        group_split(["a", "b", "a", "b"], 3, 1)
    with pytest.raises(ValueError, match=r"benchmark\.min_samples=2: a client gets 1 records, since groups stay whole"):
        group_split(["a", "b", "a", "a"], 2, 2)
