"""Samples to model batches: padding and the image processor's last step, on whichever worker trains.

Legend: B samples, L tokens of the longest, H and W pixels, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fcit_ray.data.loading.pixels import normalise, pixel_scaling
from fcit_ray.data.loading.tokens import Sample
from fcit_ray.models.processor import pads_to_square

IGNORE_INDEX = -100
"""A label that the loss leaves out: the questions, the image and the padding."""


@dataclass(frozen=True)
class Collator:
    """Pads token sequences; normalises pixels, or joins what the model's own processor made of the pictures.

    Both methods return what the model takes, and beside it `features` (B, D), the samples' frozen features, which the
    model does not take: pop it before `model(**batch)`. The pictures are `pixel_values` (N, 3, H, W) for LLaVA-1.5, N
    in all samples together, in their order; for another model they are every other array of the samples, those of one
    number a token padded with 0 like the tokens, the rest joined along their first axis. A sample without a picture
    adds nothing to what is joined; a batch without any has none of it.

    Attributes:
        pad_id: token id of the padding; masked out, so any id will do.
        mean: of the image processor's normalisation, by channel.
        std: of the image processor's normalisation, by channel.
        rescale: factor that takes byte values to 0..1.
    """

    pad_id: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    @classmethod
    def from_processor(cls, processor: Any) -> Self:
        """Take every setting from a Hugging Face image-text processor."""
        tokenizer = processor.tokenizer
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if not pads_to_square(type(processor)):  # its samples come with their pixels as the model wants them
            return cls(pad_id, (0.0,) * 3, (1.0,) * 3, 1.0)
        return cls(pad_id, *pixel_scaling(processor))

    def train(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Padded on the right: input_ids, attention_mask, labels (B, L); features (B, D); the pictures."""
        ids = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": _padded(ids, self.pad_id),
            "attention_mask": _padded([np.ones_like(row) for row in ids], 0),
            "labels": _padded([sample["labels"] for sample in samples], IGNORE_INDEX),
            **self._pictures(samples, left=False),
            "features": _features(samples),
        }

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Padded on the left, for generation: as `train`, without labels."""
        ids = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": _padded(ids, self.pad_id, left=True),
            "attention_mask": _padded([np.ones_like(row) for row in ids], 0, left=True),
            **self._pictures(samples, left=True),
            "features": _features(samples),
        }

    def _pictures(self, samples: Sequence[Sample], left: bool) -> dict[str, Tensor]:
        names = list(dict.fromkeys(name for sample in samples for name in sample))
        joined = {}
        for name in names:
            holders = [sample for sample in samples if name in sample]
            rows = [sample[name] for sample in holders]
            if name in ("input_ids", "labels", "feature"):
                continue
            if name == "pixels":
                pixels = torch.from_numpy(np.concatenate(rows))  # (N, H, W, 3)
                joined["pixel_values"] = normalise(pixels, self.mean, self.std, self.rescale)  # (N, 3, H, W)
            elif all(row.shape == sample["input_ids"].shape for row, sample in zip(rows, holders, strict=True)):
                # A number a token: of what has none, zeros, as of its padding.
                full = [sample.get(name, np.zeros_like(sample["input_ids"])) for sample in samples]
                joined[name] = _padded(full, 0, left)
            else:
                joined[name] = _joined(name, rows, masked="pixel_attention_mask" in names)
        return joined


def _padded(rows: Sequence[np.ndarray], value: int, left: bool = False) -> Tensor:
    length = max(len(row) for row in rows)
    padded = np.full((len(rows), length), value, dtype=np.int64)  # (B, L)
    for target, row in zip(padded, rows, strict=True):
        start = length - len(row) if left else 0
        target[start : start + len(row)] = row
    return torch.from_numpy(padded)


def _joined(name: str, rows: Sequence[np.ndarray], masked: bool) -> Tensor:
    """Arrays one after another along their first axis.

    Pictures cut into tiles, (pictures, tiles, 3, H, W), differ in the number of tiles; missing ones are zeros, which
    is how LLaVA-OneVision's and Idefics 3's own processors fill a batch, and their models leave them out. Heights and
    widths may differ only where a `pixel_attention_mask` says which pixels count.
    """
    largest = np.max([row.shape[1:] for row in rows], axis=0, initial=0).astype(int)
    free = set(range(1, rows[0].ndim)) if masked and rows[0].ndim >= 4 else {1} if rows[0].ndim == 5 else set()
    filled = []
    for row in rows:
        missing = [0, *(most - size for most, size in zip(largest, row.shape[1:], strict=True))]
        assert all(not count or axis in free for axis, count in enumerate(missing)), (
            f"{name}: shapes {[row.shape for row in rows]} cannot be joined; the model's family needs a rule of its own"
        )
        filled.append(np.pad(row, [(0, count) for count in missing]) if any(missing) else row)
    return torch.from_numpy(np.concatenate(filled))


def _features(samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([sample["feature"] for sample in samples]))  # (B, D)
