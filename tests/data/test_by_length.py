"""In which order questions are answered: worked out by hand, and measured by what is padded."""

import numpy as np
import pytest

from fcit_ray.data.loading.by_length import batches_of, by_length, length_of, window_of
from fcit_ray.data.records.layout import Record
from fcit_ray.models.prompt import Turn


def test_a_length_is_of_the_whole_conversation_and_counts_pictures_apart():
    turns = (Turn("What is it?", "A cat"), Turn("Why?"))
    assert length_of(Record("d", "0", ("a.png", "b.png"), turns)) == (2, 11 + 5 + 4)
    assert length_of(Record("d", "0", (), ())) == (0, 0)


def test_the_longest_come_first_pictures_before_letters_and_of_equals_the_earlier():
    lengths = [(1, 5), (1, 9), (0, 99), (2, 1), (1, 9)]
    assert by_length(lengths, batch_size=4) == [3, 1, 4, 0, 2]
    assert batches_of(lengths, batch_size=2) == [(3, 1), (4, 0), (2,)]


def test_nothing_leaves_its_window():
    # Two to a batch, sixteen to a window: the longest question of all stays in the second window.
    lengths = [(1, number) for number in range(20)]
    order = by_length(lengths, batch_size=2)
    assert window_of(2) == 16
    assert order == [*range(15, -1, -1), 19, 18, 17, 16]
    # So whoever has a window alone, as `predict` has, finds the same batches in it.
    assert batches_of(lengths, 2)[8:] == [tuple(16 + place for place in batch) for batch in batches_of(lengths[16:], 2)]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_far_less_is_padded_than_in_file_order(batch_size):
    letters = np.random.default_rng(0).lognormal(4.0, 0.5, 2000).astype(int)

    def padded(batches):
        return sum(max(letters[list(b)]) * len(b) - sum(letters[list(b)]) for b in batches) / sum(letters)

    batches = batches_of([(1, int(count)) for count in letters], batch_size)
    assert sorted(place for batch in batches for place in batch) == [*range(2000)]
    in_file_order = [range(start, min(start + batch_size, 2000)) for start in range(0, 2000, batch_size)]
    assert padded(batches) <= padded(in_file_order) / 4
