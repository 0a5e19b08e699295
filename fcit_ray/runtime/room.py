"""Whether workers can ever be placed on the cluster that is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import ray

from fcit_ray.errors import ConfigError
from fcit_ray.runtime.blocks import CPUS_PER_TASK
from fcit_ray.runtime.cluster import may_grow
from fcit_ray.runtime.shape import Shape


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

    def has(self, name: str) -> float:
        """Of a resource in all, by Ray's name."""
        return sum(node.get(name, 0.0) for node in self.nodes)

    def places(self, alike: Shape) -> int:
        """How many workers of a shape without groups find room; as many as it has are looked for on each node."""
        return sum(alike.places(node, alike.num_workers) for node in self.nodes)

    def __str__(self) -> str:
        return f"the cluster has {self.cpus:g} CPUs and {self.has('GPU'):g} GPUs on {len(self.nodes)} node(s)"


def refuse_crowding(shape: Shape, room: Room) -> None:
    """Refuse workers that can never be placed.

    Groups are looked at one by one and by what they take in all; whether all of them find their nodes at once is left
    to Ray, as a guess that says no would be worse than a wait.

    Raises:
        ConfigError: names the keys to change.
    """
    for number, part in enumerate(shape.parts):
        at = f"runtime.worker_groups[{number}]" if shape.groups else "runtime"
        if room.places(part) < part.num_workers:
            raise ConfigError(
                f"{at}.num_workers: {part.num_workers} workers of {part.each} find no room: {_with(part, room)}. "
                f"Lower {at}.num_workers or {_what_they_take(part, at)}"
            )
    if shape.groups:
        for name in sorted({name for part in shape.parts for name in part.resources}):
            taken = sum(part.num_workers * part.resources.get(name, 0.0) for part in shape.parts)
            if taken > room.has(name) + 1e-9:
                raise ConfigError(
                    f"runtime.worker_groups: all groups together take {taken:g} {name}: {shape} find no room: {room}, "
                    f"{room.has(name):g} {name} in all. Lower num_workers of a group, or what each of its workers takes"
                )
    cpus = sum(part.num_workers * part.cpus for part in shape.parts)
    if cpus + CPUS_PER_TASK > room.cpus + 1e-9:
        what = f"{shape.num_workers} workers of {shape.cpus:g} CPUs" if not shape.groups else f"workers ({shape})"
        raise ConfigError(
            f"runtime.cpus_per_worker: {what} leave less "
            f"than {CPUS_PER_TASK:g} CPU to read data with: {room}. "
            "Lower runtime.cpus_per_worker (a share of a CPU will do) or runtime.num_workers"
            + (", in runtime.worker_groups" if shape.groups else "")
        )


def _with(part: Shape, room: Room) -> str:
    """What there is, with the resources that the part asks for by name."""
    return ", ".join([str(room), *(f"{room.has(name):g} {name} in all" for name, _ in part.custom)])


def _what_they_take(part: Shape, at: str) -> str:
    keys = ["cpus_per_worker", *(["gpus_per_worker"] if part.gpu and part.share < 1 else [])]
    keys += ["resources_per_worker"] if part.custom else []
    return " or ".join(f"{at}.{key}" for key in keys)
