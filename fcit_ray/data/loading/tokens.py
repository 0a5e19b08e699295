"""A text with a mark for each of its pictures to tokens, and where in the text each of them lies.

Legend: L tokens, N pictures, H and W pixels.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from fcit_ray.models.chat import picture_marks
from fcit_ray.models.plain_text import SpelledError
from fcit_ray.models.prompt import IMAGE_TOKEN

Sample = dict[str, np.ndarray]
"""One record: `input_ids` int64 (L,), `feature` float32 (D,), in training `labels` (L,), and its pictures, if any.

These are `pixels` uint8 (N, H, W, 3) for LLaVA-1.5. Else they are the processor's own arrays under its own names: those
of one number a token are (L,), the others have an axis of pictures or patches in front, along which batches are joined.
"""

_TRIM = 3
"""Tokens of a text that may differ at its ends where a picture grows in front of it or behind."""
_LEAST = 4
"""Tokens of a text between pictures that is looked for: one with an answer has its end and the next turn's marks."""


def tokenise(processor: Any, text: str, num_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (L,) of a text with `<image>` for each of its pictures, and their character offsets in it, (L, 2).

    What stands before, between and after the images is tokenised each by itself, as LLaVA-1.5 trains
    (`tokenizer_image_token` of its code): Llama's tokenizer puts a mark before the first piece of a text, so there is
    one before the newline after the image too. In one go some versions of the tokenizer set it there and some do not.

    Args:
        processor: of the model.
        text: from a template, users' text hidden.
        num_image: tokens of a picture.

    Raises:
        SpelledError: the text of a user became special tokens.
    """
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids(processor.image_token)
    specials = _adds_specials(processor, text)
    pieces = text.split(IMAGE_TOKEN)
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    written: list[int] = []  # without the images' tokens
    start = 0
    for number, piece in enumerate(pieces):
        if number:
            ids += [image] * num_image
            offsets += [(start, start)] * num_image
            start += len(IMAGE_TOKEN)
        cut = tokenizer(piece, add_special_tokens=specials and not number, return_offsets_mapping=True)
        written += cut["input_ids"]
        ids += cut["input_ids"]
        offsets += [(left + start, right + start) for left, right in cut["offset_mapping"]]
        start += len(piece)
    _check_plain(processor, "".join(pieces), written, specials)
    return np.array(ids, dtype=np.int64), np.array(offsets, dtype=np.int64).reshape(len(ids), 2)


def run_processor(processor: Any, text: str, images: Sequence[Image.Image]) -> tuple[Sample, np.ndarray]:
    """All that a processor makes of a text and its pictures, and its tokens' places in the text, (L, 2).

    Where a picture grew into many tokens is the processor's business. So the text is cut into tokens without them as
    well: from the end, as far as both agree, a token lies where it lies there; of several pictures the texts between
    them are found one after another. The others get the empty place (0, 0).

    Raises:
        SpelledError: the text of a user became special tokens.
        ValueError: the processor takes no such pictures, or returns what cannot be kept.
    """
    specials = _adds_specials(processor, text)
    # Several in a list of their own: they belong to one text, which some processors (LLaVA-OneVision's) cut otherwise.
    given = {"images": list(images) if len(images) == 1 else [list(images)]} if images else {}
    output = processor(text=text, add_special_tokens=specials, return_tensors="np", **given)
    ids = np.asarray(output["input_ids"][0], dtype=np.int64)  # (L,)
    sample: Sample = {"input_ids": ids}
    for name, value in output.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iufb":
            raise ValueError(f"it returns {name} of {array.dtype}; expected numbers")
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if name not in ("input_ids", "attention_mask"):  # the latter is made when the batch is padded
            sample[name] = array[0] if array.shape == (1, len(ids)) else array
    plain = processor.tokenizer(text, add_special_tokens=specials, return_offsets_mapping=True)
    _check_plain(processor, text, plain["input_ids"], specials)
    alone = np.array(plain["input_ids"], dtype=np.int64)
    places = np.array(plain["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    most = min(len(ids), len(alone))
    agrees = ids[::-1][:most] == alone[::-1][:most]
    shared = most if agrees.all() else int(agrees.argmin())
    offsets = np.zeros((len(ids), 2), dtype=np.int64)
    if shared:
        offsets[-shared:] = places[-shared:]
    if len(images) > 1:
        _place_between(processor, text, ids, alone, places, offsets)
    return sample, offsets


def _place_between(
    processor: Any, text: str, ids: np.ndarray, alone: np.ndarray, places: np.ndarray, offsets: np.ndarray
) -> None:
    """Fill in the places of the texts between pictures, each found behind the one before.

    A text that holds an answer holds the marks of its turns too, which no picture grows into; of others, a few white
    spaces, it does not matter where they lie. At the ends of a text a tokenizer may join what a picture begins or ends
    with (a line's end) to it, so a few tokens may go.

    Args:
        processor: of the model.
        text: as it was cut.
        ids: tokens with the pictures', (L,).
        alone: tokens without, (M,).
        places: of the latter in the text, (M, 2).
        offsets: those of `ids`, (L, 2); filled in here.
    """
    marks = re.compile("|".join(map(re.escape, sorted(picture_marks(processor)))))
    ends = [0, *(end for match in marks.finditer(text) for end in match.span()), len(text)]
    at = 0
    for left, right in list(pairwise(ends))[:-1:2]:  # the last is found from the end
        (within,) = np.nonzero((places[:, 0] >= left) & (places[:, 1] <= right) & (places[:, 1] > places[:, 0]))
        if len(within) < _LEAST:
            continue
        trims = ((before, trim - before) for trim in range(_TRIM + 1) for before in range(trim + 1))
        for before, behind in trims:
            wanted = within[before : len(within) - behind]
            if (found := _find(ids, alone[wanted], at)) >= 0:
                offsets[found : found + len(wanted)] = places[wanted]
                at = found + len(wanted)
                break


def _find(ids: np.ndarray, wanted: np.ndarray, start: int) -> int:
    """Where in `ids` the wanted ones first follow each other, from `start` on; -1 if they do not."""
    if not len(wanted) or len(ids) - start < len(wanted):
        return -1
    windows = np.lib.stride_tricks.sliding_window_view(ids[start:], len(wanted))
    hits = (windows == wanted).all(axis=1)
    return start + int(hits.argmax()) if hits.any() else -1


def _adds_specials(processor: Any, text: str) -> bool:
    """A chat template that begins with the tokenizer's first token would otherwise get it twice."""
    start = processor.tokenizer.bos_token
    return start is None or not text.startswith(start)


def _check_plain(processor: Any, text: str, ids: Sequence[int], specials: bool) -> None:
    """See that all special tokens are the template's: some tokenizer may make one of an odd spelling after all."""
    if (count := processor.tokenizer.num_foreign(text, ids, specials)) > 0:
        raise SpelledError(
            f"spells {count} special tokens of the model's tokenizer, in a way that cannot be told from the model's "
            f"own; take them out"
        )


def num_image_tokens(processor: Any, pixels: np.ndarray) -> int:
    """Placeholders an image of (H, W, 3) pixels stands for: its patches, the class token where the model keeps it."""
    height, width = pixels.shape[:2]
    dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
    patches = (height // processor.patch_size) * (width // processor.patch_size)
    return patches + processor.num_additional_image_tokens - dropped
