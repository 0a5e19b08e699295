"""A client's step shared among workers: its leader hands out micro-batches, computes some itself, and has the sum.

The leader keeps all else: optimiser, schedule, what the local rule does after a step, the report. As no micro-batch's
bits depend on who computes it, the step's do not either.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fcit_ray.federated.local_optim import LocalRule
from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.method import Method
from fcit_ray.federated.micro_batch import OrderedSum, Part, micro_batch_part
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Params, Tree


@dataclass(frozen=True)
class Step:
    """A step that others may help with.

    Attributes:
        number: from 0, over all epochs.
        values: of what is trained, at which its gradients are taken; on the CPU, by name.
        local: what the local rule's `pause` gave before it.
        shares: how much each micro-batch weighs in the loss.
        open: the micro-batches that are not computed yet.
        left: share of the client's records that come after this step.
        each: share of the client's records of one micro-batch.
    """

    number: int
    values: Params
    local: Tree
    shares: Sequence[float]
    open: tuple[int, ...]
    left: float
    each: float


@dataclass(frozen=True)
class Turn:
    """What a leader does next in a step that it shares.

    Attributes:
        number: the micro-batch that it computes; None: none, those that are not here yet are others'.
        parts: of others, that have arrived since. Neither number nor part: the step is not shared any more.
    """

    number: int | None
    parts: Mapping[int, Part]


class Team(Protocol):
    """The workers of a round as the leader of one client sees them.

    Attributes:
        exchange_s: seconds that the leader has spent on handing out and fetching, and on waiting for others.
    """

    exchange_s: float

    def wanted(self) -> bool:
        """Whether somebody may want to help now; asked before each micro-batch, so it takes no time."""
        ...

    def post(self, step: Step) -> None:
        """Let others help with a step; the one before is over."""
        ...

    def turn(self, done: int | None) -> Turn:
        """What to do next; waits while there is nothing to do and nothing has arrived.

        Args:
            done: the micro-batch of the step that the leader has computed since the last call.
        """
        ...


def share_out(
    sums: OrderedSum, compute: Callable[[int], Part], post: Callable[[Team, tuple[int, ...]], None], team: Team | None
) -> int:
    """Have all micro-batches of a step computed, here and by others.

    Args:
        sums: takes the parts; complete at the end.
        compute: a micro-batch, here.
        post: shares the step, of which these micro-batches are not computed yet.
        team: who may help; None: nobody.

    Returns:
        How many came from others.
    """
    waiting = list(sums.numbers)
    by_others = 0
    posted = False
    done: int | None = None
    while not sums.complete:
        if not posted and team is not None and len(waiting) > 1 and team.wanted():
            post(team, tuple(waiting))
            posted = True
        if posted and team is not None:
            turn = team.turn(done)
            by_others += sum(sums.add(number, part) for number, part in turn.parts.items())
            done, number = None, turn.number
            if number is None:
                if not turn.parts:  # nobody else will compute what is missing
                    posted, team = False, None
                    waiting = [number for number in sums.numbers if number not in sums.losses]
                continue
        else:
            number = waiting.pop(0)
        sums.add(number, compute(number))
        done = number
    return by_others


def step_sum(
    run: LocalRun,
    method: Method,
    local: LocalRule,
    extra: Any,
    micro_batches: Sequence[dict[str, Tensor]],
    shares: Sequence[float],
    step: int,
    total: int,
    team: Team | None = None,
) -> tuple[OrderedSum, int]:
    """Gradients and losses of one step, with the help of others where they want to.

    Args:
        run: as `set_up` made it.
        method, local, extra: see `micro_batch_part`.
        micro_batches: of the step, collated.
        shares: how much each weighs; one of none is left out.
        step: from 0, over all epochs.
        total: steps in all.
        team: who may help; None: nobody.

    Returns:
        The sum, and how many of its parts came from others.
    """

    def compute(number: int) -> Part:
        return micro_batch_part(run, method, local, extra, micro_batches[number], shares[number], step, number)

    def post(to: Team, waiting: tuple[int, ...]) -> None:
        each = 1 / total / len(micro_batches)
        counted = local.pause(run, extra)
        to.post(Step(step, current(run), counted, shares, waiting, 1 - (step + 1) / total, each))

    sums = OrderedSum([number for number, share in enumerate(shares) if share], run.bank.device)
    by_others = share_out(sums, compute, post, team)
    # What hooks may draw from here on does not depend on who computed the last micro-batch.
    torch.manual_seed(derive_seed(run.job.seed, "step", step))
    return sums, by_others


def current(run: LocalRun) -> dict[str, Tensor]:
    """Values of what is trained, as they are now: a copy on the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in run.trained.items()}


@torch.no_grad()
def take_over(run: LocalRun, local: LocalRule, extra: Any, values: Params, state: Tree) -> None:
    """Put a helper where the leader is: its values, and what its local rule has counted."""
    for name, parameter in run.trained.items():
        parameter.copy_(values[name])
    local.go_on(run, extra, state)
