"""Unequal ranks by zero-padding: smaller factors are filled up with zeros and averaged, a client takes the first ranks.

Source: the padding, and weights in proportion to ||B_k A_k||_F, from Cho, Liu, Xu, Fahrezi, Joshi, "Heterogeneous LoRA
for Federated Fine-tuning of On-Device Foundation Models" (HetLoRA), EMNLP 2024, arXiv 2401.06432; the mean of each
rank over the clients that have it from Yang, Zhang, Nguygen, Hu, Shu, Chen, Sim, "FediLoRA: Heterogeneous LoRA for
Federated Multimodal Fine-tuning under Missing Modalities", arXiv 2509.06984. Plain padding is the baseline in FLoRA
(arXiv 2409.05976).

What differs from them, on purpose: HetLoRA's clients also prune their own ranks, and FediLoRA's repair layers by
editing: neither is here, only how factors are combined. Whether HetLoRA weighs a client once or layer by layer is
unresolved; here, each LoRA has its own weights. In FediLoRA's code the branch for B skips segments; here, A and B go
the same way. And a rank that nobody of a round has keeps its value: padded, row and column would both become zero, and
as the gradient of each is a product with the other, no client could ever train that rank again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fcit_ray.federated.lora.base import Combine
from fcit_ray.federated.lora.products import without_factors
from fcit_ray.federated.lora.ranks import UnequalRanks, cut, full_rank, ranks_of
from fcit_ray.federated.traits import Trait, Traits
from fcit_ray.models.names import lora_factor, partner
from fcit_ray.params import Lazy
from fcit_ray.types import ClientUpdate, Params


@dataclass(frozen=True, kw_only=True)
class ZeroPad(UnequalRanks):
    """Averaged factors of unequal ranks; bytes as in `UnequalRanks`. With all ranks full, `samples` is `factors`.

    Attributes:
        weights: of the clients in a LoRA's mean. `samples`: the run's own; a rank that few have shrinks towards zero.
            `norm`: in proportion to ||B_k A_k||_F (HetLoRA), the run's own if all products are zero. `dimension`: the
            run's own, but of each rank over the clients that have it (FediLoRA). A client of weight zero in the run
            counts for nothing in any of them.
    """

    declares = UnequalRanks.declares | {Trait.OTHER_COMBINATION, Trait.OWN_WEIGHTS}

    weights: Literal["samples", "norm", "dimension"] = "samples"

    @property
    def traits(self) -> Traits:
        return super().traits - {Trait.OWN_WEIGHTS} if self.weights == "samples" else super().traits

    def combine(
        self, params: Params, updates: Sequence[ClientUpdate], weights: Sequence[float], rule: Combine, seed: int
    ) -> dict[str, Tensor]:
        """One delta of the padded factors; what is no factor as the rule says."""
        if self.weights == "dimension":
            return self._by_dimension(params, updates, weights, rule)
        padded = [self._padded(params, update) for update in updates]
        if self.weights == "samples":
            return self._without_lost(rule(padded, weights), updates, weights)
        delta = rule([without_factors(item) for item in padded], weights)
        for a in dict.fromkeys(name for item in padded for name in item if lora_factor(name) == "A"):
            b = partner(a)
            norms = [
                _product_norm(params[a] + item[a], params[b] + item[b]) if a in item and weight else 0.0
                for item, weight in zip(padded, weights, strict=True)
            ]
            own = [Lazy([name for name in (a, b) if name in item], item.__getitem__) for item in padded]
            delta.update(rule(own, norms if any(norms) else weights))
        return self._without_lost(delta, updates, weights)

    def _padded(self, params: Params, update: ClientUpdate) -> Params:
        """What a client would have sent, had it the full rank and zeros in the ranks that it lacks."""

        def value(name: str) -> Tensor:
            sent = update.delta[name]
            if not lora_factor(name):
                return sent
            rank, full = self._rank(name, sent, update.client), full_rank(name, sent)
            if rank == full:
                return sent
            padded = sent.clone()
            ranks_of(name, padded, rank, full).copy_(-ranks_of(name, params[name], rank, full))
            return padded

        return Lazy(update.delta, value)

    def _without_lost(
        self, delta: dict[str, Tensor], updates: Sequence[ClientUpdate], weights: Sequence[float]
    ) -> dict[str, Tensor]:
        """The delta, zero in the ranks that no sender has."""
        kept = dict(delta)
        for name, value in delta.items():
            if lora_factor(name):
                senders = [u.client for u, w in zip(updates, weights, strict=True) if w and name in u.delta]
                most = max((self._rank(name, value, client) for client in senders), default=0)
                kept[name] = cut(name, value, most)
        return kept

    def _by_dimension(
        self, params: Params, updates: Sequence[ClientUpdate], weights: Sequence[float], rule: Combine
    ) -> dict[str, Tensor]:
        delta = rule([without_factors(update.delta) for update in updates], weights)
        for name in dict.fromkeys(name for update in updates for name in update.delta if lora_factor(name)):
            senders = [
                (update.delta[name], self._rank(name, update.delta[name], update.client), weight)
                for update, weight in zip(updates, weights, strict=True)
                if name in update.delta
            ]
            mean, first, found = torch.zeros_like(params[name]), 0, False
            for beyond in sorted({rank for _, rank, _ in senders}):  # ranks that the same clients have, together
                have = [({name: ranks_of(name, v, first, beyond)}, w) for v, rank, w in senders if rank >= beyond]
                part = rule([item for item, _ in have], [weight for _, weight in have])
                if part:
                    ranks_of(name, mean, first, beyond).copy_(part[name])
                    found = True
                first = beyond
            if found:
                delta[name] = mean
        return delta


def _product_norm(a: Tensor, b: Tensor) -> float:
    """||B A||_F without the product: its square is the sum of the entries of (B^T B) * (A A^T), both r by r."""
    a, b = a.double(), b.double()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())
