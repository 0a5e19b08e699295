"""What the accuracy matrix says about learning and forgetting.

Legend: S stages, T tasks. A[s, t] is the score of task t, in percent, after stage s; nan where it was not evaluated.
f(t) is the first stage after which task t was evaluated: the stage that taught it first. In a homogeneous stream
stage t teaches task t, f(t) = t, and every formula below is its source's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
"""Scores in percent, (S, T)."""


def accuracy_matrix(records: Iterable[Mapping[str, Any]], tasks: Sequence[str], num_stages: int) -> Matrix:
    """Collect the evaluation records of a run.

    Args:
        records: of any kind; those of kind `evaluation` have `stage` and `scores`, percent by task name. A later
            evaluation of the same stage replaces an earlier one. Stage -1 (zero-shot) has no row.
        tasks: names of the columns.
        num_stages: number of rows; 0 for a run that trains nothing, whose one row is the zero-shot evaluation.

    Returns:
        A, (S, T).

    Raises:
        ValueError: a stage or a task that the run does not have.
    """
    first = 0 if num_stages else -1
    matrix = np.full((max(num_stages, 1), len(tasks)), np.nan)
    for record in records:
        if record.get("kind") != "evaluation" or record["stage"] < first:
            continue
        row = record["stage"] - first
        if row >= len(matrix):
            raise ValueError(f"evaluation of stage {record['stage']}: the run has {num_stages} stages")
        if unknown := sorted(record["scores"].keys() - set(tasks)):
            raise ValueError(f"evaluation of stage {record['stage']}: unknown task {unknown[0]!r}; known: {tasks}")
        matrix[row] = [np.nan if (score := record["scores"].get(task)) is None else score for task in tasks]
    return matrix


def last(matrix: Matrix) -> float:
    """Last = 1/T sum_t A[S-1, t]: the mean over all tasks after the last stage (Guo et al. 2025).

    Percent; nan if a task was not evaluated then, since a mean over the others would be another figure.
    """
    return float(np.mean(matrix[-1]))


def average(matrix: Matrix) -> float:
    """Avg = 1/S sum_s mean_{t: f(t) <= s} A[s, t]: mean over stages of the mean over tasks seen (Guo et al. 2025).

    Percent; nan if a stage lacks a seen task's score, as when only the last stage was evaluated.
    """
    first = _first(matrix)
    means = []
    for stage, row in enumerate(matrix):
        seen = row[first <= stage]
        means.append(np.mean(seen) if seen.size else np.nan)
    return float(np.mean(means))


def learned_scores(matrix: Matrix) -> NDArray[np.float64]:
    """L[t] = A[f(t), t]: each task's score right after the stage that taught it first; the diagonal where f(t) = t.

    Where a stage teaches several tasks they share its row; a task that several stages teach counts by the first.

    Returns:
        L, (T,), percent; nan for a task that was never evaluated. All nan if a stage was not evaluated at all, as when
        only the last one was: it is not known then what a task scored right after it was taught.
    """
    first = _first(matrix)
    known = first < len(matrix)
    if np.isnan(matrix).all(axis=1).any():
        known[:] = False
    return np.where(known, matrix[np.minimum(first, len(matrix) - 1), np.arange(matrix.shape[1])], np.nan)


def learned(matrix: Matrix) -> float:
    """Learned = 1/T sum_t A[f(t), t]: how well tasks were learned, before later stages (LA of Riemer et al. 2019).

    Percent; nan as soon as one task's is. With k tasks whose f(t) < S-1, and `old` their set,
    BWT = mean_old A[S-1, t] - mean_old L[t]: what Last lacks was either never learned, which shows here, or forgotten.
    """
    return float(np.mean(learned_scores(matrix)))


def backward_transfer(matrix: Matrix) -> float:
    """BWT = mean over tasks with f(t) < S-1 of A[S-1, t] - A[f(t), t] (Lopez-Paz & Ranzato 2017, section 2).

    Percentage points, negative where later stages did harm; nan if no task was evaluated before the last stage. In a
    heterogeneous stream a task is taught again after f(t), so BWT there also counts what was still learned.
    """
    first = _first(matrix)
    old = np.flatnonzero(first < len(matrix) - 1)
    return float(np.mean(matrix[-1, old] - matrix[first[old], old])) if old.size else float("nan")


def forgetting(matrix: Matrix) -> float:
    """F = mean over tasks with f(t) < S-1 of max_{s < S-1} A[s, t] - A[S-1, t] (Chaudhry et al. 2018, section 3.2).

    Percentage points, how far each old task fell from its best; negative if tasks still improve; nan if no task was
    evaluated before the last stage.
    """
    old = np.flatnonzero(_first(matrix) < len(matrix) - 1)
    return float(np.mean(np.nanmax(matrix[:-1, old], axis=0) - matrix[-1, old])) if old.size else float("nan")


def transfer_scores(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Percent on each dataset that nobody trained on, by name; empty if the run has none.

    Args:
        records: of any kind; an `evaluation` that answered unseen datasets has them under `transfer`. The last counts.
    """
    scores: dict[str, float] = {}
    for record in records:
        if record.get("kind") == "evaluation" and "transfer" in record:
            scores = dict(record["transfer"])
    return scores


def _first(matrix: Matrix) -> NDArray[np.intp]:
    """f, (T,); S for a task that was never evaluated."""
    evaluated = ~np.isnan(matrix)
    return np.where(evaluated.any(axis=0), evaluated.argmax(axis=0), len(matrix))
