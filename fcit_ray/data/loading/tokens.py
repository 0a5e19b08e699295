"""A text with a picture's mark in it to tokens, and where in the text each of them lies.

Legend: L tokens, H and W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from fcit_ray.models.plain_text import SpelledError
from fcit_ray.models.prompt import IMAGE_TOKEN

Sample = dict[str, np.ndarray]
"""One record: `input_ids` int64 (L,), `feature` float32 (D,), in training `labels` (L,), and its picture.

That is `pixels` uint8 (H, W, 3) for LLaVA-1.5. Else it is the processor's own arrays under its own names: those of one
number a token are (L,), the others have an axis of pictures or patches in front, along which batches are joined.
"""


def tokenise(processor: Any, text: str, num_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (L,) of a text that holds `<image>` once, and their character offsets in it, (L, 2).

    What stands before and what stands after the image are tokenised each by itself, as LLaVA-1.5 trains
    (`tokenizer_image_token` of its code): Llama's tokenizer puts a mark before the first piece of a text, so there is
    one before the newline after the image too. In one go some versions of the tokenizer set it there and some do not.

    Raises:
        SpelledError: the text of a user became special tokens.
    """
    tokenizer = processor.tokenizer
    before, _, after = text.partition(IMAGE_TOKEN)
    start = len(before)
    image = tokenizer.convert_tokens_to_ids(processor.image_token)
    specials = _adds_specials(processor, text)
    first = tokenizer(before, add_special_tokens=specials, return_offsets_mapping=True)
    rest = tokenizer(after, add_special_tokens=False, return_offsets_mapping=True)
    _check_plain(processor, before + after, [*first["input_ids"], *rest["input_ids"]], specials)
    ids = [*first["input_ids"], *[image] * num_image, *rest["input_ids"]]
    shift = start + len(IMAGE_TOKEN)
    offsets = [*first["offset_mapping"], *[(start, start)] * num_image]
    offsets += [(left + shift, right + shift) for left, right in rest["offset_mapping"]]
    return np.array(ids, dtype=np.int64), np.array(offsets, dtype=np.int64).reshape(len(ids), 2)


def run_processor(processor: Any, text: str, image: Image.Image) -> tuple[Sample, np.ndarray]:
    """All that a processor makes of a text and its picture, and its tokens' places in the text, (L, 2).

    Where the picture grew into many tokens is the processor's business. So the text is cut into tokens without it as
    well: from the end, as far as both agree, a token lies where it lies there. The others get the empty place (0, 0).

    Raises:
        SpelledError: the text of a user became special tokens.
        ValueError: the processor takes no such picture, or returns what cannot be kept.
    """
    specials = _adds_specials(processor, text)
    output = processor(text=text, images=[image], add_special_tokens=specials, return_tensors="np")
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
    most = min(len(ids), len(alone))
    agrees = ids[::-1][:most] == alone[::-1][:most]
    shared = most if agrees.all() else int(agrees.argmin())
    offsets = np.zeros((len(ids), 2), dtype=np.int64)
    if shared:
        offsets[-shared:] = np.array(plain["offset_mapping"], dtype=np.int64)[-shared:]
    return sample, offsets


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
