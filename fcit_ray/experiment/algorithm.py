"""The algorithm that a configuration chooses, if its parts make sense together."""

from fcit_ray.config.schema import Config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.components import make
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.crossing import reasons


def make_algorithm(config: Config) -> Algorithm:
    """The algorithm of a configuration.

    Raises:
        ConfigError: a section's name or key is wrong, or two choices make no sense together.
    """
    algorithm = Algorithm(
        method=make("method", config.method),
        local=make("local", config.local),
        server=make("server", config.server),
        aggregation=Aggregation(
            weights=config.weights,
            lora=make("lora", config.lora),
            rule=make("robust", config.robust),
            privacy=make("privacy", config.privacy),
        ),
        clients_per_round=config.benchmark.clients_per_round if config.regime == "federated" else None,
        public_selection=config.benchmark.selection == "released",
    )
    if found := reasons(algorithm):
        raise ConfigError("\n".join(f"{axis}.name: {reason}" for axis, reason in found.items()))
    return algorithm
