"""FedEx-LoRA: averaged factors, and what their product lacks added to the frozen weight.

Source: Singhal, Ponkshe, Vepakomma, "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of
Foundation Models", ACL 2025, arXiv 2410.09432, https://github.com/RaghavSinghal10/fedex-lora.

    A = sum w_k A_k,  B = sum w_k B_k,  R = sum w_k B_k A_k - B A,  W <- W + s R    (s = alpha / rank)

so that W + s B A is the mean of the clients' models, exactly.

What differs from the released code, on purpose:
* R, (out, in), is added as it is; there, its transpose is always added, which goes unnoticed in square layers only.
* clients count by their samples (or alike, if the run says so); there, always alike.
* R is gathered in float32 beside the weight, since a bfloat16 weight would round a small R away.
* R is computed as sum w_k (B_k - B)(A_k - A), the same by algebra, but without a difference of two large numbers:
  for clients that agree it is zero, not rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcit_ray.federated.lora.base import Combine, LoraRule
from fcit_ray.federated.lora.products import pairs
from fcit_ray.federated.traits import Trait
from fcit_ray.types import ClientUpdate, Params


@dataclass(frozen=True, kw_only=True)
class FedEx(LoraRule):
    """FedEx-LoRA; it has no hyper-parameters.

    Bytes of a layer of (in, out) in a round, for each client: down 4 (r (in + out) + in out), up 4 r (in + out). Down
    is the sum of all residuals so far, as a client needs it that has not taken part in every round; the paper sends
    the last round's as factors, 4 n r (in + out) of n clients, which each client must have had from every round.
    """

    declares = frozenset({Trait.OTHER_COMBINATION, Trait.ADDS_RESIDUAL, Trait.CORRECTS_MEAN})

    def combine(
        self, params: Params, updates: Sequence[ClientUpdate], weights: Sequence[float], rule: Combine, seed: int
    ) -> dict[str, Tensor]:
        """The mean factors, and the residual that makes their product the mean of the products."""
        delta = super().combine(params, updates, weights, rule, seed)
        for lora in pairs([params] * len(updates), updates, weights):
            a, b = params[lora.a] + delta[lora.a], params[lora.b] + delta[lora.b]
            residual = torch.zeros_like(params[lora.residual])  # (out, in)
            for share, (a_k, b_k) in zip(lora.shares, lora.factors, strict=True):
                residual.addmm_(b_k - b, a_k - a, alpha=share)
            delta[lora.residual] = residual
        return delta
