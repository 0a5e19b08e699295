"""Prepared records that trials have in common: made once, kept while there is room. No Ray; the blocks are words."""

from collections.abc import Iterator, Sequence

from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.runtime.blocks import Block, Part, Wanted
from fcit_ray.runtime.pantry import Pantry, _in_portions

ENCODER = SampleEncoder("root", "tiny", "bare", 64)


def pieces(*records: str, part: Part = "train") -> list[Wanted]:
    """A piece of each word, of its letters."""
    return [Wanted(part, [*word]) for word in records]


def pantry(budget: int, broken: Sequence[str] = ()) -> tuple[Pantry, list[list[str]]]:
    made: list[list[str]] = []

    def prepare(wanted: Sequence[Wanted], encoder: SampleEncoder, gently: bool = False, /) -> Iterator[Block]:
        made.append(["".join(piece.records) for piece in wanted])
        for piece in wanted:
            text = "".join(piece.records)
            yield Block(f"{piece.part}:{text}", failed=text in broken)

    return Pantry(budget, prepare, size=lambda block: 10), made


def ask(shelf: Pantry, wanted: Sequence[Wanted], encoder: SampleEncoder = ENCODER) -> list[str]:
    return [block.ref for block in shelf.blocks(wanted, encoder)]


def test_only_what_is_not_there_is_made_and_every_piece_gets_its_own_block() -> None:
    shelf, made = pantry(budget=100)
    assert ask(shelf, pieces("a", "bc")) == ["train:a", "train:bc"]
    assert ask(shelf, pieces("d", "bc", "a")) == ["train:d", "train:bc", "train:a"]
    assert made == [["a", "bc"], ["d"]]
    assert shelf.counts() == (3, 2)


def test_another_part_template_or_cut_is_another_block() -> None:
    shelf, made = pantry(budget=1000)
    ask(shelf, pieces("ab"))
    ask(shelf, pieces("ab", part="test"))
    ask(shelf, pieces("ab"), SampleEncoder("root", "tiny", "vicuna_v1", 64))
    ask(shelf, [Wanted("train", ["ab"])])
    assert len(made) == 4


def test_the_block_not_wanted_for_longest_goes_first() -> None:
    shelf, made = pantry(budget=25)  # room for two
    for word in ("a", "b", "a", "c"):  # b goes
        ask(shelf, pieces(word))
    ask(shelf, pieces("a", "c"))
    ask(shelf, pieces("b"))
    assert made == [["a"], ["b"], ["c"], ["b"]]


def test_pieces_that_are_alike_are_made_once_and_more_than_fits_is_still_handed_out() -> None:
    shelf, made = pantry(budget=5)
    assert ask(shelf, pieces("a", "a", "b")) == ["train:a", "train:a", "train:b"]
    assert made == [["a", "b"]]


def test_what_failed_is_handed_out_and_not_kept() -> None:
    shelf, made = pantry(budget=100, broken=["b"])
    assert [block.failed for block in shelf.blocks(pieces("a", "b"), ENCODER)] == [False, True]
    ask(shelf, pieces("a", "b"))
    assert made == [["a", "b"], ["b"]]


def test_what_is_needed_first_is_asked_for_by_itself() -> None:
    # 600 + 400 records are one call, as many as go into one; 1,200 of one piece are a call too.
    sizes = (600, 400, 1, 1200, 3)
    portions = list(_in_portions([Wanted("train", ["x"] * size) for size in sizes]))
    assert [[len(piece.records) for piece in portion] for portion in portions] == [[600, 400], [1], [1200], [3]]
