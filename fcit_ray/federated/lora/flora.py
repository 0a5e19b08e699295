"""FLoRA: the clients' LoRAs are stacked, their sum goes into the frozen weight, and everybody starts anew.

Source: Wang, Shen, He, Sun, Wang, Lyu, Li, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous
Low-Rank Adaptations", NeurIPS 2024, arXiv 2409.05976, https://github.com/ATP-1010/FederatedLLM.

    A_s = [p_1 A_1; p_2 A_2; ...],  B_s = [B_1, B_2, ...],  W <- W + s B_s A_s = W + s sum p_k B_k A_k

exactly, whatever the clients' ranks; then A is drawn anew and B is zero.

What differs from the released code, on purpose:
* the product of the stacks is kept in float32 beside the weight, since a bfloat16 weight would round it.
* all clients share the scaling s = alpha / rank whatever their ranks (the bank's); there, a client's alpha is twice its
  rank, which is the same scaling 2.
* a round's new A is the same for all its clients, with the root mean square that A had before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcit_ray.federated.lora.base import Combine
from fcit_ray.federated.lora.products import pairs, without_factors
from fcit_ray.federated.lora.ranks import UnequalRanks
from fcit_ray.federated.traits import Trait
from fcit_ray.params import num_bytes
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Client, ClientUpdate, Params


@dataclass(frozen=True, kw_only=True)
class FLoRA(UnequalRanks):
    """FLoRA; `ranks` as in `UnequalRanks`, by default all clients have the adapter's.

    Bytes of a layer of (in, out) in a round, for a client of rank r_k: down 4 in out, the sum of all products so far
    (A comes of the round's seed and B is zero: neither travels), up 4 r_k (in + out). The paper sends the last round's
    stacks instead, 4 (sum of r_k) (in + out), which each client must have had from every round.
    """

    declares = UnequalRanks.declares | {Trait.OTHER_COMBINATION, Trait.ADDS_RESIDUAL, Trait.STACKS_PRODUCTS}

    def combine(
        self, params: Params, updates: Sequence[ClientUpdate], weights: Sequence[float], rule: Combine, seed: int
    ) -> dict[str, Tensor]:
        """The mean product to the residual, a new A, B to zero; what is no factor as the rule says."""
        delta = rule([without_factors(update.delta) for update in updates], weights)
        for lora in pairs(self._given(params, updates), updates, weights):
            product = torch.zeros_like(params[lora.residual])  # (out, in)
            for share, (a_k, b_k) in zip(lora.shares, lora.factors, strict=True):
                product.addmm_(b_k, a_k, alpha=share)
            delta[lora.residual] = product
            delta[lora.a] = _redraw(params[lora.a], derive_seed(seed, "flora", lora.a)) - params[lora.a]
            delta[lora.b] = -params[lora.b]
        return delta

    def bytes_down(self, params: Params, client: Client) -> int:
        return num_bytes(without_factors(params))


def _redraw(value: Tensor, seed: int) -> Tensor:
    """Normal numbers of the same shape, scaled to the same root mean square, so that rounds bring no drift."""
    drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
    return drawn * (value.double().norm() / drawn.double().norm()).float()
