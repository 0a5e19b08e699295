"""A client's step as a sum over micro-batches, computed by one worker or by several: the same bits.

Each micro-batch's draws (dropout) are seeded by job, step and micro-batch, and gradients are added in the order of the
micro-batches in float32, as one process accumulates them. So it does not matter who computes which, nor what its
process did before. The leader keeps all else: optimiser, schedule, what the local rule does after a step, the report.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fcit_ray.config.schema import Train
from fcit_ray.data.loading.batches import Batches
from fcit_ray.federated.local_optim import LocalRule
from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.federated.method import Method
from fcit_ray.models.bank import AdapterBank
from fcit_ray.seeds import derive_seed
from fcit_ray.types import ClientJob, Params, Setting, Tree


@dataclass(frozen=True)
class Part:
    """What came of one micro-batch.

    Attributes:
        loss: its share of the step's.
        gradients: by name, of what is trained and has one.
    """

    loss: float
    gradients: Params


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


def set_up(
    job: ClientJob,
    batches: Batches,
    bank: AdapterBank,
    train: Train,
    setting: Setting,
    local: LocalRule,
    lora: LoraRule,
) -> tuple[LocalRun, Any]:
    """Put a bank where the client's training begins: the same for who leads it and for who helps.

    Returns:
        What hooks may see, and what the local rule keeps during the run.
    """
    torch.manual_seed(job.seed)
    start = {**lora.give(job.params, job.client), **job.memory.get("personal", {})}
    bank.load(start)
    trained = bank.activate(job.assignment, with_projector=train.projector_lr > 0, trains=lora.trains)
    run = LocalRun(
        job=job,
        setting=setting,
        bank=bank,
        start=start,
        trained=trained,
        memory=job.memory.get("method", {}),
        batches=batches,
    )
    extra = local.start(run)
    bank.recompute(train.gradient_checkpointing)
    bank.model.train()
    return run, extra


def micro_batch_part(
    run: LocalRun,
    method: Method,
    local: LocalRule,
    extra: Any,
    batch: dict[str, Tensor],
    share: float,
    step: int,
    number: int,
) -> Part:
    """Loss and gradients of one micro-batch at the bank's present values.

    Args:
        run: as `set_up` made it.
        method: its `forward` and `loss` run here.
        local: its `penalty` runs here.
        extra: what `local.start` gave.
        batch: the micro-batch, collated.
        share: how much it weighs in its step's loss.
        step: from 0, over all epochs.
        number: of the micro-batch in its step.

    Raises:
        FloatingPointError: the loss is not finite; names stage, round, client and step.
    """
    torch.manual_seed(derive_seed(run.job.seed, "dropout", step, number))
    for parameter in run.trained.values():
        parameter.grad = None
    loss = method.loss(run, batch, method.forward(run, batch)) + local.penalty(run, extra)
    check_finite("loss", loss, run.job, step)
    part = loss * share
    part.backward()
    gradients = {name: parameter.grad for name, parameter in run.trained.items() if parameter.grad is not None}
    for parameter in run.trained.values():
        parameter.grad = None
    return Part(part.item(), gradients)


@dataclass
class OrderedSum:
    """Gradients added in the order of their micro-batches, whatever order they come in.

    Attributes:
        numbers: the micro-batches that make the sum, in order.
        device: where it is formed.
        total: of those added so far, by name; one that no micro-batch has a gradient for is absent.
        losses: the shares of the loss, by micro-batch.
    """

    numbers: Sequence[int]
    device: torch.device
    total: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    _ahead: dict[int, Part] = field(default_factory=dict)
    _added: int = 0

    @property
    def complete(self) -> bool:
        return self._added == len(self.numbers)

    def add(self, number: int, part: Part) -> bool:
        """Take a part; False if it was there already, as of a micro-batch that two have computed."""
        if number in self.losses:
            return False
        self.losses[number] = part.loss
        self._ahead[number] = part
        while not self.complete and (ready := self._ahead.pop(self.numbers[self._added], None)) is not None:
            for name, gradient in ready.gradients.items():
                if name in self.total:
                    self.total[name].add_(gradient.to(self.device))
                else:
                    self.total[name] = gradient.to(self.device)
            self._added += 1
        return True


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


def check_finite(what: str, value: Tensor, job: ClientJob, step: int) -> None:
    """Stop a client whose loss or gradient is no number.

    Raises:
        FloatingPointError: names stage, round, client and step.
    """
    if not torch.isfinite(value):
        raise FloatingPointError(
            f"{what} is {value.item()} in stage {job.stage}, round {job.round}, client {job.client.index}, "
            f"step {step}; lower train.lr or train.max_grad_norm"
        )
