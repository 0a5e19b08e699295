"""Questions of like length together, so that a batch is padded little: in which order they are answered.

A length is known from the record alone, before anything is decoded. Questions are put in order within windows of a few
batches, not over the whole set: nearly as little is padded, and whoever reads a file window by window, as
`fcit-ray predict` does, meets the batches of the run.
"""

from collections.abc import Sequence
from typing import Final

from fcit_ray.data.records.layout import Record

WINDOW: Final = 8
"""Batches of a window."""

Length = tuple[int, int]
"""Pictures and characters of a question. A picture is worth hundreds of characters, so their number comes first."""


def length_of(record: Record) -> Length:
    """What a prompt's tokens follow from, as far as the record itself says it; (0, 0) of one that asks nothing."""
    return len(record.images), sum(len(turn.question) + len(turn.answer or "") for turn in record.turns)


def window_of(batch_size: int) -> int:
    """Questions of a window."""
    return WINDOW * batch_size


def by_length(lengths: Sequence[Length], batch_size: int) -> list[int]:
    """Positions in the order in which they are answered: window by window, in each the longest first.

    Of equals the earlier comes first. A permutation of `range(len(lengths))`.
    """
    window = window_of(batch_size)
    return [
        position
        for start in range(0, len(lengths), window)
        for position in sorted(range(start, min(start + window, len(lengths))), key=lambda p: _longest(lengths[p]))
    ]


def batches_of(lengths: Sequence[Length], batch_size: int) -> list[tuple[int, ...]]:
    """Positions of every batch, in the order of `by_length`; all of `batch_size` but the last."""
    order = by_length(lengths, batch_size)
    return [tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def _longest(length: Length) -> Length:
    return -length[0], -length[1]
