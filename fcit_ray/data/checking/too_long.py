"""Records longer than the model may read, found before a run starts: every task's, to train and to answer.

What it costs: no picture is decoded. Most records are cleared by the bytes of their text, of which no tokenizer makes
more tokens than there are, and only the others are cut into tokens, a tenth of a millisecond each; where all pictures
become as many tokens (LLaVA-1.5: 576) that is all, some seconds for the half a million records of the benchmark. Where
the number depends on a picture's size, the header of each is read, and the processor makes tokens of one blank picture
of every size that occurs, some ten milliseconds each. Pictures within Parquet are not read for that: there only texts
are found that would be too long with the smallest picture; what else is too long ends the run later, by the same name.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from PIL import Image

from fcit_ray.data.loading.pixels import square_pixels
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.tokens import num_image_tokens, run_processor, tokenise
from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.records.faults import NUM_SHOWN
from fcit_ray.data.records.images import picture_size
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import DataError
from fcit_ray.models.load import load_processor
from fcit_ray.models.plain_text import SpelledError
from fcit_ray.models.processor import pads_to_square
from fcit_ray.models.prompt import Turn

Size = tuple[int, int]

_SMALLEST = (32, 32)
_MARGIN = 16
"""Tokens by which pieces of a prompt may differ from what each of them is alone."""


def check_lengths(encoder: SampleEncoder, records: Iterable[Record]) -> None:
    """Refuse records of more than `encoder.max_length` tokens, image included, before anything is prepared.

    Args:
        encoder: of the run.
        records: all that will be trained on or answered.

    Raises:
        DataError: names the first of them by file and record, and how many there are.
    """
    everything = list(records)
    found = list(too_long(encoder, everything))
    if not found:
        return
    lines = [f"\n  {record.where}: {count} tokens, image included" for record, count in found[:NUM_SHOWN]]
    more = f"\n  and {len(found) - NUM_SHOWN} more" if len(found) > NUM_SHOWN else ""
    raise DataError(
        f"{len(found)} of {len(everything)} records exceed model.max_length={encoder.max_length}; raise it, or set "
        f"them aside with `fcit-ray prepare check {encoder.root} --model {encoder.model} "
        f"--max-length {encoder.max_length} --template {encoder.template} --quarantine`:" + "".join(lines) + more
    )


def too_long(encoder: SampleEncoder, records: Iterable[Record]) -> Iterator[tuple[Record, int]]:
    """The records of more tokens than `encoder.max_length`, each with its number of tokens.

    Raises:
        DataError: the model's processor cannot take one of them.
    """
    lengths = _Lengths(encoder)
    for record in records:
        try:
            is_near = lengths.at_most(record) > encoder.max_length
            count = lengths.of(record) if is_near else 0
        except SpelledError as error:
            raise DataError(f"{record.where}: {error}") from error
        except ValueError as error:  # of a picture's size
            shown = f"image {', '.join(record.images)}" if record.images else "without a picture"
            raise DataError(f"{record.where}: {shown}: {error}") from error
        if count > encoder.max_length:
            yield record, count


class _Lengths:
    """Lengths of records by their texts and the sizes of their pictures."""

    def __init__(self, encoder: SampleEncoder):
        self._encoder = encoder
        self._processor = load_processor(encoder.model)
        parquet = parquet_at(encoder.root)
        self._num_image = None
        if pads_to_square(type(self._processor)):
            self._num_image = num_image_tokens(
                self._processor, square_pixels(self._processor, Image.new("RGB", _SMALLEST))
            )
        fixed = self._num_image is not None or (parquet is not None and parquet.embeds_images)
        self._size_of = (lambda image: _SMALLEST) if fixed else lru_cache(maxsize=16)(self._read_size)
        self._of_picture = lru_cache(maxsize=None)(self._count_picture)
        self._of_template = lru_cache(maxsize=None)(self._count_template)

    def at_most(self, record: Record) -> int:
        """More tokens than this a record does not have."""
        text = "".join(turn.question + (turn.answer or "") for turn in record.turns)
        # A tokenizer may write some characters out before it cuts them, none of ASCII.
        size = len(text) if text.isascii() else 6 * len(text.encode())
        template = self._of_template(len(record.turns), record.turns[-1].answer is None)
        # With the smallest picture's it counts more than a record without any has.
        pictures = sum(self._of_picture(self._size_of(image)) for image in record.images)
        return size + template + (pictures or self._of_picture(_SMALLEST)) + _MARGIN

    def of(self, record: Record) -> int:
        """Tokens of a record, as the encoder will count them."""
        text, _ = self._encoder.render(record)
        return self._count(text, [self._size_of(image) for image in record.images])

    def _count(self, text: str, sizes: Sequence[Size]) -> int:
        if self._num_image is not None:
            return len(tokenise(self._processor, text, self._num_image)[0])
        return len(run_processor(self._processor, text, [Image.new("RGB", size) for size in sizes])[1])

    def _count_picture(self, size: Size) -> int:
        return self._count(self._prompt(1, False), [size])

    def _count_template(self, num_turns: int, is_open: bool) -> int:
        """What a template writes around so many turns, beside what it writes around one."""
        one, all_turns = self._prompt(1, False), self._prompt(num_turns, is_open)
        return self._count(all_turns, [_SMALLEST]) - self._count(one, [_SMALLEST]) + _MARGIN * num_turns

    def _prompt(self, num_turns: int, is_open: bool) -> str:
        turns = [Turn("a", "a")] * (num_turns - 1) + [Turn("a", None if is_open else "a")]
        return self._encoder.render(Record("", "", ("",), tuple(turns)))[0]

    def _read_size(self, image: str) -> Size:
        return picture_size(self._encoder.root, image, self._encoder.open_image)
