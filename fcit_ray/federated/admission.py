"""Whether a client's update may enter the federation: looked at as it arrives, before anything is made of it.

What gets past here is averaged with everybody else's and written into the checkpoint; one number that is none would
take all of the model with it, and a round later an innocent client would be blamed.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fcit_ray.errors import RunFailed, UpdateRefused, place
from fcit_ray.types import Client, ClientJob, ClientUpdate, Params


def check_update(job: ClientJob, update: ClientUpdate, sent: frozenset[str], must_move: bool = True) -> None:
    """Refuse an update that is not what the job asked for.

    Args:
        job: complete, as the federation planned it.
        update: what came back for it.
        sent: names of the parameters whose change the job's assignment wants back.
        must_move: whether a delta of nothing but zeros is refused.

    Raises:
        UpdateRefused: names stage, round, client and what is wrong: the update is of another job; a parameter is
            missing or should not be there, or has another shape or dtype than was sent; a number in the delta, in what
            is reported or kept, or in the metrics is not finite; something there is no plain value; what came back is
            an exact copy of what was sent.
    """
    if fault := next(_faults(job, update, sent, must_move), None):
        reason = f"the client's update is refused: {fault}"
        raise UpdateRefused(
            f"{place(*job.key)}: {reason}. Nothing of it was averaged or saved; "
            "--resume trains the round again from the last checkpoint",
            reason,
        )


def check_params(params: Params, where: str) -> None:
    """Refuse global parameters that are no numbers, though every client's were (sums that overflow).

    Raises:
        RunFailed: names the place and the first such parameter.
    """
    for name, value in params.items():
        if fault := _not_finite(value):
            raise RunFailed(
                f"{where}: the new global parameters are refused: {name}: {fault}. Nothing of it was saved; lower the "
                "server's or the clients' learning rate, or look for a client that sends huge numbers (robust.name)"
            )


def _faults(job: ClientJob, update: ClientUpdate, sent: frozenset[str], must_move: bool) -> Iterator[str]:
    if update.key != job.key or update.assignment != job.assignment or not _same(update.client, job.client):
        yield "it is of another job than the one that was given out"
        return
    if missing := [name for name in job.params if name in sent and name not in update.delta]:
        yield f"delta lacks {_first(missing)}, which its assignment trains"
    if strange := [str(name) for name in update.delta if name not in sent]:
        yield f"delta holds {_first(strange)}, which its assignment does not train"
    for name, value in update.delta.items():
        yield from _misfits(f"delta, {name}", value, job.params[name])
    for part in ("report", "local", "memory"):
        yield from _tree(part, getattr(update, part))
    for name, value in update.memory.get("personal", {}).items():
        if name in job.params:  # of adapters that it had in an earlier stage it keeps its own too
            yield from _misfits(f"memory, personal, {name}", value, job.params[name])
    for name, metric in update.metrics.items():
        if type(metric) not in (int, float) or not math.isfinite(metric):
            yield f"metrics, {name}: expected a finite number, got {metric!r}"
    # One value that moved is enough, and mostly the first that is looked at has. What a client keeps to itself (its own
    # factors) may be all that its steps have moved: the gradient of A is zero as long as B is.
    stood_still = not any(torch.count_nonzero(value) for value in update.delta.values())
    if must_move and update.delta and "personal" not in update.memory and stood_still:
        yield (
            "it is an exact copy of what was sent: every number of the delta is zero, so nothing was trained. If "
            "that can be right for this method, let its class say `may_stand_still = True`; else look at train.lr "
            "and at the client's answers"
        )


def _same(one: Client, other: Client) -> bool:
    plain = (one.index, one.task, one.num_examples) == (other.index, other.task, other.num_examples)
    return plain and torch.equal(one.feature, other.feature)


def _misfits(path: str, value: Any, sent: Tensor) -> Iterator[str]:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        yield f"{path}: expected a dense tensor, got {type(value).__name__}"
    elif value.shape != sent.shape:
        yield f"{path}: shape {tuple(value.shape)}, was sent as {tuple(sent.shape)}"
    elif value.dtype != sent.dtype:
        yield f"{path}: {value.dtype}, was sent as {sent.dtype}"
    elif fault := _not_finite(value):
        yield f"{path}: {fault}"


def _tree(path: str, value: Any) -> Iterator[str]:
    """What a checkpoint could not hold, or nothing finite could be made of."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            yield f"{path}: expected a dense tensor with data"
        elif fault := _not_finite(value):
            yield f"{path}: {fault}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) is not str:
                yield f"{path}: keys are texts, got {key!r} of type {type(key).__name__}"
            yield from _tree(f"{path}, {key}", item)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            yield from _tree(f"{path}, {index}", item)
    elif type(value) is float:
        if not math.isfinite(value):
            yield f"{path}: is {value}"
    elif value is not None and type(value) not in (bool, int, str):
        yield f"{path}: expected tensors, numbers, texts, lists or mappings, got {type(value).__name__}"


def _not_finite(value: Tensor) -> str:
    """How many numbers of a tensor are none; empty if all are finite."""
    if not (value.is_floating_point() or value.is_complex()):
        return ""
    # A finite sum has finite terms, and costs a tenth; one that is not may have overflowed.
    if math.isfinite(abs(value.sum().item())):
        return ""
    bad = ~torch.isfinite(value)
    count = int(bad.sum())
    return f"{count} of {value.numel()} numbers not finite (the first: {value[bad][0].item()})" if count else ""


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
