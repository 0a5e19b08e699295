"""What a worker group takes of the cluster. Light: whoever only hands groups out need not import what trains."""

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcit_ray.config.runtime import Runtime
    from fcit_ray.config.schema import Config

FIRST_RANK, SHARE, ALONE = "first_rank", "gpu_share", "alone"
"""Keys of a worker's context: the rank of its group's first worker among all; its share of a GPU (1: all of it); and,
where it is in no group, that: then `FIRST_RANK` is its own."""


@dataclass(frozen=True)
class Shape:
    """What a run's workers take of the cluster.

    Attributes:
        num_workers: in all.
        cpus: of each.
        gpu: whether each has one, or a share.
        share: of a GPU, where they have any.
        custom: other resources of each, by Ray's name.
        groups: what they consist of where they differ: then `num_workers` alone is of all.
        min_workers: that must be placed before the run begins; None: all.
    """

    num_workers: int
    cpus: float
    gpu: bool
    share: float = 1.0
    custom: tuple[tuple[str, float], ...] = ()
    groups: tuple["Shape", ...] = ()
    min_workers: int | None = None

    @property
    def parts(self) -> tuple["Shape", ...]:
        """Groups of equal workers."""
        return self.groups or (self,)

    def ranked(self) -> Iterator[tuple[int, "Shape"]]:
        """The parts, each with the rank of its first worker among all."""
        first = 0
        for part in self.parts:
            yield first, part
            first += part.num_workers

    @property
    def first(self) -> "Shape":
        """Of the workers that the run begins with."""
        groups = tuple(first for part in self.groups if (first := part.first).num_workers)
        least = self.num_workers if self.min_workers is None else self.min_workers
        least = sum(part.num_workers for part in groups) if groups else least
        return replace(self, num_workers=least, groups=groups, min_workers=None)

    @property
    def first_ranks(self) -> list[int]:
        """Of the workers that the run begins with: in each part they come first."""
        return [rank for first, part in self.ranked() for rank in range(first, first + part.first.num_workers)]

    def others(self) -> Iterator[tuple[int, "Shape"]]:
        """The workers that the run does not wait for: the rank of each, and its part."""
        for first, part in self.ranked():
            for rank in range(first + part.first.num_workers, first + part.num_workers):
                yield rank, part

    @property
    def kind(self) -> Hashable:
        """Of its workers: those of one kind can do each other's work."""
        if self.groups:
            return tuple((part.num_workers, part.kind) for part in self.groups)
        return (self.cpus, self.gpu, self.share, self.custom)

    @property
    def resources(self) -> dict[str, float]:
        """Of each worker, by Ray's names; of a shape without groups."""
        return {"CPU": self.cpus, **({"GPU": self.share} if self.gpu else {}), **dict(self.custom)}

    @property
    def each(self) -> str:
        """What a worker takes, in words."""
        words = [f"{self.cpus:g} CPUs"]
        if self.gpu:
            words.append("a GPU" if self.share == 1 else f"{self.share:g} of a GPU")
        return " and ".join(words + [f"{amount:g} {name}" for name, amount in self.custom])

    def __str__(self) -> str:
        return ", ".join(f"{part.num_workers} of {part.each}" for part in self.parts)

    def places(self, node: Mapping[str, float], most: int) -> int:
        """How many workers find room on a node, `most` at the most; of a shape without groups.

        Args:
            node: what it has, by Ray's names.
            most: as many as are wanted.
        """
        others = [("CPU", self.cpus), *self.custom]
        found = [most, *(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in others)]
        if self.gpu:  # a share is one of a single GPU
            found.append(math.floor(node.get("GPU", 0.0)) * math.floor(1 / self.share + 1e-9))
        return min(found)

    @classmethod
    def of(cls, runtime: "Runtime") -> "Shape":
        custom = tuple(sorted(runtime.resources_per_worker.items()))
        alike = cls(
            runtime.num_workers, runtime.cpus_per_worker, runtime.gpu, runtime.gpus_per_worker, custom,
            min_workers=runtime.min_workers,
        )  # fmt: skip
        groups = tuple(
            replace(
                alike,
                num_workers=group.num_workers,
                min_workers=group.min_workers,
                cpus=alike.cpus if group.cpus_per_worker is None else group.cpus_per_worker,
                share=alike.share if group.gpus_per_worker is None else group.gpus_per_worker,
                custom=custom if (own := group.resources_per_worker) is None else tuple(sorted(own.items())),
            )
            for group in runtime.worker_groups
        )
        return replace(alike, groups=groups)


def base_key(config: "Config") -> tuple[Any, ...]:
    """What the base of a run is loaded by: runs of one key can have one after the other."""
    model = config.model
    return (model.path, model.dtype, model.attention, model.quantize, config.runtime.gpu)


def too_many_deaths(most: int, ranks: Any) -> str:
    """Why a run ends whose workers have died too often."""
    return (
        f"workers died more than runtime.max_worker_failures={most} times, "
        f"at last worker {', '.join(map(str, ranks))} (killed, or out of memory?)"
    )
