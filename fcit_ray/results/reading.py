"""The results of a finished run, to look at and to compute with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcit_ray.config.schema import Config
from fcit_ray.errors import RunFolderError
from fcit_ray.results.figures import learned_from_results
from fcit_ray.results.run_folder import RunFolder


@dataclass(frozen=True)
class Results:
    """What a finished run found. Tables are lists of rows, which `pandas.DataFrame` takes as they are.

    Attributes:
        folder: the run folder; of one in a store, this process's working copy, which goes with the process.
        values: all that its results.json holds.
        uri: of a run folder in a store.
    """

    folder: Path
    values: Mapping[str, Any]
    uri: str = ""

    @property
    def place(self) -> str:
        """Path or URI of the run folder."""
        return self.uri or str(self.folder)

    @property
    def label(self) -> str:
        """The run's name in tables."""
        return str(self.values["label"])

    @property
    def seed(self) -> int:
        """What every random draw derived from."""
        return int(self.values["seed"])

    @property
    def last(self) -> float | None:
        """Mean score over all tasks after the last stage, in percent; None where there is none."""
        return _number(self.values["last"])

    @property
    def average(self) -> float | None:
        """Mean over stages of the mean score over the tasks seen by then, in percent; None for fewer than two."""
        return _number(self.values["avg"])

    @property
    def forgetting(self) -> float | None:
        """Percentage points lost since each task's best, mean over tasks; None where undefined."""
        return _number(self.values["forgetting"])

    @property
    def learned(self) -> float | None:
        """Mean over tasks of the score right after the stage that taught the task first, in percent; None for fewer
        than two stages, or where not every stage was evaluated."""
        found = learned_from_results(self.values)
        return _number(found["mean"]) if found else None

    @property
    def learned_scores(self) -> dict[str, float]:
        """What `learned` is the mean of, by task; empty where that is None."""
        found = learned_from_results(self.values)
        return dict(found["scores"]) if found else {}

    @property
    def scores(self) -> dict[str, float]:
        """Score by task at the end of the run, in percent."""
        last = self.values["matrix"][-1]
        return {task: score for task, score in zip(self.values["tasks"], last, strict=True) if score is not None}

    @property
    def accuracy_matrix(self) -> list[dict[str, Any]]:
        """A row a stage: `stage` (from 0; of zero-shot -1) and the score of every task answered after it, in percent.

        A task that was not answered after a stage is not in its row.
        """
        matrix, tasks = self.values["matrix"], self.values["tasks"]
        first = -1 if self.config.regime == "zero_shot" else 0
        return [
            {"stage": stage} | {task: score for task, score in zip(tasks, row, strict=True) if score is not None}
            for stage, row in enumerate(matrix, first)
        ]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl in their order: `kind` is `round`, `evaluation` ..., the rest its measures."""
        return RunFolder.at(self.place).records()

    @property
    def config(self) -> Config:
        """The configuration that the run had, complete."""
        return RunFolder.at(self.place).config()


def open_results(folder: str | Path) -> Results:
    """Open the results of a finished run.

    Args:
        folder: the run folder, or its URI.

    Raises:
        RunFolderError: there is no run, it is not finished, or its files were edited or lost.
    """
    run = RunFolder.at(folder)
    if not run.is_run():
        raise RunFolderError(f"{folder}: no folder of a run; expected what `fcit-ray run` or `fcit_ray.run` wrote")
    return Results(run.path, run.results(), run.mirror.uri if run.mirror else "")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
