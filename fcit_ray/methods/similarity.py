"""How samples are weighed by their likeness to what a method remembers: tokens, anchors.

Legend: B samples, D features, U remembered vectors.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cosines(features: Tensor, remembered: Tensor) -> Tensor:
    """Cosine similarity of every sample to every remembered vector, (B, D), (U, D) -> (B, U)."""
    return normalize(features.float(), dim=1) @ normalize(remembered, dim=1).T


def softmax_weights(similarity: Tensor, temperature: float) -> Tensor:
    """softmax(similarity / temperature) over the remembered vectors, (B, U) float32."""
    # In float64, where even the coldest temperature leaves numbers that a softmax can tell apart.
    return torch.softmax(similarity.double() / temperature, dim=1).float()
