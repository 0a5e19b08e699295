"""Local rules: what a client adds to its own optimiser's steps. Adding nothing is plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fcit_ray.registry import build
from fcit_ray.types import ClientUpdate, Params, Setting, Tree

if TYPE_CHECKING:
    from fcit_ray.algorithm import Algorithm
    from fcit_ray.client import LocalRun


@dataclass(frozen=True, kw_only=True)
class LocalRule:
    """Base of all local rules; what they remember, at the server or at the client, is passed in and returned."""

    def init(self, params: Params) -> Tree:
        """The server's memory before the first round."""
        return {}

    def brief(self, memory: Tree, params: Params) -> Tree:
        """What a client that is sent `params` is told of the server's memory; it counts as traffic."""
        return {}

    def start(self, run: LocalRun) -> Any:
        """Client, before the first step: whatever the hooks below want to keep during this run."""
        return None

    def penalty(self, run: LocalRun) -> Tensor | float:
        """Client, every step: added to the loss."""
        return 0.0

    def after_step(self, run: LocalRun, extra: Any, rates: Mapping[str, float]) -> None:
        """Client, after each optimiser step, with the learning rates that the step used, by parameter."""

    def report(self, run: LocalRun, extra: Any) -> tuple[Tree, Tree]:
        """Client, at the end: what the server wants, and what the client keeps for next time."""
        return {}, run.job.memory.get("local", {})

    def absorb(self, memory: Tree, updates: Sequence[ClientUpdate], setting: Setting) -> Tree:
        """Server, after a round: its memory with what the clients reported (`update.local`)."""
        return memory

    def conflict(self, algorithm: Algorithm) -> str | None:
        """Why this rule makes no sense with the rest of the algorithm, or None."""
        return None


@dataclass(frozen=True, kw_only=True)
class Plain(LocalRule):
    """Nothing is added: local AdamW as FCIT's clients run it."""


LOCAL_RULES: dict[str, type[LocalRule]] = {"plain": Plain}


def make_local_rule(values: Mapping[str, Any]) -> LocalRule:
    """The rule of a configuration's `local` section; `ConfigError` says which key is wrong."""
    return build("local", LocalRule, LOCAL_RULES, values)
