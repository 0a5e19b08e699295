"""FedSA-LoRA: A is shared, B stays at the client.

Source: Guo, Zeng, Wang, Fan, Wang, Qu, "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR
2025, arXiv 2410.01463. A learns what is general, B what is a client's own; both are trained, A alone is averaged.

There is no global model: the global B is zero for ever. So evaluation asks every client's own model, made of the
global A and the client's B, and the score is the mean over the clients that have trained so far. Before anybody has,
the untrained global model answers.

What differs from the released code, on purpose: a client's B outlives the rounds in which it is not selected (it is
part of the server's checkpoint here, where a deployment would leave it on the client's disk).
"""

from __future__ import annotations

from dataclasses import dataclass

from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.federated.traits import Trait
from fcit_ray.models.names import lora_factor
from fcit_ray.params import Lazy, num_bytes
from fcit_ray.types import Client, Params, Tree


@dataclass(frozen=True, kw_only=True)
class FedSA(LoraRule):
    """FedSA-LoRA; it has no hyper-parameters.

    Bytes of a layer of (in, out) in a round, for each client: 4 r in down and 4 r in up; B never travels.
    """

    declares = frozenset({Trait.KEEPS_FACTORS})

    def stays(self, name: str) -> bool:
        return lora_factor(name) == "B"

    def views(self, params: Params, memories: Tree) -> dict[str, Params]:
        """`client_<index>`, in the order of the indices, for each client with a B of its own; else the global one."""
        own = {int(index): memory["personal"] for index, memory in memories.items() if "personal" in memory}

        def view(values: Params) -> Params:
            return Lazy({**params, **dict.fromkeys(values)}, lambda n: values[n] if n in values else params[n])

        views: dict[str, Params] = {f"client_{index}": view(own[index]) for index in sorted(own)}
        return views or super().views(params, memories)

    def bytes_down(self, params: Params, client: Client) -> int:
        return num_bytes({name: value for name, value in params.items() if not self.stays(name)})
