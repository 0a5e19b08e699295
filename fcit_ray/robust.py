"""Rules over clients: from their deltas to one. The weighted mean trusts everybody; the others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fcit_ray.params import weighted_mean
from fcit_ray.registry import build
from fcit_ray.types import Params

if TYPE_CHECKING:
    from fcit_ray.algorithm import Algorithm


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Base of all rules over clients."""

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        """One mapping from several; each name over the items that have it, absent if none has."""
        raise NotImplementedError

    def conflict(self, algorithm: Algorithm) -> str | None:
        """Why this rule makes no sense with the rest of the algorithm, or None."""
        return None


@dataclass(frozen=True, kw_only=True)
class Mean(Rule):
    """Weighted mean (FedAvg, McMahan et al., AISTATS 2017, arXiv 1602.05629)."""

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        return weighted_mean(items, weights)


RULES: dict[str, type[Rule]] = {"mean": Mean}


def make_rule(values: Mapping[str, Any]) -> Rule:
    """The rule of a configuration's `robust` section; `ConfigError` says which key is wrong."""
    return build("robust", Rule, RULES, values)
