"""A federated continual algorithm: one choice on each of the axes that cross freely, and what does not cross."""

from dataclasses import dataclass
from typing import Any

from fcit_ray.config.schema import Config, ConfigError
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.local_optim import LocalRule, make_local_rule
from fcit_ray.federated.method import Method
from fcit_ray.federated.privacy import make_privacy
from fcit_ray.federated.robust import make_rule
from fcit_ray.federated.server_optim import ServerOptimizer, make_server_optimizer
from fcit_ray.lora import make_lora_rule
from fcit_ray.methods import make_method


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


def make_algorithm(config: Config) -> Algorithm:
    """The algorithm of a configuration.

    Raises:
        ConfigError: a section's name or key is wrong, or two choices make no sense together.
    """
    algorithm = Algorithm(
        method=make_method(config.method),
        local=make_local_rule(config.local),
        server=make_server_optimizer(config.server),
        aggregation=Aggregation(
            weights=config.weights,
            lora=make_lora_rule(config.lora),
            rule=make_rule(config.robust),
            privacy=make_privacy(config.privacy),
        ),
        clients_per_round=config.benchmark.clients_per_round if config.regime == "federated" else None,
        public_selection=config.benchmark.selection == "released",
    )
    aggregation = algorithm.aggregation
    axes: dict[str, Any] = {
        "method": algorithm.method,
        "local": algorithm.local,
        "server": algorithm.server,
        "lora": aggregation.lora,
        "robust": aggregation.rule,
        "privacy": aggregation.privacy,
    }
    reasons = {key: part.conflict(algorithm) for key, part in axes.items()}
    if found := [f"{key}.name: {reason}" for key, reason in reasons.items() if reason]:
        raise ConfigError("\n".join(found))
    return algorithm
