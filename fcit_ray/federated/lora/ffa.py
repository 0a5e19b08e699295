"""FFA-LoRA: A is drawn once and frozen for ever; only B is trained.

Source: Sun, Li, Li, Ding, "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv 2403.12313.

As A is the same everywhere, sum p_k B_k A = (sum p_k B_k) A: the average of the factors is the average of the products,
and what noise is added to B enters the model linearly, never squared.

What differs from common code, on purpose: nothing can unfreeze A, since what a client trains is chosen by name in every
round (with PEFT, what is frozen before the adapters are made is trained after all).
"""

from dataclasses import dataclass

from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.models.names import lora_factor
from fcit_ray.params import num_bytes
from fcit_ray.types import Client, Params


@dataclass(frozen=True, kw_only=True)
class FFA(LoraRule):
    """FFA-LoRA; it has no hyper-parameters.

    Bytes of a layer of (in, out) in a round, for each client: 4 r out down and 4 r out up. A does not travel: a client
    draws it from the run's seed and the parameter's name, as every worker's bank does.
    """

    def trains(self, name: str) -> bool:
        return lora_factor(name) != "A"

    def bytes_down(self, params: Params, client: Client) -> int:
        return num_bytes({name: value for name, value in params.items() if self.trains(name)})
