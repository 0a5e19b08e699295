"""Frozen text features: what a client's identity token and a sample's gate are computed from (DISCO, section 3).

Legend: B texts, D features, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


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
        self.tokenizer = tokenizer
        self.table = torch.nn.functional.normalize(table.detach().float(), dim=1)  # (V, D)

    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids, "an empty instruction has no feature; the loader refuses such records"
            rows.append(self.table[torch.tensor(ids)].mean(0))
        return torch.stack(rows)  # (B, D)
