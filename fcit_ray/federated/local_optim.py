"""Local rules: what a client adds to its own optimiser's steps. Adding nothing is plain.

Source: FedProx, Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127.
SCAFFOLD, Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, arXiv
1910.06378, Algorithm 1 with option II for the client's control variate. Both ran on LoRA in OpenFedLLM, Ye et al.,
KDD 2024, arXiv 2402.06954.

What differs from the released code (OpenFedLLM), on purpose:
* SCAFFOLD divides by the sum of the learning rates that the steps really used, each parameter's own (adapters and
  projector have different ones, and a schedule); there, by the configured steps times one constant rate, which is
  wrong whenever epochs end training or the rate changes. Each step's correction uses that step's rate.
* SCAFFOLD's control variates are kept by parameter: what a client does not train (DISCO's other subspaces) has none
  from it, and keeps what it had.
Flower's docstring of FedProx shows the norm without its square; its code and this have the square.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.traits import Implied, Part, Trait
from fcit_ray.types import ClientUpdate, Params, Setting, Tree


@dataclass(frozen=True, kw_only=True)
class LocalRule(Part):
    """Base of all local rules; what they remember, at the server or at the client, is passed in and returned."""

    implied: ClassVar[Implied] = {("init",): Trait.STEERS_VALUES, ("absorb",): Trait.LEARNS_FROM_REPORTS}

    reads_deltas: ClassVar[bool] = True
    """As in `Method`."""

    def init(self, params: Params) -> Tree:
        """The server's memory before the first round."""
        return {}

    def brief(self, memory: Tree, params: Params) -> Tree:
        """What a client that is sent `params` is told of the server's memory; it counts as traffic."""
        return {}

    def start(self, run: LocalRun) -> Any:
        """Client, before the first step: whatever the hooks below want to keep during this run."""
        return None

    def penalty(self, run: LocalRun, extra: Any) -> Tensor | float:
        """Client, every step: added to the loss (and to the losses that are logged); `extra` is what `start` gave."""
        return 0.0

    def after_step(self, run: LocalRun, extra: Any, rates: Mapping[str, float]) -> None:
        """Client, after each optimiser step, with the learning rates that the step used, by parameter."""

    def pause(self, run: LocalRun, extra: Any) -> Tree:
        """Client, between two steps: what the steps so far have made of `extra`, so that `go_on` can put it back."""
        return {}

    def go_on(self, run: LocalRun, extra: Any, kept: Tree) -> None:
        """Client, instead of the steps that an earlier attempt at this update took: what `pause` gave after them."""

    def report(self, run: LocalRun, extra: Any) -> tuple[Tree, Tree]:
        """Client, at the end: what the server wants, and what the client keeps for next time."""
        return {}, run.job.memory.get("local", {})

    def absorb(self, memory: Tree, updates: Sequence[ClientUpdate], setting: Setting) -> Tree:
        """Server, after a round: its memory with what the clients reported (`update.local`)."""
        return memory


@dataclass(frozen=True, kw_only=True)
class Plain(LocalRule):
    """Nothing is added: local AdamW as FCIT's clients run it."""


@dataclass(frozen=True, kw_only=True)
class FedProx(LocalRule):
    """Adds (mu / 2) * ||theta - theta_global||^2 to the loss, over everything trained, the projector included.

    Its gradient, mu (theta - theta_global), pulls back to where the round began; AdamW sees it as part of the
    gradient, so the pull is relative to the task's gradient, not a fixed step. Of what a client keeps to itself, the
    anchor is the client's own value.

    Attributes:
        mu: strength; 0 is plain. OpenFedLLM's default.
    """

    mu: Annotated[float, Field(ge=0)] = 0.01

    def start(self, run: LocalRun) -> Any:
        """The anchor by name, where the model is."""
        return {name: run.start[name].to(parameter.device) for name, parameter in run.trained.items()}

    def penalty(self, run: LocalRun, extra: Any) -> Tensor | float:
        if not self.mu:
            return 0.0
        squares = [(parameter - extra[name]).square().sum() for name, parameter in run.trained.items()]
        return self.mu / 2 * torch.stack(squares).sum()


