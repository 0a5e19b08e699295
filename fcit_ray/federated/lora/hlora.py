"""HLoRA: the mean of the products, cut back to the best factors of the bank's rank, of which a client takes the first.

Source: Liu, Zhang, Yao, Liu, "HLoRA: Efficient Federated Learning System for LLM Heterogeneous Fine-Tuning", 2025,
arXiv 2503.00813; formulas as in NVIDIA FLARE's MedGemma example.

    dW = sum w_k B_k A_k = [sqrt(w_k) B_k ...] [sqrt(w_k) A_k; ...] = Q_L R_L (Q_R R_R)^T
    SVD of R_L R_R^T = U S V^T;  B = Q_L U,  A = S V^T Q_R^T, the r largest singular values

No more than that can be kept in rank r (Eckart and Young), and the first r_k ranks are the best of rank r_k, which is
what a client of that rank is given. The dense dW, (out, in), is never formed.

What differs from the example, on purpose: there, alpha is 16 for clients of every rank and raw products B_k A_k are
averaged, which leaves out that the clients scaled them differently (inferred from its code). Here, all clients share
the bank's scaling whatever their rank, so that the mean of the raw products is the mean of the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from fcit_ray.federated.lora.base import Combine
from fcit_ray.federated.lora.products import pairs, without_factors
from fcit_ray.federated.lora.ranks import UnequalRanks
from fcit_ray.federated.traits import Trait
from fcit_ray.types import ClientUpdate, Params


@dataclass(frozen=True, kw_only=True)
class HLoRA(UnequalRanks):
    """HLoRA; `ranks` and bytes as in `UnequalRanks`: 4 r_k (in + out) of a layer down, and as many up."""

    declares = UnequalRanks.declares | {Trait.OTHER_COMBINATION, Trait.FACTORS_PRODUCTS}

    def combine(
        self, params: Params, updates: Sequence[ClientUpdate], weights: Sequence[float], rule: Combine, seed: int
    ) -> dict[str, Tensor]:
        """To the best factors of the mean product; what is no factor as the rule says."""
        delta = rule([without_factors(update.delta) for update in updates], weights)
        for lora in pairs(self._given(params, updates), updates, weights):
            roots = [sqrt(share) for share in lora.shares]
            left = torch.cat([root * b for root, (_, b) in zip(roots, lora.factors, strict=True)], dim=1)  # (out, n r)
            right = torch.cat([root * a for root, (a, _) in zip(roots, lora.factors, strict=True)])  # (n r, in)
            a, b = best_factors(left, right, params[lora.a].shape[0])
            delta[lora.a], delta[lora.b] = a - params[lora.a], b - params[lora.b]
        return delta


def best_factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank), float32, whose product is the nearest of that rank to `left @ right`.

    Computed in float64. Columns of B are orthonormal and rows of A orthogonal, the longest first; each column's entry
    of largest size is positive, since singular vectors have no sign of their own. Ranks beyond the smaller of in and
    out are zero.

    Args:
        left: (out, m), any m.
        right: (m, in).
        rank: of the result.
    """
    q_left, r_left = torch.linalg.qr(left.double())
    q_right, r_right = torch.linalg.qr(right.double().T)
    u, s, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    kept = min(rank, len(s))
    b = q_left @ u[:, :kept]  # (out, kept)
    a = s[:kept, None] * (vt[:kept] @ q_right.T)  # (kept, in)
    sign = b.gather(0, b.abs().argmax(0, keepdim=True)).sign()  # (1, kept)
    pad = torch.nn.functional.pad
    return pad(a * sign.T, (0, 0, 0, rank - kept)).float(), pad(b * sign, (0, rank - kept)).float()
