"""Orders and step counts; the schedule relies on the count, resumed runs on the order."""

import numpy as np
import pytest

from fcit_ray.data.batches import batches, epoch_order, num_steps


def numbered(count):
    return [{"n": np.array(index)} for index in range(count)]


def drawn(count, batch_size, seed, epochs):
    return [[int(sample["n"]) for sample in batch] for batch in batches(numbered(count), batch_size, seed, epochs)]


def test_an_epoch_is_a_permutation_and_the_next_another():
    first, second = (epoch_order(20, 7, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_order(20, 7, 0).tolist()
    assert first.tolist() != epoch_order(20, 8, 0).tolist()


def test_the_last_short_batch_is_kept_in_every_epoch():
    # 7 records in threes: 3 + 3 + 1, twice.
    got = drawn(7, 3, seed=0, epochs=2)
    assert [len(batch) for batch in got] == [3, 3, 1, 3, 3, 1]
    assert [*got[0], *got[1], *got[2]] == epoch_order(7, 0, 0).tolist()
    assert [*got[3], *got[4], *got[5]] == epoch_order(7, 0, 1).tolist()


@pytest.mark.parametrize(("count", "batch_size", "epochs"), [(7, 3, 2), (6, 3, 1), (1, 4, 5), (0, 4, 1)])
def test_num_steps_counts_the_batches(count, batch_size, epochs):
    assert num_steps(count, batch_size, epochs) == len(drawn(count, batch_size, 0, epochs))
