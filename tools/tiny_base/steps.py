"""What both trainings are made of: lessons by number, pictures as the model sees them, an optimiser and its steps."""

import logging
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fcit_ray.data.miniature.drawing import draw
from tools.tiny_base.lessons import Lesson, make_lesson

log = logging.getLogger(__name__)


def pixels(lessons: Sequence[Lesson]) -> Tensor:
    """What the processor makes of the drawings, without its detours: (B, 3, 64, 64), from -1 to 1."""
    raw = np.stack([np.asarray(draw(lesson.scene)) for lesson in lessons])  # (B, 64, 64, 3)
    return torch.from_numpy(raw).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def lessons(seed: int, part: str, start: int, count: int) -> list[Lesson]:
    """Lessons number `start` to `start + count` of a part ("vision", "questions" or "held out")."""
    return [make_lesson(random.Random(f"lesson {seed} {part} {number}")) for number in range(start, start + count)]


def learning_rate(step: int, steps: int, decay_frac: float, warmup: int = 100) -> float:
    """Share of the peak: a linear warm-up, level, then linear to zero."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (steps * decay_frac))


def optimizer_of(groups: list[tuple[list[nn.Parameter], float]], lr: float, decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only, each group at its share of the learning rate."""
    settings = []
    for parameters, share in groups:
        for matrices in (True, False):
            some = [p for p in parameters if (p.dim() >= 2) == matrices and p.requires_grad]
            settings.append({"params": some, "share": share, "weight_decay": decay if matrices else 0.0})
    return torch.optim.AdamW(settings, lr=lr, betas=(0.9, 0.98), eps=1e-6)


def take_step(optimizer: torch.optim.AdamW, loss: Tensor, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
