"""How answers weigh the adapters, as data: what a program that knows no method can follow (an export's loader).

Legend: B samples, L tokens, D features, K adapters, U remembered vectors (U <= K).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Activation = Literal["softmax", "argmax", "cosine"]


@dataclass(frozen=True)
class SimilarityGate:
    """Each sample weighs adapter u by its feature's likeness to vector u; further adapters weigh nothing.

    Attributes:
        remembered: (U, D), float32.
        activation: `softmax` of the cosines over the temperature, `argmax` (the nearest alone), or `cosine`.
        temperature: of the softmax; of no account elsewhere.
        layers: module paths of the layers where the gate acts, while all others add every adapter with weight one;
            None is all of them.
    """

    remembered: Tensor
    activation: Activation
    temperature: float = 1.0
    layers: frozenset[str] | None = None


@dataclass(frozen=True)
class ConstantGate:
    """The same weights for every sample, in every layer, (K,)."""

    weights: tuple[float, ...]


@dataclass(frozen=True)
class RouterGate:
    """Each token x is weighed in every layer by softmax(W x).

    Attributes:
        routers: W, (K, inputs), by the layer's module path.
    """

    routers: Mapping[str, Tensor]


PortableGate = SimilarityGate | ConstantGate | RouterGate
