"""How LoRA factors are trained, sent and combined. The average of factors is not the average of their products."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fcit_ray.federated.traits import Implied, Part, Promised, Trait, Traits
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.names import adapter_name
from fcit_ray.params import num_bytes
from fcit_ray.types import Client, ClientUpdate, Params, Tree

Combine = Callable[[Sequence[Params], Sequence[float]], dict[str, Tensor]]
"""A rule over clients (mean, median ...): items and their weights to one mapping; each name over who has it."""


@dataclass(frozen=True, kw_only=True)
class LoraRule(Part):
    """Base of all LoRA rules; overriding nothing averages each factor on its own, as FedAvg does.

    The server's values are `params`; a client starts from `give(params, client)`, trains the names that `trains`
    admits, keeps those that `stays` names and sends the change of the others.
    """

    implied: ClassVar[Implied] = {
        ("combine",): Trait.OTHER_COMBINATION,
        ("stays",): Trait.KEEPS_FACTORS,
        ("give",): Trait.UNEQUAL_RANKS,
    }
    promised: ClassVar[Promised] = {Trait.PLAIN_FACTORS: ("install", "give", "trains", "stays", "combine", "views")}

    @property
    def traits(self) -> Traits:
        """What the class declares, and whether A is trained, which `trains` says by itself."""
        if self.trains(f"layer.lora_A.{adapter_name(0)}.weight"):
            return self.declares
        return self.declares | {Trait.FREEZES_A}

    def install(self, bank: AdapterBank) -> None:
        """Once, when a bank is made: parameters that the rule needs beside the adapters."""
        if Trait.ADDS_RESIDUAL in self.traits:
            bank.add_residuals()

    def give(self, params: Params, client: Client) -> Params:
        """What a client makes of the global values that were sent to it (e.g. fewer ranks)."""
        return params

    def trains(self, name: str) -> bool:
        """Whether clients train this parameter (of those their assignment names)."""
        return True

    def stays(self, name: str) -> bool:
        """Whether a client keeps its own value of this parameter and sends nothing of it."""
        return False

    def combine(
        self, params: Params, updates: Sequence[ClientUpdate], weights: Sequence[float], rule: Combine, seed: int
    ) -> dict[str, Tensor]:
        """Server: one delta of the global values from the clients' (names that nobody sent are absent).

        Args:
            params: the global values; a client's own are `give` of them plus its delta.
            updates: in the order of the sums.
            weights: of each update, at least 0, not summing to one.
            rule: how several clients' values become one.
            seed: the round's, for rules that draw.
        """
        return rule([update.delta for update in updates], weights)

    def views(self, params: Params, memories: Tree) -> dict[str, Params]:
        """The models to evaluate, by name: the global one, called "", or one for each client that has its own.

        Args:
            params: the global values.
            memories: the clients' memories by client index, as in `ServerState`.
        """
        return {"": params}

    def bytes_down(self, params: Params, client: Client) -> int:
        """Bytes that bring a client the values of its job, had it kept what cannot have changed since the start."""
        return num_bytes(params)

    def bytes_up(self, update: ClientUpdate) -> int:
        """Bytes of a client's answer."""
        return num_bytes(update.delta)

    def misfit(self, rank: int) -> str | None:
        """Why this rule cannot work on adapters of this rank, or None."""
        return None


@dataclass(frozen=True, kw_only=True)
class FactorAverage(LoraRule):
    """A and B averaged each on its own (FedIT/Shepherd, Zhang et al., ICASSP 2024, arXiv 2305.05644; FCIT).

    The product of the averages is not the average of the products: exact only if all clients agree on A or on B.
    """

    declares = frozenset({Trait.PLAIN_FACTORS})
