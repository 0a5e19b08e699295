"""Server optimisers: what the server makes of a round's combined delta D, entry by entry.

Source: FedAvg, McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS
2017, arXiv 1602.05629, Algorithm 1. FedAvgM, Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution
for Federated Visual Classification", 2019, arXiv 1909.06335. FedAdagrad, FedYogi and FedAdam, Reddi et al., "Adaptive
Federated Optimization", ICLR 2021, arXiv 2003.00295, Algorithm 2. OpenFedLLM, Ye et al., KDD 2024, arXiv 2402.06954,
ran all of them on LoRA, in formulas of its own: hence the variants.

What differs from the released code, on purpose:
* moments are kept for each parameter by itself, from the first round that changes it. A name that is absent from D
  (DISCO's subspaces that nobody trained) neither moves nor has its moments decay; there, every name takes every step.
* how D is averaged is the configuration's `weights`, not the optimiser's. OpenFedLLM weighs clients by their samples
  for FedAvgM and all alike for the three adaptive ones; so their `variant: openfedllm` is refused with
  `weights: samples`, the default, rather than silently being another algorithm. FedAvgM takes either: `uniform` is
  never a default, who sets it means it.
* OpenFedLLM's allow-list spells FedAdagrad "fedadgrad" and so cannot run it.
* Flower scales FedAdam's rate by sqrt(1 - b2^(t+1)) / (1 - b1^(t+1)), t from 1, which is Adam's bias correction one
  round late; Reddi et al. have none, and neither has this.

A new stage. What becomes of the moments when the task changes is undefined everywhere in the literature (FCIT offers
these optimisers and never runs them), so `at_new_stage` is a proposal of ours: `reset` forgets them, so that a stage
is optimised as the first one was and hyper-parameters mean the same in each; `keep` carries them on. All reset by
default, each for a reason that its docstring gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fcit_ray.federated.traits import Part, Promised, Trait, Traits
from fcit_ray.params import add
from fcit_ray.types import Params, Tree


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer(Part):
    """Base of all server optimisers; what they remember is passed in and returned."""

    promised: ClassVar[Promised] = {Trait.ADDS_DELTA: ("step",)}

    def init(self, params: Params) -> Tree:
        """The optimiser's memory before the first round."""
        return {}

    def step(self, params: Params, delta: Params, memory: Tree) -> tuple[Params, Tree]:
        """New global parameters; names absent from `delta` keep their value."""
        raise NotImplementedError

    def new_stage(self, params: Params, memory: Tree) -> Tree:
        """The memory with which a new stage begins."""
        return memory


@dataclass(frozen=True, kw_only=True)
class FedAvg(ServerOptimizer):
    """x <- x + mean delta (McMahan et al., AISTATS 2017, arXiv 1602.05629, Algorithm 1)."""

    declares = frozenset({Trait.ADDS_DELTA})

    def step(self, params: Params, delta: Params, memory: Tree) -> tuple[Params, Tree]:
        return add(params, delta), memory


