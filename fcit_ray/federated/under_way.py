"""A client's update while it is under way: how far it is, and what it takes to go on with it to the same bits.

Between two steps that is: the values trained so far, the optimiser's moments, and what the local rule has counted. All
else follows from the job, the draws too, which are seeded by step and micro-batch. It is kept as checkpoints are: plain
files, checksummed.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fcit_ray.federated.local_optim import LocalRule
from fcit_ray.federated.local_run import LocalRun
from fcit_ray.params import params_sha256
from fcit_ray.types import ServerState

_TELL_S = 0.5
_DRAWS = "dropout by micro-batch"
"""How draws are seeded: what was kept when they followed one another could not go on to the same bits."""

Tell = Callable[[int, int], None]
"""Told the steps taken and the steps in all."""


def nobody(done: int, total: int) -> None:
    """Nobody wants to know."""


_log = logging.getLogger(__name__)


@dataclass
class UnderWay:
    """What `run_client` tells, and where it keeps what it has done so far.

    Attributes:
        tell: called about twice a second.
        keep: called with what the update needs to go on, every `keep_s` seconds; None keeps nothing.
        kept: what an earlier attempt at this update kept, if there was one.
        keep_s: seconds of training between two states.
        clock: seconds, monotonic; replaced in tests.
    """

    tell: Tell = nobody
    keep: Callable[[ServerState], None] | None = None
    kept: ServerState | None = None
    keep_s: float = 600.0
    clock: Callable[[], float] = time.monotonic
    _start: str = ""
    _seconds: float = 0.0
    _told: float = field(default=float("-inf"))
    _kept: float = 0.0
    _began: float = 0.0

    def begin(
        self, run: LocalRun, local: LocalRule, extra: Any, optimizer: torch.optim.Optimizer, total: int
    ) -> tuple[list[float], float]:
        """Put everything back to where an earlier attempt was; the caller sets learning rates.

        Returns:
            The losses of the steps that need not be taken again, and the seconds that those took.
        """
        self._began = self._kept = self.clock()
        if self.keep is None and self.kept is None:
            return [], 0.0
        if not can_go_on(local):
            _log.warning("%s counts over its steps and has no `pause`: its updates are not kept", type(local).__name__)
            self.keep = self.kept = None
            return [], 0.0
        if self.kept is None:
            return [], 0.0
        state = self.kept
        if self._mark(run, total) != state.knowledge["mark"] or state.params.keys() != run.trained.keys():
            _log.warning("what was kept of client %d's update is of another one, and is left", run.job.client.index)
            return [], 0.0
        with torch.no_grad():
            for name, parameter in run.trained.items():
                parameter.copy_(state.params[name])
                moments = state.optimizer[name]
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
                }
        local.go_on(run, extra, state.local)
        self._seconds = state.knowledge["seconds"]
        losses: list[float] = state.knowledge["losses"]
        _log.info("client %d's update goes on after step %d of %d", run.job.client.index, len(losses), total)
        return losses, self._seconds

    def step(
        self,
        run: LocalRun,
        local: LocalRule,
        extra: Any,
        optimizer: torch.optim.Optimizer,
        losses: Sequence[float],
        total: int,
    ) -> None:
        """After each step, with the losses of all so far."""
        now = self.clock()
        if now - self._told >= _TELL_S or len(losses) == total:
            self._told = now
            self.tell(len(losses), total)
        if self.keep is None or now - self._kept < self.keep_s or len(losses) == total:
            return
        self.keep(
            ServerState(
                stage=run.job.stage,
                round=run.job.round,
                params={name: parameter.detach().cpu() for name, parameter in run.trained.items()},
                optimizer={name: dict(optimizer.state[parameter]) for name, parameter in run.trained.items()},
                knowledge={
                    "mark": self._mark(run, total),
                    "losses": list(losses),
                    "seconds": self._seconds + now - self._began,
                },
                local=local.pause(run, extra),
                memories={},
            )
        )
        self._kept = self.clock()

    def _mark(self, run: LocalRun, total: int) -> list[Any]:
        """By which an update is known again: its job, and the values that it began with."""
        self._start = self._start or params_sha256(run.start)
        return [_DRAWS, *run.job.key, run.job.seed, run.job.client.num_examples, total, self._start]


def can_go_on(local: LocalRule) -> bool:
    """Whether all that the local rule counts over the steps can be kept."""
    return not local.overrides("after_step") or local.overrides("pause")
