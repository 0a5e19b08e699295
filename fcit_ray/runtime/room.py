"""Whether workers can ever be placed on the cluster that is there."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import ray

from fcit_ray.config.schema import Config
from fcit_ray.errors import ConfigError
from fcit_ray.runtime.blocks import CPUS_PER_TASK
from fcit_ray.runtime.cluster import inside_ray, may_grow
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
        """How many workers of a shape without groups find room, of those that it has."""
        return min(alike.num_workers, sum(alike.places(node, alike.num_workers) for node in self.nodes))

    def __str__(self) -> str:
        return f"the cluster has {self.cpus:g} CPUs and {self.has('GPU'):g} GPUs on {len(self.nodes)} node(s)"


def refuse_crowding(shape: Shape, room: Room) -> None:
    """Refuse workers that can never be placed, of those that the run begins with.

    Groups are looked at one by one and by what they take in all; whether all of them find their nodes at once is left
    to Ray, as a guess that says no would be worse than a wait.

    Raises:
        ConfigError: names the keys to change.
    """
    for number, part in enumerate(shape.parts):
        at = f"runtime.worker_groups[{number}]" if shape.groups else "runtime"
        key = f"{at}.{'num_workers' if part.min_workers is None else 'min_workers'}"
        if room.places(part.first) < part.first.num_workers:
            raise ConfigError(
                f"{key}: {part.first.num_workers} workers of {part.each} find no room: {_with(part, room)}. "
                f"Lower {key} or {_what_they_take(part, at)}"
            )
    key = "num_workers" if all(part.min_workers is None for part in shape.parts) else "min_workers"
    shape = shape.first
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
            f"Lower runtime.cpus_per_worker (a share of a CPU will do) or runtime.{key}"
            + (", in runtime.worker_groups" if shape.groups else "")
        )


def may_join(
    shape: Shape, there: Collection[int], room: Room | None, at_most: float = math.inf
) -> Iterator[tuple[int, Shape]]:
    """Of the workers that a run does not wait for, those to ask Ray for now: the rank of each, and its part.

    On a cluster that may grow all of them, as nobody brings a node that is not asked for; else those that find room
    once nobody else is there. What data is read with stays free: without it nobody could train.

    Args:
        shape: of all workers.
        there: ranks of those that have been asked for already.
        room: of the cluster; None where it may grow.
        at_most: CPUs that it has then.
    """
    cpus = (at_most if room is None else room.cpus) - CPUS_PER_TASK
    cpus -= sum(part.num_workers * part.cpus for part in shape.first.parts)
    cpus -= sum(part.cpus for rank, part in shape.others() if rank in there)
    for first, part in shape.ranked():
        places = part.num_workers if room is None else room.places(part)
        for rank in range(first + part.first.num_workers, first + places):
            if rank not in there and part.cpus <= cpus + 1e-9:
                cpus -= part.cpus
                yield rank, part


def never_joining(config: Config) -> str:
    """A warning where workers can never join: the cluster is this command's own, and too small; empty if they can."""
    shape, room = Shape.of(config.runtime), Room.here()
    if room is None or not getattr(inside_ray("worker", "_global_node"), "head", False):
        return ""
    fit = shape.first.num_workers + sum(1 for _ in may_join(shape, (), room))
    if fit == shape.num_workers:
        return ""
    return (
        f"runtime.num_workers: {fit} of {shape.num_workers} workers find room, and no node can join a cluster that a "
        f"command has for itself ({room}): the run goes on with {fit}. `ray start --head` begins one that nodes join"
    )


def _with(part: Shape, room: Room) -> str:
    """What there is, with the resources that the part asks for by name."""
    return ", ".join([str(room), *(f"{room.has(name):g} {name} in all" for name, _ in part.custom)])


def _what_they_take(part: Shape, at: str) -> str:
    keys = ["cpus_per_worker", *(["gpus_per_worker"] if part.gpu and part.share < 1 else [])]
    keys += ["resources_per_worker"] if part.custom else []
    return " or ".join(f"{at}.{key}" for key in keys)
