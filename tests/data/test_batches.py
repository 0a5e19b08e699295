"""Orders and step counts; the schedule relies on the count, resumed runs on the order."""

import pytest

from fcit_ray.data.batches import epoch_order, num_steps


def test_an_epoch_is_a_permutation_and_the_next_another():
    first, second = (epoch_order(20, 7, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_order(20, 7, 0).tolist()
    assert first.tolist() != epoch_order(20, 8, 0).tolist()


# 7 records in threes are 3 + 3 + 1, twice; 6 in threes leave no short batch; one record in fours is one batch.
@pytest.mark.parametrize(
    ("count", "batch_size", "epochs", "steps"), [(7, 3, 2, 6), (6, 3, 1, 2), (1, 4, 5, 5), (0, 4, 1, 0)]
)
def test_the_last_short_batch_counts_in_every_epoch(count, batch_size, epochs, steps):
    assert num_steps(count, batch_size, epochs) == steps
