"""One micro-batch of a client's step, and the sum over them: the same bits whoever computes which, and in what order.

Each micro-batch's draws (dropout) are seeded by job, step and micro-batch, and gradients are added in the order of the
micro-batches in float32, as one process accumulates them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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
from fcit_ray.types import ClientJob, Params, Setting


@dataclass(frozen=True)
class Part:
    """What came of one micro-batch.

    Attributes:
        loss: its share of the step's.
        gradients: by name, of what is trained and has one.
    """

    loss: float
    gradients: Params


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
