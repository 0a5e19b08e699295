"""What a run's folder tells, finished or not; what cannot be read is named, and costs the page that part alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fcit_ray.config.datasets import check_name
from fcit_ray.config.reading import read_settings
from fcit_ray.errors import CheckpointError, ConfigError, RunFolderError
from fcit_ray.results import metrics
from fcit_ray.results.cover import flat, predictions_label
from fcit_ray.results.figures import matrix_from_results
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.tell_apart import tell_apart

REMEMBERED = {
    "tokens": "identity tokens of the subspaces",
    "anchors": "anchors of the stages",
    "prototypes": "prototypes of the stages",
}
"""What methods remember to tell samples apart by, vectors of one feature space, by its name in their knowledge."""


@dataclass(frozen=True)
class Told:
    """A run as its folder tells of it.

    Attributes:
        folder: the run folder.
        label: the run's name in tables, told apart from others.
        seed: of the run.
        results: what results.json holds; None while the run is not finished.
        config: plain values of the configuration.
        records: of metrics.jsonl, in their order.
        partition: what partition.json holds; empty where there is none.
        sessions: of environment.json.
        gaps: what could not be read, and why.
    """

    folder: RunFolder
    label: str
    seed: int
    results: Mapping[str, Any] | None
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    partition: Mapping[str, Any] = field(default_factory=dict)
    sessions: Sequence[Mapping[str, Any]] = ()
    gaps: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether there are results."""
        return self.results is not None

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """That part of the configuration."""
        return dict(self.config.get("benchmark") or {})

    @property
    def tasks(self) -> list[str]:
        """Names, in the order of the stream."""
        if self.results:
            return [*self.results["tasks"]]
        if "tasks" in self.benchmark:
            return [str(task["name"]) for task in self.benchmark["tasks"]]
        return list(dict.fromkeys(task for record in self.evaluations for task in record["scores"]))

    @property
    def num_stages(self) -> int:
        """Of the run as it is configured; 0 for zero-shot."""
        regime = self.config.get("regime", "federated")
        if regime != "federated":
            return 1 if regime == "centralised" else 0
        schedule = self.benchmark.get("schedule", "homogeneous")
        if not self.config:  # lost: as far as the records go
            return 1 + max((int(record["stage"]) for record in self.records if "stage" in record), default=-1)
        return len(self.tasks) if isinstance(schedule, str) else len(schedule)

    @property
    def rounds(self) -> list[Mapping[str, Any]]:
        """The records of rounds."""
        return [record for record in self.records if record.get("kind") == "round"]

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """The records of evaluations, one a stage: of several the last."""
        found = {record["stage"]: record for record in self.records if record.get("kind") == "evaluation"}
        return [found[stage] for stage in sorted(found)]

    @property
    def num_rounds(self) -> int:
        """Rounds in a stage."""
        configured = self.benchmark.get("num_rounds", 1) if self.config.get("regime") != "centralised" else 1
        return max([int(configured), *(int(record["round"]) + 1 for record in self.rounds)])

    @property
    def matrix(self) -> metrics.Matrix:
        """Scores in percent after each stage that was evaluated or passed, (S so far, T), nan where there is none.

        Raises:
            RunFolderError: records of a stage or a task that the run does not have.
        """
        if self.results:
            return matrix_from_results(self.results)
        try:
            matrix = metrics.accuracy_matrix(self.records, self.tasks, self.num_stages)
        except ValueError as error:
            raise RunFolderError(f"{self.folder.metrics_file}: {error}; edited, or of another run?") from None
        return matrix[: 1 + max((int(record["stage"]) for record in self.evaluations), default=-1)]

    @property
    def first_stage(self) -> int:
        """The stage of the matrix's first row: -1 for zero-shot."""
        return -1 if self.num_stages == 0 else 0

    def predictions(self, stage: int, dataset: str) -> list[Mapping[str, Any]]:
        """What was answered, a line a question (and a view); none where the file is not there.

        Raises:
            RunFolderError: the file is none of predictions; names the line.
        """
        try:
            check_name(dataset)
        except ValueError:  # a record that was edited; it names no file of ours
            return []
        file = self.folder.local(f"predictions/{predictions_label(stage)}/{dataset}.jsonl")
        if not file.is_file():
            return []
        lines: list[Mapping[str, Any]] = []
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                str(row["question_id"]), str(row["prediction"]), str(row["answer"]), float(row["score"])
            except (ValueError, TypeError, KeyError, RecursionError):
                raise RunFolderError(f"{file}, line {number}: no prediction as `fcit-ray run` writes them") from None
            lines.append(row)
        return lines

    def remembered(self) -> tuple[dict[str, list[list[float]]], str]:
        """Cosines between the vectors that the method tells samples apart by, (U, U) by what they are; and why not."""
        import torch
        from torch.nn.functional import normalize

        try:
            found = self.folder.load_knowledge(REMEMBERED)
        except (CheckpointError, RunFolderError, OSError) as error:
            return {}, f"How near the method's tokens are cannot be said: {error}"
        cosines = {}
        for name, vectors in found.items():
            if vectors.ndim == 2 and len(vectors) > 1 and vectors.is_floating_point():
                unit = normalize(vectors.to(torch.float64), dim=1)
                cosines[REMEMBERED[name]] = (unit @ unit.T).tolist()
        return cosines, ""


