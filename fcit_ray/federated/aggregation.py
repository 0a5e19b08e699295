"""From a round's updates to one delta: clip, combine the LoRA factors by a rule over clients, add noise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fcit_ray.federated.lora.base import FactorAverage, LoraRule
from fcit_ray.federated.privacy import NoPrivacy, Privacy
from fcit_ray.federated.robust import Mean, Rule
from fcit_ray.types import Client, ClientUpdate, Params


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """The server's way from deltas to one; by default FedAvg's weighted mean of everything.

    Attributes:
        weights: a client counts by its number of samples, or all alike.
        lora: what is done with the two factors of a LoRA.
        rule: how several clients' values become one.
        privacy: clipping and noise.
    """

    weights: Literal["samples", "uniform"] = "samples"
    lora: LoraRule = field(default_factory=FactorAverage)
    rule: Rule = field(default_factory=Mean)
    privacy: Privacy = field(default_factory=NoPrivacy)

    def hide(self, clients: Sequence[Client], seed: int) -> list[Client]:
        """The clients as the server may see them."""
        return self.privacy.hide(clients, seed)

    def combine(self, params: Params, updates: Sequence[ClientUpdate], seed: int) -> dict[str, Tensor]:
        """The change of the global values, in the order of the updates' sums; `seed` is the round's."""
        clipped = self.privacy.clip(updates)
        weights = [float(u.client.num_examples) if self.weights == "samples" else 1.0 for u in clipped]
        delta = self.lora.combine(params, clipped, weights, self.rule.combine, seed)
        return self.privacy.noise(delta, clipped, seed)
