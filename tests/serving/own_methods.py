"""Methods of a user's own, some of which do not say how they answer."""

from dataclasses import dataclass

from fcit_ray.federated.method import Method
from fcit_ray.methods.disco import Disco


@dataclass(frozen=True, kw_only=True)
class Silent(Method):
    """Weighs adapters without saying so as data."""

    def gate(self, knowledge, features, num_adapters):
        return features.new_full((len(features), num_adapters), 0.5)


@dataclass(frozen=True, kw_only=True)
class Otherwise(Disco):
    """Inherits what DISCO says of a gate that it does not have any more."""

    def gate(self, knowledge, features, num_adapters):
        return super().gate(knowledge, features, num_adapters).flip(1)
