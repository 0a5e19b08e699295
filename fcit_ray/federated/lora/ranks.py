"""Clients of unequal rank: a client of rank r_k has the first r_k rows of every A and columns of every B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.federated.traits import Trait, Traits
from fcit_ray.models.names import lora_factor
from fcit_ray.params import Lazy
from fcit_ray.types import Client, ClientUpdate, Params


@dataclass(frozen=True, kw_only=True)
class UnequalRanks(LoraRule):
    """Base of the rules whose clients may have fewer ranks than the server.

    The other rows and columns are zero at the client. They stay so: the gradient of a row of A is a product with the
    column of B, which is zero, and the other way round; AdamW's step is zero where gradient and value have always been.
    All clients share the bank's scaling alpha / rank whatever their r_k, so their raw products B_k A_k may be averaged.

    With a number of in + out weights in a layer, a client of rank r_k is sent and sends 4 r_k (in + out) bytes of it.

    Attributes:
        ranks: of each adapter, by client index, repeated from the beginning for further clients; none: all are full.
            None may exceed the rank of the bank's adapters.
    """

    declares = frozenset({Trait.UNEQUAL_RANKS})

    ranks: tuple[Annotated[int, Field(ge=1)], ...] = ()

    @property
    def traits(self) -> Traits:
        return super().traits if self.ranks else super().traits - {Trait.UNEQUAL_RANKS}

    def misfit(self, rank: int) -> str | None:
        if self.ranks and max(self.ranks) > rank:
            return f"lora.ranks: {max(self.ranks)} exceeds the rank of an adapter, {rank}"
        return None

    def give(self, params: Params, client: Client) -> Params:
        """The global values, with zeros in the ranks that this client does not have."""
        return {
            name: cut(name, value, self._rank(name, value, client)) if lora_factor(name) else value
            for name, value in params.items()
        }

    def bytes_down(self, params: Params, client: Client) -> int:
        return sum(self._bytes(name, value, client) for name, value in params.items())

    def bytes_up(self, update: ClientUpdate) -> int:
        return sum(self._bytes(name, value, update.client) for name, value in update.delta.items())

    def _given(self, params: Params, updates: Sequence[ClientUpdate]) -> list[Params]:
        """What each client started from, of the factors."""
        names = [name for name in params if lora_factor(name)]

        def given(client: Client) -> Params:
            return Lazy(names, lambda name: self.give({name: params[name]}, client)[name])

        return [given(update.client) for update in updates]

    def _rank(self, name: str, value: Tensor, client: Client) -> int:
        """Rows (of an A) or columns (of a B) of this parameter that a client has."""
        full = full_rank(name, value)
        return min(self.ranks[client.index % len(self.ranks)], full) if self.ranks else full

    def _bytes(self, name: str, value: Tensor, client: Client) -> int:
        size = value.numel() * value.element_size()
        if lora_factor(name) is None:
            return size
        return size // full_rank(name, value) * self._rank(name, value, client)


def full_rank(name: str, value: Tensor) -> int:
    """Ranks of a factor: rows of an A, columns of a B."""
    return value.shape[0 if lora_factor(name) == "A" else 1]


def ranks_of(name: str, value: Tensor, first: int, beyond: int) -> Tensor:
    """A view of a factor's ranks `first` to `beyond` (excluded): rows of an A, columns of a B."""
    return value[first:beyond] if lora_factor(name) == "A" else value[:, first:beyond]


def cut(name: str, value: Tensor, rank: int) -> Tensor:
    """A factor with zeros from `rank` on; the value itself if nothing is cut."""
    full = full_rank(name, value)
    if rank >= full:
        return value
    short = value.clone()
    ranks_of(name, short, rank, full).zero_()
    return short