@dataclass
class _Drift:
    """What SCAFFOLD keeps during one run.

    Attributes:
        correction: c - c_k by name, where the model is; a name is absent while both are zero.
        rates: sum of the learning rates used so far, by name.
    """

    correction: dict[str, Tensor]
    rates: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Scaffold(LocalRule):
    """SCAFFOLD: every step is corrected by how the client's direction differs from the federation's.

    After each optimiser step of rate lr, theta <- theta - lr (c - c_k). At the end, with x where the round began and
    R the sum of the rates, c_k <- (x - theta) / R - (c - c_k); the server adds to c the sum of all changes of c_k,
    divided by the number of all clients, selected or not, so c is the mean of everybody's c_k at all times. Both start
    at zero: a first round is plain, to the bit. c_k is the client's `memory` and outlives rounds and stages.

    With AdamW, (x - theta) / R is no mean gradient but a pseudo-gradient: the mean direction that AdamW (clipping and
    weight decay included) took per unit of rate, its entries mostly between -1 and 1 whatever the loss's scale. The
    correction is in the same units and bypasses AdamW's own scaling, so it can be as large as a step. The paper's
    analysis is of SGD at a constant rate and does not cover this.

    Across stages, c and the c_k of clients that have not trained since still speak of earlier tasks; that they are kept
    is OpenFedLLM's rule for rounds, extended to stages (proposal: FCIT never runs SCAFFOLD).

    Privacy: what a client sends beside its delta is a linear function of it, so it tells an honest server nothing new,
    but also undoes whatever hides or bounds the delta; so clipping and noise are refused, as are rules that bound what
    one client can do (c is a plain mean). The c_k lie in the server's checkpoint, as all clients' memories do here.

    Traffic: c travels with the parameters and the change of c_k with the delta: about twice FedAvg's.
    """

    declares = frozenset({Trait.STEERS_VALUES, Trait.LEARNS_FROM_REPORTS, Trait.SENDS_VARIATES})
    reads_deltas = False

    def init(self, params: Params) -> Tree:
        """`c` by name; a name is absent while it is zero."""
        return {"c": {}}

    def brief(self, memory: Tree, params: Params) -> Tree:
        """c of what travels; nothing while it is zero."""
        shared = {name: value for name, value in memory["c"].items() if name in params}
        return {"c": shared} if shared else {}

    def start(self, run: LocalRun) -> Any:
        shared, own = run.job.local.get("c", {}), run.job.memory.get("local", {}).get("c", {})
        correction = {}
        for name, parameter in run.trained.items():
            if name in shared or name in own:
                zero = torch.zeros_like(run.start[name])
                correction[name] = (shared.get(name, zero) - own.get(name, zero)).to(parameter.device)
        return _Drift(correction, dict.fromkeys(run.trained, 0.0))

    @torch.no_grad()
    def after_step(self, run: LocalRun, extra: Any, rates: Mapping[str, float]) -> None:
        for name in extra.rates:
            extra.rates[name] += rates[name]
        for name, correction in extra.correction.items():
            run.trained[name].sub_(correction, alpha=rates[name])

    def pause(self, run: LocalRun, extra: Any) -> Tree:
        """The sums of the rates used so far; what else `start` gave follows from the job."""
        return {"rates": dict(extra.rates)}

    def go_on(self, run: LocalRun, extra: Any, kept: Tree) -> None:
        extra.rates.update(kept["rates"])

    def report(self, run: LocalRun, extra: Any) -> tuple[Tree, Tree]:
        """The change of c_k of what was trained; c_k of that, and of what was trained before, for next time."""
        old = run.job.memory.get("local", {}).get("c", {})
        new = {}
        for name, parameter in run.trained.items():
            new[name] = (run.start[name] - parameter.detach().cpu().float()) / extra.rates[name]
            if name in extra.correction:
                new[name] -= extra.correction[name].cpu()
        change = {name: value - old[name] if name in old else value for name, value in new.items()}
        return {"c": change}, {"c": {**old, **new}}

    def absorb(self, memory: Tree, updates: Sequence[ClientUpdate], setting: Setting) -> Tree:
        """c <- c + (1/K) sum of the changes, K all clients; a name that nobody trained keeps its c."""
        c: dict[str, Tensor] = dict(memory["c"])
        for update in updates:
            for name, change in update.local["c"].items():
                share = change / setting.num_clients
                c[name] = c[name] + share if name in c else share
        return {"c": c}
