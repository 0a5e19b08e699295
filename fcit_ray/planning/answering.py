"""Answering in the plan: how much of it hides behind rounds, and how many questions fit a GPU at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fcit_ray.planning.fitting import TIGHT
from fcit_ray.planning.memory import Load, memory
from fcit_ray.planning.plan import Round
from fcit_ray.planning.shapes import Shapes


def hidden_share(
    asked: Mapping[int, int], rounds: Sequence[Round], workers: int, record_s: float, answer_s: float
) -> float:
    """Share of a run's answers for which the next stage's rounds leave workers idle long enough.

    Args:
        asked: questions after each stage, from 0; nothing runs beside those of the last.
        rounds: of the run.
        workers: that train at once.
        record_s: seconds of a worker in which it trains a record, in all epochs of a round.
        answer_s: the same for an answer.
    """
    idle: dict[int, float] = {}
    for round in rounds:
        spare = max(0.0, workers * round.makespan - sum(round.records))
        idle[round.stage] = idle.get(round.stage, 0.0) + spare * record_s
    total = sum(asked.values()) * answer_s
    hidden = sum(min(count * answer_s, idle.get(stage + 1, 0.0)) for stage, count in asked.items())
    return hidden / total if total else 0.0


def largest_answer_batch(shapes: Shapes, load: Load, available: float) -> int:
    """Questions that can be answered together in so many bytes, less what a user is warned of; 0 if not even one."""
    one, two = (memory(shapes, replace(load, answer_batch=count)).answering for count in (1, 2))
    return max(0, int(1 + (TIGHT * available - one) // (two - one)))
