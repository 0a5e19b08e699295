"""The clients' LoRAs as pairs of factors, for rules that look at the product B A rather than at A and B alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fcit_ray.models.names import layer_of, lora_factor, partner, residual_of
from fcit_ray.params import Lazy
from fcit_ray.types import ClientUpdate, Params


@dataclass(frozen=True)
class Pairs:
    """One LoRA as the clients that trained it have it now.

    Attributes:
        a: name of its A, (r, in).
        b: name of its B, (out, r).
        shares: the clients' weights, summing to one; clients of weight zero are not among them.
        factors: their values (A_k, B_k) after training, float32; made when they are asked for.
    """

    a: str
    b: str
    shares: list[float]
    factors: Sequence[tuple[Tensor, Tensor]]

    @property
    def residual(self) -> str:
        """Name of the matrix beside the layer's weight, (out, in)."""
        return residual_of(layer_of(self.a))


class _Factors(Sequence[tuple[Tensor, Tensor]]):
    """The factors of several clients, a client's at a time in memory."""

    def __init__(self, a: str, b: str, clients: Sequence[tuple[Params, Params]]):
        self._a, self._b = a, b
        self._clients = clients

    def __len__(self) -> int:
        return len(self._clients)

    def __getitem__(self, index: Any) -> Any:
        start, delta = self._clients[index]
        return start[self._a] + delta[self._a], start[self._b] + delta[self._b]


def without_factors(params: Params) -> Params:
    """What is no LoRA factor: the projector, and what a method added."""
    return Lazy([name for name in params if lora_factor(name) is None], params.__getitem__)


def pairs(given: Sequence[Params], updates: Sequence[ClientUpdate], weights: Sequence[float]) -> Iterator[Pairs]:
    """Every LoRA that somebody of weight above zero sent, in the order of the first to send it.

    Args:
        given: what each client started from; only the factors are looked at.
        updates: in the order of the sums.
        weights: of each update.
    """
    names = dict.fromkeys(name for update in updates for name in update.delta if lora_factor(name) == "A")
    for a in names:
        b = partner(a)
        senders = [
            (weight, (start, update.delta))
            for start, update, weight in zip(given, updates, weights, strict=True)
            if a in update.delta and weight
        ]
        total = sum(weight for weight, _ in senders)
        if senders:
            factors = _Factors(a, b, [client for _, client in senders])
            yield Pairs(a, b, [weight / total for weight, _ in senders], factors)
