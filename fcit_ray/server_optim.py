"""Server optimisers: what the server makes of a round's mean delta."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcit_ray.params import add
from fcit_ray.registry import build
from fcit_ray.types import Params, Tree

if TYPE_CHECKING:
    from fcit_ray.algorithm import Algorithm


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer:
    """Base of all server optimisers; what they remember is passed in and returned."""

    def init(self, params: Params) -> Tree:
        """The optimiser's memory before the first round."""
        return {}

    def step(self, params: Params, delta: Params, memory: Tree) -> tuple[Params, Tree]:
        """New global parameters; names absent from `delta` keep their value."""
        raise NotImplementedError

    def new_stage(self, params: Params, memory: Tree) -> Tree:
        """The memory with which a new stage begins."""
        return memory

    def conflict(self, algorithm: "Algorithm") -> str | None:
        """Why this optimiser makes no sense with the rest of the algorithm, or None."""
        return None


@dataclass(frozen=True, kw_only=True)
class FedAvg(ServerOptimizer):
    """x <- x + mean delta (McMahan et al., AISTATS 2017, arXiv 1602.05629, Algorithm 1)."""

    def step(self, params: Params, delta: Params, memory: Tree) -> tuple[Params, Tree]:
        return add(params, delta), memory


SERVER_OPTIMIZERS: dict[str, type[ServerOptimizer]] = {"fedavg": FedAvg}


def make_server_optimizer(values: Mapping[str, Any]) -> ServerOptimizer:
    """The optimiser of a configuration's `server` section; `ConfigError` says which key is wrong."""
    return build("server", ServerOptimizer, SERVER_OPTIMIZERS, values)
