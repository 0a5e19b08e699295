"""How the adapters of a layer are weighed: by the sample's gate alone, or by a route that a method gives.

Legend: B samples, L tokens, K adapters, r rank of each.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from fcit_ray.models.names import adapter_name

Route = Callable[[str, Tensor, Tensor | None], Tensor | None]
"""Weights of the adapters in one layer: its module path, its input (B, L, in) and the samples' gate (B, K), if any, to
(B, L, K) or (B, 1, K); None adds all adapters with weight one."""


class Gating:
    """The weights of a bank's adapters while a batch passes, and the hooks that apply them.

    Args:
        num_adapters: K.
        rank: r.
        paths: module path of every module.
    """

    def __init__(self, num_adapters: int, rank: int, paths: Mapping[nn.Module, str]):
        self._num_adapters = num_adapters
        self._rank = rank
        self._paths = paths
        self._route: Route | None = None
        self._weights: dict[nn.Module, Tensor | None] = {}
        self._gate: Tensor | None = None
        self._packed_gate: Tensor | None = None

    def route_by(self, route: Route, layers: list[Any]) -> None:
        """Let `route` weigh the adapters in every layer, instead of the gate alone."""
        assert self._route is None, "one route a bank"
        self._route = route
        for module in layers:
            module.register_forward_pre_hook(self._weigh_layer)
            for k in range(self._num_adapters):
                module.lora_A[adapter_name(k)].register_forward_hook(self._scale_by(module, k))

    def hook_packed(self, layer: Any, packed: str) -> None:
        """Weigh the packed adapter of a layer."""
        hook = self._weigh if self._route is None else self._scale_by(layer, None)
        layer.lora_A[packed].register_forward_hook(hook)

    def set(self, gate: Tensor | None) -> None:
        """The gate of the samples that pass next, (B, K); None adds all with weight one."""
        self._gate = gate
        self._packed_gate = None if gate is None else gate.repeat_interleave(self._rank, dim=1)[:, None]  # (B, 1, K*r)

    def _weigh(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return None if self._packed_gate is None else output * self._packed_gate  # (B, L, K*r)

    def _weigh_layer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert self._route is not None
        self._weights[module] = self._route(self._paths[module], inputs[0], self._gate)  # (B, L or 1, K)

    def _scale_by(self, module: nn.Module, adapter: int | None) -> Callable[..., Tensor | None]:
        """A hook for the A of one adapter, or of the packed ones, that weighs its output as the layer's route says."""

        def scale(a: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            weights = self._weights[module]
            if weights is None:
                return None
            if adapter is None:
                return output * weights.repeat_interleave(self._rank, dim=2)  # (B, L, K*r)
            return output * weights[:, :, adapter : adapter + 1]  # (B, L, r)

        return scale