@dataclass(frozen=True, kw_only=True)
class _WithMoments(ServerOptimizer):
    """An optimiser that remembers moments by parameter: {name: {"m": ..., "v": ...}}, of names that ever moved."""

    at_new_stage: Literal["keep", "reset"] = "reset"

    def step(self, params: Params, delta: Params, memory: Tree) -> tuple[Params, Tree]:
        moves = {name: self.move(change, memory.get(name, {})) for name, change in delta.items()}
        after = add(params, {name: move for name, (move, _) in moves.items()})
        return after, {**memory, **{name: moments for name, (_, moments) in moves.items()}}

    def move(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to one parameter whose combined delta is `change`, and its moments; `old` is {} at first."""
        raise NotImplementedError

    def new_stage(self, params: Params, memory: Tree) -> Tree:
        return memory if self.at_new_stage == "keep" else self.init(params)


@dataclass(frozen=True, kw_only=True)
class FedAvgM(_WithMoments):
    """FedAvg with momentum: x <- x + lr m. In both variants a parameter's first m is D, which is FedAvg's step.

    The variants are two scalings of one idea, 1 / (1 - b1) apart when D does not change. Both are plain (heavy-ball)
    momentum. With beta1 0, both are FedAvg to the bit.

    Attributes:
        variant: `openfedllm`: m <- b1 m + (1 - b1) D, a mean of deltas. `flower`: m <- b1 m + D, a sum of them.
        beta1: share of the momentum that is kept. Flower's own default, 0, is FedAvg; here it is 0.9 in both.
        lr: the server's learning rate; OpenFedLLM has none, which is 1.
        at_new_stage: `reset`, because m points to where the last task pulled: kept, and by 0.9, the new stage's first
            delta would weigh a tenth of it, and a stage has few rounds.
    """

    variant: Literal["openfedllm", "flower"] = "openfedllm"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    lr: Annotated[float, Field(gt=0)] = 1.0

    def move(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        share = 1 - self.beta1 if self.variant == "openfedllm" else 1.0
        m = self.beta1 * old["m"] + share * change if old else change
        return self.lr * m, {"m": m}


@dataclass(frozen=True, kw_only=True)
class _Adaptive(_WithMoments):
    """x <- x + lr m / (sqrt(v) + tau), v being fed with D^2, or with m^2 in OpenFedLLM's variant.

    Attributes:
        variant: `reddi`: v <- ... D^2, and m starts at zero: first (1 - b1) D. `openfedllm`: v <- ... m^2, and m is D
            in the first round; D is the plain mean, so it wants `weights: uniform`.
        lr: eta; null takes the source's: OpenFedLLM's 1e-3, chosen for LoRA, or Flower's for `reddi`, chosen for
            whole models: where deltas are large against tau, a round moves every entry by about this much, so 0.1 is a
            lot for a LoRA factor that starts at a spread of 0.01.
        tau: degree of adaptivity; entries whose sqrt(v) is far below it are not scaled up.
        v0: v before the first round; null takes tau^2, the least that Reddi et al. admit. Flower starts at 0.
    """

    declares = frozenset({Trait.WANTS_EQUAL_CLIENTS})
    reddi_lr: ClassVar[float]

    variant: Literal["openfedllm", "reddi"] = "reddi"
    lr: Annotated[float, Field(gt=0)] | None = None
    tau: Annotated[float, Field(gt=0)] = 1e-3
    v0: Annotated[float, Field(ge=0)] | None = None

    @property
    def traits(self) -> Traits:
        return super().traits if self.variant == "openfedllm" else super().traits - {Trait.WANTS_EQUAL_CLIENTS}

    def first_moment(self, change: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        """m after this round."""
        raise NotImplementedError

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """v after a round that feeds it with `square`."""
        raise NotImplementedError

    def move(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        paper = self.variant == "reddi"
        m = self.first_moment(change, old)
        before = old["v"] if old else torch.full_like(change, self.tau**2 if self.v0 is None else self.v0)
        v = self.second_moment(before, (change if paper else m).square())
        lr = (self.reddi_lr if paper else 1e-3) if self.lr is None else self.lr
        return lr * m / (v.sqrt() + self.tau), {"m": m, "v": v}


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(_Adaptive):
    """m = D, v <- v + D^2: no momentum, so the variants differ only in the learning rate and in the weights.

    A delta of zero never moves anything. Attributes as in the other two; `at_new_stage` is `reset`, because v only
    ever grows: kept, a task would be learned in steps that are the smaller the later it comes in the stream.
    """

    reddi_lr: ClassVar[float] = 0.1

    def first_moment(self, change: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        return change

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v + square

    def move(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        move, moments = super().move(change, old)
        return move, {"v": moments["v"]}  # no m to remember


@dataclass(frozen=True, kw_only=True)
class _WithDecay(_Adaptive):
    """m <- b1 m + (1 - b1) D, and a v that b2 slows down.

    Attributes:
        beta1: b1.
        beta2: b2.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99

    def first_moment(self, change: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        if old:
            return self.beta1 * old["m"] + (1 - self.beta1) * change
        return change if self.variant == "openfedllm" else (1 - self.beta1) * change


@dataclass(frozen=True, kw_only=True)
class FedYogi(_WithDecay):
    """v <- v - (1 - b2) D^2 sign(v - D^2): v moves towards D^2 by an amount that does not depend on v.

    Attributes as in `_Adaptive` and `_WithDecay`; `at_new_stage` is `reset`, because v shrinks only by (1 - b2) D^2 a
    round: kept after a stage of large deltas, it would hold the next stage of small ones back to its end.
    """

    reddi_lr: ClassVar[float] = 0.01

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)


@dataclass(frozen=True, kw_only=True)
class FedAdam(_WithDecay):
    """v <- b2 v + (1 - b2) D^2.

    Attributes as in `_Adaptive` and `_WithDecay`; `at_new_stage` is `reset`, because v remembers 1 / (1 - b2) = 100
    rounds, more than a stage has, and m points to where the last task pulled.
    """

    reddi_lr: ClassVar[float] = 0.1

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * square
