"""One client's local training: the innermost loop, the same whoever calls it."""

import logging
import math
import time
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from fcit_ray.config.schema import Train
from fcit_ray.data.loading.batches import Batches, in_steps, num_steps
from fcit_ray.data.loading.collate import IGNORE_INDEX
from fcit_ray.federated.local_optim import LocalRule, Plain
from fcit_ray.federated.lora.base import FactorAverage, LoraRule
from fcit_ray.federated.method import Method
from fcit_ray.federated.micro_batch import check_finite, set_up
from fcit_ray.federated.sharing import Team, step_sum
from fcit_ray.federated.under_way import UnderWay, can_go_on
from fcit_ray.models.bank import AdapterBank
from fcit_ray.params import norm
from fcit_ray.types import ClientJob, ClientUpdate, Params, Setting

_log = logging.getLogger(__name__)


def learning_rate_factor(step: int, total: int, warmup_frac: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up from zero, then half a cosine to zero.

    Hugging Face's `get_cosine_schedule_with_warmup`, the warm-up rounded up to whole steps, as LLaVA-1.5 and FCIT
    train: the first step of a client and round, if it belongs to a warm-up, changes nothing. One thing differs on
    purpose: a client of a single step takes it at the peak rate. There it would send back what it was sent.
    """
    warmup = math.ceil(total * warmup_frac) if total > 1 else 0
    if step < warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def answer_shares(micro_batches: Sequence[dict[str, Tensor]]) -> list[float]:
    """How much the mean loss of each micro-batch weighs in its step's: its share of the answer tokens.

    Weighed so, means over tokens add up to the whole batch's, and what a method adds of its own stays as it is. Where
    no record has an answer all weigh the same.
    """
    if len(micro_batches) == 1:
        return [1.0]
    # The first token of a record is predicted by none.
    counts = [int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in micro_batches]
    total = sum(counts)
    return [count / total if total else 1 / len(counts) for count in counts]


def run_client(
    job: ClientJob,
    batches: Batches,
    bank: AdapterBank,
    method: Method,
    train: Train,
    setting: Setting,
    local: LocalRule | None = None,
    lora: LoraRule | None = None,
    under_way: UnderWay | None = None,
    team: Team | None = None,
) -> ClientUpdate:
    """Train the assigned adapters and the projector on one client's shard.

    Args:
        job: global values, assignment and seed.
        batches: what it trains on; called once for the training pass.
        bank: any bank of the run's shape; what it held before does not matter.
        method: its `loss` and `report` hooks run here.
        train: learning rates, epochs, schedule.
        setting: sizes of the whole run, for the hooks.
        local: what it adds to its steps; default nothing.
        lora: which factors it trains, and which of them it keeps; default both and neither.
        under_way: told of every step, and keeps what it takes to go on; default nobody is told, nothing is kept.
        team: who may compute micro-batches of its steps, to the same bits; default nobody.

    Returns:
        Local minus global values of what was trained, and `metrics`: loss (mean over steps), first_loss, last_loss,
        steps, delta_norm, seconds; where others helped, `shared`, the share of the micro-batches that they computed,
        and exchange_s, of the seconds those in which its leader waited for them or moved values.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; names stage, round, client and step.
    """
    began = time.perf_counter()
    local, lora = local or Plain(), lora or FactorAverage()
    run, extra = set_up(job, batches, bank, train, setting, local, lora)
    trained = run.trained
    groups = [
        {"params": [p for n, p in trained.items() if not bank.is_projector(n)], "lr": train.lr},
        {"params": [p for n, p in trained.items() if bank.is_projector(n)], "lr": train.projector_lr},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=train.weight_decay)
    total = num_steps(job.client.num_examples, train.batch_size, train.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total, train.warmup_frac)
    )
    rates = {name: train.projector_lr if bank.is_projector(name) else train.lr for name in trained}
    under_way = under_way or UnderWay()
    if team is not None and not can_go_on(local):
        _tell_not_shared(type(local).__name__)
        team = None
    by_others = in_all = 0
    losses, spent = under_way.begin(run, local, extra, optimizer, total)
    if losses:
        schedule.load_state_dict({**schedule.state_dict(), "last_epoch": len(losses), "_step_count": len(losses) + 1})
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(len(losses), total, train.warmup_frac)
    taken = len(losses)
    for number, micro_batches in enumerate(in_steps(batches(), job.client.num_examples, train.batch_size)):
        if number < taken:
            continue
        shares = answer_shares(micro_batches)
        sums, helped = step_sum(run, method, local, extra, micro_batches, shares, len(losses), total, team)
        by_others += helped
        in_all += len(micro_batches)
        for name, parameter in trained.items():
            # A projector that no record of the step has a picture for has a gradient, zero, as in LLaVA's code (which
            # gives such a record a blank picture): its moments go on, whatever the batches are cut into.
            gradient = sums.total.get(name)
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        # A finite loss may have no finite gradient, and after the last step no loss would tell.
        check_finite("gradient", clip_grad_norm_(trained.values(), train.max_grad_norm), job, len(losses))
        optimizer.step()
        factor = learning_rate_factor(len(losses), total, train.warmup_frac)
        local.after_step(run, extra, {name: rate * factor for name, rate in rates.items()})
        schedule.step()
        losses.append(math.fsum(sums.losses.values()))
        under_way.step(run, local, extra, optimizer, losses, total)
    assert len(losses) == total, f"{len(losses)} steps instead of {total}: the shard and the job disagree"
    after = {name: parameter.detach().cpu().float() for name, parameter in trained.items()}
    report, memory = method.report(run)
    local_report, local_memory = local.report(run, extra)
    personal = {name: value.clone() for name, value in after.items() if lora.stays(name)}
    delta: Params = {name: value - run.start[name] for name, value in after.items() if name not in personal}
    # What it did not train this time it keeps as well: a client of many adapters trains one of them now and then.
    kept = {**job.memory.get("personal", {}), **personal}
    memories = {"method": memory, "local": local_memory, "personal": kept}
    return ClientUpdate(
        stage=job.stage,
        round=job.round,
        client=job.client,
        assignment=job.assignment,
        delta=delta,
        report=report,
        local=local_report,
        memory={key: value for key, value in memories.items() if value},
        metrics={
            "loss": math.fsum(losses) / total,
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "steps": float(total),
            "delta_norm": norm(delta),
            **({"shared": by_others / in_all, "exchange_s": team.exchange_s} if team and by_others else {}),
            "seconds": spent + time.perf_counter() - began,
        },
    )


@cache
def _tell_not_shared(rule: str) -> None:
    _log.warning("%s counts over its steps and has no `pause`: no worker helps another with its clients", rule)
