"""What is known of a run before its end: the scores so far as a file, and the pictures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcit_ray.results import metrics
from fcit_ray.results.plots import plot_accuracy_matrix, plot_curves
from fcit_ray.results.run_folder import RunFolder


@dataclass(frozen=True)
class SoFar:
    """The scores and pictures of a run's folder, made of its records alone: whoever makes them, they are the same.

    Attributes:
        folder: of the run.
        label: its name.
        tasks: their names, in the order of the stream.
        num_stages: of the run; 0 for zero-shot.
    """

    folder: RunFolder
    label: str
    tasks: Sequence[str]
    num_stages: int

    def write_scores(self) -> None:
        """Write scores.json as a whole.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        self.folder.write_scores(self.scores())

    def draw(self) -> None:
        """Draw accuracy_matrix.png and curves.png as wholes.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        records = self.folder.records()
        matrix = metrics.accuracy_matrix(records, self.tasks, self.num_stages)
        with self.folder.using():
            plot_accuracy_matrix(matrix, self.tasks, self.folder.path / "accuracy_matrix.png", self.label)
            plot_curves({self.label: records}, self.folder.path / "curves.png")
            self.folder.bring("accuracy_matrix.png", "curves.png")

    def scores(self) -> dict[str, Any]:
        """What scores.json holds.

        Returns:
            `label`, `tasks`, `matrix` as in results.json (None where not evaluated, or not yet), `means` over the tasks
            evaluated after each stage (None where none was) and, once the run has some, `transfer`: by data set.
        """
        records = self.folder.records()
        matrix = metrics.accuracy_matrix(records, self.tasks, self.num_stages)
        known = ~np.isnan(matrix)
        unseen = metrics.transfer_scores(records)
        return {
            "label": self.label,
            "tasks": list(self.tasks),
            "matrix": [[None if np.isnan(score) else float(score) for score in row] for row in matrix],
            "means": [
                float(np.mean(row[is_known])) if is_known.any() else None
                for row, is_known in zip(matrix, known, strict=True)
            ],
            **({"transfer": unseen} if unseen else {}),
        }
