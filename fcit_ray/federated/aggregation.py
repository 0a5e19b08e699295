"""From a round's updates to one delta: clip, combine the LoRA factors by a rule over clients, add noise.

Where that is a mean, name by name, it may be a running sum: `Fold` takes the updates as they come.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fcit_ray.federated.lora.base import FactorAverage, LoraRule
from fcit_ray.federated.privacy import DpFedAvg, NoPrivacy, Privacy
from fcit_ray.federated.robust import Mean, Rule
from fcit_ray.params import RunningMean, weights_by_name
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

    def combine(
        self, params: Params, updates: Sequence[ClientUpdate], seed: int, mean: Params | None = None
    ) -> dict[str, Tensor]:
        """The change of the global values, in the order of the updates' sums.

        Args:
            params: the global values.
            updates: in their order.
            seed: the round's.
            mean: what `fold` has made of the deltas already; they are not looked at then, but for their names.
        """
        if mean is None:
            updates = self.privacy.clip(updates)
            weights = [self.weight(update.client) for update in updates]
            mean = self.lora.combine(params, updates, weights, self.rule.combine, seed)
        return self.privacy.noise(mean, updates, seed)

    def weight(self, client: Client) -> float:
        """How much a client counts."""
        return float(client.num_examples) if self.weights == "samples" else 1.0

    def fold(self, clients: Sequence[Client], sent: Sequence[Collection[str]]) -> "Fold | None":
        """A running sum of a round's deltas with the bits of `combine`; None where that is no mean, name by name.

        Args:
            clients: of the round, in their order.
            sent: names of the parameters that each sends the change of.
        """
        kinds = (
            (self.rule, "combine", Mean),
            (self.lora, "combine", LoraRule),
            (self.privacy, "clip", Privacy, DpFedAvg),  # of these two each update is clipped by itself
            (self.privacy, "noise", Privacy, DpFedAvg),
        )
        for part, hook, *known in kinds:
            if not any(getattr(type(part), hook) is getattr(kind, hook) for kind in known):
                return None
        return Fold(self, RunningMean(weights_by_name(sent, [self.weight(client) for client in clients])))


@dataclass
class Fold:
    """A running sum of deltas (`Aggregation.fold`)."""

    aggregation: Aggregation
    running: RunningMean

    def add(self, update: ClientUpdate) -> None:
        """The next update, in the order of the clients."""
        [clipped] = self.aggregation.privacy.clip([update])
        self.running.add(clipped.delta, self.aggregation.weight(update.client))

    def mean(self) -> dict[str, Tensor]:
        """What `Aggregation.combine` takes, once all have been added that will be; over those."""
        return self.running.mean()
