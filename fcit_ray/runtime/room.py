"""Whether workers can ever be placed on the cluster that is there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import ray

from fcit_ray.runtime.cluster import may_grow


@dataclass(frozen=True)
class Room:
    """What the nodes of a cluster have; CPUs that other programs hold count as free: they come back.

    Attributes:
        nodes: resources of each, by kind.
    """

    nodes: Sequence[Mapping[str, float]]

    @classmethod
    def here(cls) -> Self | None:
        """Of the cluster this process is connected to; None where it may grow, and so nothing can be said."""
        return None if may_grow() else cls([node["Resources"] for node in ray.nodes() if node["Alive"]])

    @property
    def cpus(self) -> float:
        """In all."""
        return sum(node.get("CPU", 0.0) for node in self.nodes)

    def places(self, cpus: float, gpu: bool, most: int) -> int:
        """How many workers of so many CPUs each, and a GPU each or none, find room; at most `most` a node."""
        return sum(
            min(math.floor(node.get("CPU", 0.0) / cpus + 1e-9), math.floor(node.get("GPU", 0.0)) if gpu else most)
            for node in self.nodes
        )

    def __str__(self) -> str:
        gpus = sum(node.get("GPU", 0.0) for node in self.nodes)
        return f"the cluster has {self.cpus:g} CPUs and {gpus:g} GPUs on {len(self.nodes)} node(s)"
