"""Orders and step counts; the schedule relies on the count, resumed runs on the order."""

import pytest
import torch

from fcit_ray.data.loading.batches import epoch_order, in_steps, num_steps


def pieces(*sizes):
    return [{"input_ids": torch.zeros(size, 1)} for size in sizes]


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


def test_micro_batches_are_joined_into_steps_and_no_step_spans_two_epochs():
    # Seven records in steps of four and pieces of at most three, twice: 3 + 1 and 3, then 3 + 1 and 3 again.
    steps = in_steps(pieces(3, 1, 3, 3, 1, 3), num_records=7, batch_size=4)
    assert [[len(piece["input_ids"]) for piece in step] for step in steps] == [[3, 1], [3], [3, 1], [3]]


@pytest.mark.parametrize("sizes", [(3, 3, 1), (4, 4), (4, 2)])
def test_pieces_that_do_not_fill_the_steps_are_noticed(sizes):
    # Of seven records: a piece of records of two steps; one record too many; one too few.
    with pytest.raises(AssertionError, match="shard and job disagree"):
        list(in_steps(pieces(*sizes), num_records=7, batch_size=4))
