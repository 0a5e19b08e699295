"""From the answers to a dataset to its lines, its score and what else is said of it: in a run, and after one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fcit_ray.config.benchmark import Benchmark
from fcit_ray.data.records.layout import Record
from fcit_ray.data.scoring.rules import Rule
from fcit_ray.data.scoring.scores import score
from fcit_ray.types import Prediction

Answers = Mapping[str, Sequence[tuple[str, Sequence[float]]]]
"""By view (a model; the global one is ""), an answer and its gate for each record."""


def score_answers(
    rule: Rule, records: Sequence[Record], answers: Answers
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score what every view has answered to a dataset's records.

    Args:
        rule: as `rules.rule_of` gives it.
        records: of the dataset, R of them.
        answers: R by view.

    Returns:
        The lines of predictions, view by view, and what an evaluation says of the dataset: `percent`, the rule's parts
        and the mean gate, with several views their means, and each one's percent under `views`.

    Raises:
        JavaError: Java is not there or fails, under the rules that need it.
    """
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, float]] = []
    gates: list[Sequence[float]] = []
    for view, answered in answers.items():
        predictions = [
            Prediction(record.id, text, str(record.answer), tuple(gate))
            for record, (text, gate) in zip(records, answered, strict=True)
        ]
        scores = score(rule, predictions, records)
        parts.append({"percent": scores.percent, **scores.parts})
        gates += [prediction.gate for prediction in predictions]
        rows += [
            {
                "question_id": prediction.question_id,
                **({"view": view} if view else {}),
                "prediction": prediction.prediction,
                "answer": prediction.answer,
                "score": value,
                "gate": [round(weight, 6) for weight in prediction.gate],
            }
            for prediction, value in zip(predictions, scores.per_sample, strict=True)
        ]
    # Every view has answered the same questions, so each counts alike.
    details: dict[str, Any] = {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
    details["mean_gate"] = np.array(gates).mean(0).tolist()
    if "" not in answers:
        details["views"] = {view: part["percent"] for view, part in zip(answers, parts, strict=True)}
    return rows, details


def task_scores(
    benchmark: Benchmark, tasks: Sequence[int], details: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Score by name of these tasks (positions in the configuration), in percent: the mean over each one's datasets."""
    chosen = [benchmark.tasks[task] for task in tasks]
    return {task.name: sum(details[name]["percent"] for name in task.datasets) / len(task.datasets) for task in chosen}
