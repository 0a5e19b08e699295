"""A federated continual algorithm: one choice on each of the axes that cross freely."""

from dataclasses import dataclass

from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.local_optim import LocalRule
from fcit_ray.federated.method import Method
from fcit_ray.federated.server_optim import ServerOptimizer
from fcit_ray.federated.traits import Part, Trait, Traits


@dataclass(frozen=True)
class Algorithm:
    """What the clients and the server of a run do.

    Attributes:
        method: the continual method.
        local: what a client adds to its steps.
        server: what the server makes of the combined delta.
        aggregation: how the clients' deltas are combined.
        clients_per_round: how many deltas there are to combine; None if the run is no federation.
        public_selection: whether anybody can tell which clients a round has, without the run's seed.
    """

    method: Method
    local: LocalRule
    server: ServerOptimizer
    aggregation: Aggregation
    clients_per_round: int | None = None
    public_selection: bool = False

    @property
    def parts(self) -> dict[str, Part]:
        """The part chosen on each axis, by the section of a configuration that chooses it."""
        return {
            "method": self.method,
            "local": self.local,
            "server": self.server,
            "lora": self.aggregation.lora,
            "robust": self.aggregation.rule,
            "privacy": self.aggregation.privacy,
        }

    @property
    def traits(self) -> Traits:
        """What is so whatever the parts are."""
        own = {
            Trait.WEIGHS_BY_SAMPLES: self.aggregation.weights == "samples",
            Trait.KNOWN_SELECTION: self.public_selection,
        }
        return frozenset(trait for trait, so in own.items() if so)
