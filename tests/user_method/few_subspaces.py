"""DISCO that answers with the few nearest subspaces only: a method of a user's own, outside the package."""

from dataclasses import dataclass

from torch import Tensor

from fcit_ray.methods.disco import Disco
from fcit_ray.types import Tree


@dataclass(frozen=True, kw_only=True)
class FewSubspaces(Disco):
    """The softmax over similarities, without all but the `num_mixed` nearest; with all of them it is DISCO."""

    num_mixed: int = 2

    def gate(self, knowledge: Tree, features: Tensor, num_adapters: int) -> Tensor | None:
        weights = super().gate(knowledge, features, num_adapters)
        if weights is None:
            return None
        nearest = weights.topk(min(self.num_mixed, num_adapters), dim=1)
        kept = weights.new_zeros(weights.shape).scatter(1, nearest.indices, nearest.values)
        return kept / kept.sum(1, keepdim=True)
