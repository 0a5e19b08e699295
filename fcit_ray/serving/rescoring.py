"""A run's predictions that are on disk, scored by another rule: every stage, hence the whole accuracy matrix."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fcit_ray.config.datasets import is_function
from fcit_ray.config.schema import Config
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import Record, load_test
from fcit_ray.data.scoring.rules import rule_for, scored_by
from fcit_ray.errors import DataError, RunFolderError
from fcit_ray.experiment.opening import make_setting
from fcit_ray.results.cover import predictions_label
from fcit_ray.results.figures import make_results
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.scored import Answers, score_answers, task_scores

_NEED_JAVA: Final = ("caption_full", "caption_released")
_NEEDS: Final = {
    "box": "the boxes and sizes of its pictures",
    "caption": "all reference captions of its pictures",
    "soft_vote": "what people answered to its questions",
    "mllm_dcl_sci": "the names of its pictures and its questions",
}
"""What predictions do not say, by kind of answers or rule."""
_OF_THE_RUN: Final = ("seconds", "moved_bytes", "adapters_sha256", "attention", "epsilon", "dp_delta")
"""Figures that no rule of scoring changes."""


@dataclass
class Rescored:
    """What another rule makes of a run's predictions.

    Attributes:
        results: in the shape of a results.json.
        evaluations: the records of the evaluations, stage by stage.
        without_data: datasets whose references were taken from the predictions themselves, and why.
    """

    results: dict[str, Any]
    evaluations: list[dict[str, Any]]
    without_data: dict[str, str] = field(default_factory=dict)


def rescore(folder: RunFolder, config: Config) -> Rescored:
    """Score the predictions of a finished run anew, without a model.

    Where the run's own rule needs no Java and is no function of one's own, the predictions are held against the run's
    own scores first: those of a folder are vouched for by nothing else.

    Args:
        folder: of the run; it is only read.
        config: the run's, with another rule or data root.

    Raises:
        RunFolderError: it is no finished run, or its predictions are lost or were edited.
        DataError: references that the rule needs are not there, or are not those that were answered.
        JavaError: Java is not there or fails, under the rules that need it.
    """
    before = folder.config()
    original = folder.results()
    references = _References(config)
    evaluations: dict[int, dict[str, Any]] = {}
    for record in folder.records():
        if record.get("kind") != "evaluation":
            continue
        details: dict[str, Any] = {}
        for name, said in record["datasets"].items():
            path = folder.local(f"predictions/{predictions_label(record['stage'])}/{name}.jsonl")
            rows = _read(path)
            records = references.of(name, path, rows)
            answers = _by_view(path, rows, records)
            _check_own(path, name, before, records, answers, said)
            rule = rule_for(config, name)
            details[name] = score_answers(rule, records, answers)[1]
        names = [task.name for task in config.benchmark.tasks]
        scores = task_scores(config.benchmark, [names.index(task) for task in record["scores"]], details)
        transfer = {name: details[name]["percent"] for name in record.get("transfer", ())}
        kept = {key: value for key, value in record.items() if key != "seconds"}
        evaluations[record["stage"]] = {
            **kept,
            "scores": scores,
            **({"transfer": transfer} if transfer else {}),
            "datasets": details,
        }
    found = [evaluations[stage] for stage in sorted(evaluations)]
    tests = config.benchmark.evaluated_datasets
    made = make_results(
        label=original["label"],
        seed=original["seed"],
        tasks=original["tasks"],
        num_stages=make_setting(config).num_stages,
        records=found,
        num_records=original["num_records"],
        num_unseen=original.get("transfer", {}).get("num_records"),
        params={},
        scored=scored_by(config, tests),
    )
    results = original | made | {key: original[key] for key in _OF_THE_RUN if key in original}
    results["config"] = config.model_dump(mode="json")
    return Rescored(results, found, references.without_data)


class _References:
    """The test records by dataset, from the data root, or from predictions where these say all that a rule needs."""

    def __init__(self, config: Config):
        self._config = config
        self._records: dict[str, list[Record]] = {}
        self.without_data: dict[str, str] = {}

    def of(self, name: str, path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Record]:
        if name not in self._records:
            self._records[name] = self._read(name, rows)
        answers = {record.id: str(record.answer) for record in self._records[name]}
        for row in rows:
            if row["question_id"] not in answers:
                raise DataError(f"{path}: question {row['question_id']!r} is not in the data in benchmark.root; "
                                "expected the data that the run was evaluated on")  # fmt: skip
            if row["answer"] != answers[row["question_id"]]:
                raise DataError(
                    f"{path}: question {row['question_id']!r} was held against {row['answer']!r:.80}, and the data in "
                    f"benchmark.root says {answers[row['question_id']]!r:.80}: expected the data of the run"
                )
        return self._records[name]

    def _read(self, name: str, rows: Sequence[Mapping[str, Any]]) -> list[Record]:
        benchmark = self._config.benchmark
        try:
            return load_test(
                Collection.of(benchmark, self._config.seed), name, benchmark.split, benchmark.max_test_records
            )
        except DataError as error:
            if needs := _needs(benchmark.dataset(name).answer.kind, rule_for(self._config, name).name):
                raise DataError(
                    f"{name}: its rule needs {needs}, which predictions do not hold, and the data cannot be "
                    f"read (benchmark.root=FOLDER names another): {error}"
                ) from None
            self.without_data[name] = str(error)
            answers = {row["question_id"]: row["answer"] for row in rows}
            return [Record(name, id, (), (), answer=answer) for id, answer in answers.items()]


def _needs(kind: str, rule: str) -> str | None:
    return "the records themselves" if is_function(rule) else _NEEDS.get(kind) or _NEEDS.get(rule)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise RunFolderError(f"{path}: missing; copy it back, or evaluate the model again without --from-predictions")
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            for key in ("question_id", "prediction", "answer"):
                if not isinstance(row[key], str):
                    raise ValueError(f"{key!r} is no text")
            rows.append({"view": "", "gate": [], **row})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunFolderError(f"{path}, line {number}: not a prediction that a run wrote: {error}") from None
    return rows


def _by_view(path: Path, rows: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> Answers:
    """By view, each record's answer in the records' order."""
    views: dict[str, dict[str, tuple[str, Sequence[float]]]] = {}
    for row in rows:
        answered = views.setdefault(row["view"], {})
        if row["question_id"] in answered:
            raise RunFolderError(f"{path}: answers question {row['question_id']!r} twice; expected what the run wrote")
        answered[row["question_id"]] = row["prediction"], row["gate"]
    for answered in views.values():
        if missing := [record.id for record in records if record.id not in answered]:
            raise RunFolderError(
                f"{path}: holds no answer to {len(missing)} of {len(records)} records (first {missing[0]!r}); expected "
                "what the run wrote, and the data, split and number of records that it was evaluated on"
            )
    return {view: [answered[record.id] for record in records] for view, answered in views.items()}


def _check_own(
    path: Path, name: str, config: Config, records: Sequence[Record], answers: Answers, said: Mapping[str, Any]
) -> None:
    """Hold the predictions against the score that the run gave them."""
    own = rule_for(config, name)
    if own.name in _NEED_JAVA or is_function(own.name):  # a function of one's own may be another by now
        return
    percent = score_answers(own, records, answers)[1]["percent"]
    if not math.isclose(percent, said["percent"], rel_tol=1e-9, abs_tol=1e-9):
        raise RunFolderError(
            f"{path}: scores {percent:.4f} by the run's own rule, and the run says {said['percent']:.4f}: edited "
            "since, or of another release; evaluate the model again without --from-predictions"
        )
