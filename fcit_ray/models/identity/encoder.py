"""Frozen features of instructions and pictures: what identity tokens and gates are computed from (DISCO, section 3).

A sample's feature is its instruction's (`text`), its picture's (`image`), or both in one. Source of the three: FCIT's
ablation (Guo et al., ICCV 2025, arXiv 2503.12897), which does not say how it joins the two; `join` is our reading.

Legend: B texts or images, D features, H and W pixels, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fcit_ray.models.plain_text import keep_plain

Identity = Literal["text", "image", "both"]
_ROWS: Final = {"cpu": 1, "cuda": 8}  # images encoded together, by kind of device


class TextEncoder(Protocol):
    """Maps instruction texts to frozen features."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return float32 features of shape (B, D)."""
        ...


class TokenEmbeddingEncoder:
    """Mean of the language model's own frozen token embeddings, every row scaled to length one first.

    The tiny model has no CLIP text tower worth the name (one of random weights puts two tasks' texts 0.93 apart,
    beyond DISCO's threshold), while the bag of its tokens tells them apart. Each text is encoded on its own, so the
    bits do not depend on what else is in the batch.

    Args:
        tokenizer: the language model's tokenizer.
        table: its frozen input embeddings, (V, D).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, table: Tensor):
        self.tokenizer = keep_plain(tokenizer)
        self.table = torch.nn.functional.normalize(table.detach().float(), dim=1)  # (V, D)

    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            ids = self.tokenizer(self.tokenizer.hide(text), add_special_tokens=False)["input_ids"]
            assert ids, "an empty instruction has no feature; the loader refuses such records"
            rows.append(self.table[torch.tensor(ids)].mean(0))
        return torch.stack(rows)  # (B, D)


class VisionTowerEncoder:
    """The base's own frozen vision tower: its pooled output, scaled to length one.

    For CLIP that is the class token behind the last layer norm. A tower without a head (SigLIP as some models carry
    it) gives the mean of its last layer's tokens. On a CPU each image is encoded on its own, which takes no longer than
    several together; on a GPU always eight, the last ones filled with repeats. So an image's bits do not depend on what
    else there is to encode.

    Args:
        tower: in evaluation mode, on the device where it computes; takes `pixel_values`.
    """

    def __init__(self, tower: nn.Module):
        self.tower = tower

    @torch.inference_mode()
    def encode(self, pixel_values: Tensor) -> Tensor:
        """Features of normalised images (B, 3, H, W), float32 (B, D), on the CPU."""
        device = next(self.tower.parameters()).device
        rows = _ROWS[device.type]
        parts = []
        for start in range(0, len(pixel_values), rows):
            images = pixel_values[start : start + rows]
            filled = torch.cat([images, *[images[-1:]] * (rows - len(images))])
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                output: Any = self.tower(pixel_values=filled.to(device))
            pooled = getattr(output, "pooler_output", None)
            pooled = output.last_hidden_state.mean(1) if pooled is None else pooled
            parts.append(pooled[: len(images)].float().cpu())
        return nn.functional.normalize(torch.cat(parts), dim=1)  # (B, D)


def join(text: Tensor, image: Tensor) -> Tensor:
    """One feature of two, (D,) and (D',) to (D + D',): the cosine of two joined ones is the mean of the two cosines.

    Each is scaled to length one, so neither outweighs the other by its size, and both by 1 / sqrt(2), so the result
    has length one again. (Identity tokens are means over many records. There a half is the shorter the more the records
    differ in it, and counts the less.)
    """
    halves = [nn.functional.normalize(half, dim=0) for half in (text, image)]
    return torch.cat(halves) / 2**0.5