def read_run(folder: RunFolder) -> Told:
    """All of a run but its predictions and its state.

    Raises:
        RunFolderError: results.json was edited, or metrics.jsonl holds a line that is no record.
    """
    results = folder.results_with_config() if folder.finished else None
    gaps = []
    config: Mapping[str, Any] = dict(results.get("config") or {}) if results else {}
    if not config:
        try:
            config = read_settings(folder.config_file)
        except ConfigError as error:
            gaps.append(f"The configuration cannot be read: {error}")
    partition, fault = _partition(folder.partition_file)
    gaps += [fault] if fault else []
    sessions = folder.environment().get("sessions", [])
    return Told(
        folder=folder,
        label=str((results or {}).get("label") or config.get("name") or Path(folder.place).name),
        seed=int((results or {}).get("seed", config.get("seed") or 0)),
        results=results,
        config=config,
        records=folder.records(),
        partition=partition,
        sessions=[session for session in sessions if isinstance(session, dict)] if isinstance(sessions, list) else [],
        gaps=tuple(gaps),
    )


def read_runs(folders: Iterable[RunFolder]) -> list[Told]:
    """Runs in their order, each once, labelled so that unlike ones are told apart; those not finished keep their names.

    Raises:
        RunFolderError: as `read_run`.
        UserError: two runs of one configuration and seed have come to different ends.
    """
    runs = [read_run(folder) for folder in folders]
    by_place = {str(run.folder.path): run for run in runs if run.results is not None}
    labelled = tell_apart(
        [{**(run.results or {}), "folder": place} for place, run in by_place.items()], list(by_place)
    )  # fmt: skip
    kept = {str(result["folder"]): result for result in labelled}
    for place, result in kept.items():
        plain = {key: value for key, value in result.items() if key != "folder"}
        by_place[place] = replace(by_place[place], label=str(result["label"]), results=plain)
    return [
        by_place[str(run.folder.path)] if run.finished else run
        for run in runs
        if not run.finished or str(run.folder.path) in kept
    ]


def differing(runs: Sequence[Told]) -> dict[str, list[Any]]:
    """The keys of the configuration in which runs differ, with the value of each run; `...` where it has no such key.

    What only says where a run was carried out (`runtime.*`) is left out, as it changes no figure; so is `seed`.
    """
    values = [flat(run.config) for run in runs]
    keys = [key for key in dict.fromkeys(key for each in values for key in each) if key != "seed"]
    return {
        key: [each.get(key, ...) for each in values]
        for key in keys
        if not key.startswith("runtime.") and len({json.dumps(each.get(key, "\0absent"), sort_keys=True, default=str)
                                                   for each in values}) > 1
    }  # fmt: skip


def _partition(file: Path) -> tuple[Mapping[str, Any], str]:
    """What partition.json holds, and what is wrong with it."""
    try:
        partition = json.loads(file.read_text(encoding="utf-8"))
        for task in partition["tasks"]:
            str(task["name"]), [int(count) for counts in task["datasets"].values() for count in counts]
    except FileNotFoundError:
        return {}, ""  # a run that trains nothing has none
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {}, f"Who holds which data cannot be said: {file} is not what was written ({error!r:.80})."
    return partition, ""
