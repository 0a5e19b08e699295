"""Prepared records that trials have in common: made once, kept while there is room. No Ray; the blocks are words."""

from collections.abc import Sequence
from typing import Any

from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.runtime.pantry import Pantry

ENCODER = SampleEncoder("root", "tiny", "bare", 64)


def pantry(budget: int) -> tuple[Pantry, list[list[str]]]:
    made: list[list[str]] = []

    def prepare(pieces: Sequence[Sequence[str]], encoder: SampleEncoder, part: str) -> list[Any]:
        made.append(["".join(piece) for piece in pieces])
        return [f"{part}:{''.join(piece)}" for piece in pieces]

    return Pantry(budget, prepare, size=lambda block: 10), made


def test_only_what_is_not_there_is_made_and_every_piece_gets_its_own_block() -> None:
    shelf, made = pantry(budget=100)
    assert shelf.blocks([["a"], ["b", "c"]], ENCODER, "train") == ["train:a", "train:bc"]
    assert shelf.blocks([["d"], ["b", "c"], ["a"]], ENCODER, "train") == ["train:d", "train:bc", "train:a"]
    assert made == [["a", "bc"], ["d"]]
    assert shelf.counts() == (3, 2)


def test_another_part_template_or_cut_is_another_block() -> None:
    shelf, made = pantry(budget=1000)
    shelf.blocks([["a", "b"]], ENCODER, "train")
    shelf.blocks([["a", "b"]], ENCODER, "test")
    shelf.blocks([["a", "b"]], SampleEncoder("root", "tiny", "vicuna_v1", 64), "train")
    shelf.blocks([["ab"]], ENCODER, "train")
    assert len(made) == 4


def test_the_block_not_wanted_for_longest_goes_first() -> None:
    shelf, made = pantry(budget=25)  # room for two
    shelf.blocks([["a"]], ENCODER, "train")
    shelf.blocks([["b"]], ENCODER, "train")
    shelf.blocks([["a"]], ENCODER, "train")
    shelf.blocks([["c"]], ENCODER, "train")  # b goes
    shelf.blocks([["a"], ["c"]], ENCODER, "train")
    shelf.blocks([["b"]], ENCODER, "train")
    assert made == [["a"], ["b"], ["c"], ["b"]]


def test_pieces_that_are_alike_are_made_once_and_more_than_fits_is_still_handed_out() -> None:
    shelf, made = pantry(budget=5)
    assert shelf.blocks([["a"], ["a"], ["b"]], ENCODER, "train") == ["train:a", "train:a", "train:b"]
    assert made == [["a", "b"]]
