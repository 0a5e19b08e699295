"""A user's method one of whose clients does not what it should; the workers import it by this file's name."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fcit_ray.methods.finetune import Finetune
from fcit_ray.runtime.worker import Worker

_train = Worker.train


@dataclass(frozen=True, kw_only=True)
class Bad(Finetune):
    """Finetune, but for one client.

    Attributes:
        kind: of upload (`nan`, `inf`, `shape`, `name`, `copy`) or of behaviour (`raises`, `sleeps`).
        marks: folder in which each bad attempt leaves a file.
        client: which.
        times: bad attempts in all; -1: every one.
    """

    kind: str
    marks: str
    client: int = 1
    times: int = -1


def _attempt(method: Bad) -> bool:
    """Whether this one is bad; leaves its mark."""
    folder = Path(method.marks)
    folder.mkdir(exist_ok=True)
    number = 0
    while True:
        if 0 <= method.times <= number:
            return False
        try:
            os.close(os.open(folder / str(number), os.O_CREAT | os.O_EXCL))
            return True
        except FileExistsError:
            number += 1


def _bad_train(self: Worker, work: Any, *rest: Any) -> Any:
    method = self._algorithm.method
    bad = isinstance(method, Bad) and work.job.client.index == method.client and _attempt(method)
    if bad and method.kind == "sleeps":
        time.sleep(10**6)
    if bad and method.kind == "raises":
        raise ValueError("this client does not want to")
    update = _train(self, work, *rest)
    if not bad:
        return update
    delta = dict(update.delta)
    first = next(iter(delta))
    if method.kind in ("nan", "inf"):
        delta[first] = delta[first].clone()
        delta[first].view(-1)[0] = float(method.kind)
    elif method.kind == "shape":
        delta[first] = delta[first].reshape(-1)
    elif method.kind == "name":
        delta["a.stranger"] = delta.pop(first)
    elif method.kind == "copy":
        delta = {name: torch.zeros_like(value) for name, value in delta.items()}
    return replace(update, delta=delta)


Worker.train = _bad_train  # type: ignore[method-assign]
