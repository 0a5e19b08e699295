"""Where a run's records go: its folder first, and then whoever looks on while it runs."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from fcit_ray.errors import RunFolderError
from fcit_ray.experiment.opening import Experiment
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.so_far import SoFar

Watcher = Callable[[Mapping[str, Any]], None]


def nobody(record: Mapping[str, Any]) -> None:
    """Nobody looks on."""


class Journal:
    """The records of one run; called from one thread.

    After every evaluation the scores are written, and the pictures are drawn in a thread beside the next round, for
    whose work nobody waits then. They are there to look at: one that cannot be written is told of and ends nothing.

    Args:
        folder: of the run.
        so_far: what is made of its records.
        watcher: told of every record, those of earlier sessions too.
        warn: takes a line for the user.
    """

    def __init__(self, folder: RunFolder, so_far: SoFar, watcher: Watcher, warn: Callable[[str], None]):
        self._folder = folder
        self._so_far = so_far
        self._watcher = watcher
        self._warn = warn
        self._drawing: threading.Thread | None = None
        self._warned = False

    @classmethod
    def of(cls, experiment: Experiment, folder: RunFolder, watcher: Watcher, warn: Callable[[str], None]) -> Self:
        """That of a run, whose records its scores and pictures are made of."""
        config = experiment.config
        tasks = [task.name for task in config.benchmark.tasks]
        return cls(folder, SoFar(folder, config.name, tasks, experiment.setting.num_stages), watcher, warn)

    def begin(self) -> None:
        """Tell what is on record already, once nothing else will be dropped from it."""
        for record in self._folder.records():
            self._watcher(record)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record; on return it is on the disk.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        self._folder.log(record)
        self._watcher(record)
        if record["kind"] == "evaluation":
            self._show(self._so_far.write_scores)
            self.wait()  # of the stage before: hardly ever
            self._drawing = threading.Thread(target=self._show, args=(self._so_far.draw,), daemon=True)
            self._drawing.start()

    def wait(self) -> None:
        """Until no picture is being drawn."""
        if self._drawing is not None:
            self._drawing.join()
            self._drawing = None

    def close(self) -> None:
        """Scores and pictures of the whole run.

        Raises:
            RunFolderError: they cannot be written.
        """
        self.wait()
        self._so_far.write_scores()
        self._so_far.draw()

    def _show(self, write: Callable[[], None]) -> None:
        try:
            write()
        except RunFolderError as error:
            if not self._warned:  # once; at the end it counts
                self._warned = True
                self._warn(f"scores or pictures so far could not be written: {error}")
