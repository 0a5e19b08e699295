"""What a worker group takes of the cluster. Light: whoever only hands groups out need not import what trains."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcit_ray.config.runtime import Runtime
    from fcit_ray.config.schema import Config


@dataclass(frozen=True)
class Shape:
    """What a worker group takes of the cluster.

    Attributes:
        num_workers: in it.
        cpus: of each.
        gpu: whether each has one.
    """

    num_workers: int
    cpus: float
    gpu: bool

    @property
    def kind(self) -> tuple[float, bool]:
        """Of its workers: those of one kind can do each other's work."""
        return (self.cpus, self.gpu)

    @classmethod
    def of(cls, runtime: "Runtime") -> "Shape":
        return cls(runtime.num_workers, runtime.cpus_per_worker, runtime.gpu)


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
