"""From the answers to a dataset to its lines, its score and what else is said of it: in a run, and after one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fcit_ray.config.benchmark import Benchmark
from fcit_ray.config.datasets import is_function
from fcit_ray.data.records.layout import Record
from fcit_ray.data.scoring.own import scorer_sha256
from fcit_ray.data.scoring.rules import Rule
from fcit_ray.data.scoring.scores import score
from fcit_ray.errors import RunFailed
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
        and the mean gate, with several views their means, and each one's percent under `views`; of a rule of one's own
        the hash of its file, `scorer_sha256`.

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
    if is_function(rule.name):
        details["scorer_sha256"] = scorer_sha256(rule.name)
    return rows, details


def check_same_scorers(records: Iterable[Mapping[str, Any]], details: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse scores of a rule of one's own that was another when earlier stages were scored: they make one matrix.

    Args:
        records: of the run so far.
        details: what is to be said of each dataset, as `score_answers` gives it.

    Raises:
        RunFailed: names the dataset and the stage.
    """
    for record in records:
        for name, said in (record.get("datasets") or {}).items() if record.get("kind") == "evaluation" else ():
            before, now = said.get("scorer_sha256"), details.get(name, {}).get("scorer_sha256")
            if before and now and before != now:
                raise RunFailed(
                    f"dataset {name!r}: the file of its scorer has changed since stage {record['stage']} of this run "
                    "was scored by it, and one table would hold scores of two; put it back and resume, then "
                    "score all stages by the new one with `fcit-ray evaluate RUN --from-predictions`"
                )


def task_scores(
    benchmark: Benchmark, tasks: Sequence[int], details: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Score by name of these tasks (positions in the configuration), in percent: the mean over each one's datasets."""
    chosen = [benchmark.tasks[task] for task in tasks]
    return {task.name: sum(details[name]["percent"] for name in task.datasets) / len(task.datasets) for task in chosen}
