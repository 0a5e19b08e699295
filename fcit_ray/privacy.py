"""What the server does for its clients' privacy: clipping, noise. By default nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fcit_ray.registry import build
from fcit_ray.types import Client, ClientUpdate

if TYPE_CHECKING:
    from fcit_ray.algorithm import Algorithm


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Base of all privacy rules; overriding nothing changes nothing."""

    def hide(self, clients: Sequence[Client], seed: int) -> list[Client]:
        """The clients as the server may see them (their identity tokens, that is); `seed` is the run's."""
        return list(clients)

    def clip(self, updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
        """The updates, each bounded in what it can change."""
        return list(updates)

    def noise(self, delta: Mapping[str, Tensor], updates: Sequence[ClientUpdate], seed: int) -> dict[str, Tensor]:
        """The combined delta with noise; `seed` is the round's."""
        return dict(delta)

    def conflict(self, algorithm: Algorithm) -> str | None:
        """Why this rule makes no sense with the rest of the algorithm, or None."""
        return None


@dataclass(frozen=True, kw_only=True)
class NoPrivacy(Privacy):
    """Nothing is clipped, nothing is noised, identity tokens travel in the clear, as in FCIT."""


PRIVACY: dict[str, type[Privacy]] = {"none": NoPrivacy}


def make_privacy(values: Mapping[str, Any]) -> Privacy:
    """The rule of a configuration's `privacy` section; `ConfigError` says which key is wrong."""
    return build("privacy", Privacy, PRIVACY, values)
