"""MoELoRA: a mixture of LoRA experts in every layer, weighed per token by a learned linear router.

Source: Chen, Zhu, Luo, Shen, Song, Gao, "CoIN: A Benchmark of Continual Instruction tuNing for Multimodel Large
Language Model", NeurIPS 2024, arXiv 2403.08350, https://github.com/zackschen/CoIN.

The bank's K adapters are the experts. In every layer y = W x + alpha/r * sum_e g_e(x) B_e A_e drop(x) with
g(x) = softmax(W_g x), one row of W_g per expert and no bias; r is the rank of all experts together, r/K each. Every
client trains all experts and all routers; there is no loss that balances the experts. One layer's router is not
another's.

What differs from the released code, on purpose:
* the router's weights start as N(0, 0.01^2), our choice: the source leaves them to its framework.
* it is federated: experts and routers are averaged over all clients, each tensor on its own.

Some later code (Prism's) computes (sum_e g_e B_e)(sum_e g_e A_e) x under the same name. That has products of one
expert's B with another's A, and is not what is done here.

Legend: B samples, L tokens, K experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear

from fcit_ray.federated.gates import PortableGate, RouterGate
from fcit_ray.federated.method import Method
from fcit_ray.federated.traits import Trait
from fcit_ray.models.bank import AdapterBank
from fcit_ray.types import Assignment, Client, Params, Setting, Tree


@dataclass(frozen=True, kw_only=True)
class MoELoRA(Method):
    """MoELoRA's hyper-parameters; the number of experts is the paper's.

    Attributes:
        num_experts: K, experts that the total rank is shared out over. With one, MoELoRA is Finetune.
        router_std: standard deviation of the routers' weights at the start; 0 starts with equal weights.
    """

    declares = frozenset({Trait.ROUTES_ADAPTERS})

    num_experts: Annotated[int, Field(ge=1)] = 8
    router_std: Annotated[float, Field(ge=0)] = 0.01

    def num_adapters(self, setting: Setting) -> int:
        return self.num_experts

    def install(self, bank: AdapterBank, setting: Setting) -> None:
        """A router (K, inputs) for every adapted layer: `<layer>.router.weight`, shared by all clients."""
        for layer, (inputs, _) in bank.layers.items():
            bank.add(f"{layer}.router.weight", (self.num_experts, inputs), std=self.router_std)

        def route(layer: str, x: Tensor, gate: Tensor | None) -> Tensor:
            return router_weights(bank.parameter(f"{layer}.router.weight"), x)

        bank.route_by(route)

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        """Everybody trains every expert."""
        return [Assignment(train=tuple(range(self.num_experts))) for _ in clients]

    def portable_gate(
        self, params: Params, knowledge: Tree, layers: Sequence[str], num_adapters: int
    ) -> PortableGate | None:
        return RouterGate({layer: params[f"{layer}.router.weight"] for layer in layers})


def router_weights(router: Tensor, x: Tensor) -> Tensor:
    """softmax(W_g x) over the experts, (K, inputs) and (B, L, inputs) -> (B, L, K), float32."""
    return torch.softmax(linear(x.float(), router).float(), dim=-1)
