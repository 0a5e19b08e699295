"""Samples to model batches: padding and the image processor's last step, on whichever worker trains.

Legend: B samples, L tokens of the longest, H and W pixels, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fcit_ray.data.samples import Sample, normalise, pixel_scaling

IGNORE_INDEX = -100
"""A label that the loss leaves out: the questions, the image and the padding."""


@dataclass(frozen=True)
class Collator:
    """Pads token sequences and normalises pixels.

    Both methods return what the model takes, and beside it `features` (B, D), the samples' frozen features, which the
    model does not take: pop it before `model(**batch)`.

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
        return cls(pad_id, *pixel_scaling(processor))

    def train(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Padded on the right: input_ids, attention_mask, labels (B, L); pixel_values (B, 3, H, W); features (B, D)."""
        ids = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": _padded(ids, self.pad_id),
            "attention_mask": _padded([np.ones_like(row) for row in ids], 0),
            "labels": _padded([sample["labels"] for sample in samples], IGNORE_INDEX),
            "pixel_values": self._normalised(samples),
            "features": _features(samples),
        }

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Padded on the left, for generation: as `train`, without labels."""
        ids = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": _padded(ids, self.pad_id, left=True),
            "attention_mask": _padded([np.ones_like(row) for row in ids], 0, left=True),
            "pixel_values": self._normalised(samples),
            "features": _features(samples),
        }

    def _normalised(self, samples: Sequence[Sample]) -> Tensor:
        pixels = torch.from_numpy(np.stack([sample["pixels"] for sample in samples]))  # (B, H, W, 3)
        return normalise(pixels, self.mean, self.std, self.rescale)  # (B, 3, H, W)


def _padded(rows: Sequence[np.ndarray], value: int, left: bool = False) -> Tensor:
    length = max(len(row) for row in rows)
    padded = np.full((len(rows), length), value, dtype=np.int64)  # (B, L)
    for target, row in zip(padded, rows, strict=True):
        start = length - len(row) if left else 0
        target[start : start + len(row)] = row
    return torch.from_numpy(padded)


def _features(samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([sample["feature"] for sample in samples]))  # (B, D)
