"""What a run leaves behind.

    config.yaml        the resolved configuration; reproduces the run
    environment.json   versions, platform, commit, command line; also what marks the folder as a run's
    partition.json     who holds how many records of what, and what decided it; partition.png shows it
    metrics.jsonl      one record a round and an evaluation
    checkpoints/       stage_0003_round_0002/: the state before round 2 of stage 3 (both from 0)
    predictions/       <label>/<dataset>.jsonl; no figure is made of them
    under_way/         stage_0003_round_0002_client_0004/: what a long update of that client needs to go on
    logs/ray.log       Ray's own words, and the tracebacks of mistakes
    tracking.json      what trackers were told; tensorboard/ and wandb/ are their own
    scores.json        the scores so far, written after every evaluation; nothing is read from it
    results.json       written last: its presence means that the run is finished

The checkpoints vouch for metrics.jsonl, config.yaml and partition.json (`cover`), results.json for itself. What is
lost is named by `open_run`; environment.json, which nothing is computed from, is written anew.

A run that has neither a record nor a checkpoint yet has not begun: there is nothing in it that could be lost.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fcit_ray.errors import FULL, RunFolderError, disk_reason
from fcit_ray.storage.mirror import Mirror

UNDER_WAY: Final = "under_way"
_CHECKPOINT: Final = re.compile(r"stage_(\d+)_round_(\d+)")


@dataclass(frozen=True)
class Places:
    """Where everything in a run's folder lies.

    Attributes:
        path: the folder; of one in a store, this process's working copy.
        mirror: of a folder in a store.
    """

    path: Path
    mirror: Mirror | None = field(default=None, compare=False, repr=False)

    @property
    def place(self) -> str:
        """The folder's path from any working directory, or its URI."""
        return self.mirror.uri if self.mirror else str(self.path.absolute())

    @property
    def shown(self) -> str:
        """The folder as whoever named it knows it."""
        return self.mirror.uri if self.mirror else str(self.path)

    def local(self, name: str) -> Path:
        """Where a file of the folder is on this machine's disk; of a store, fetched if it is not.

        Raises:
            RunFolderError: the store does not answer.
        """
        path = self.path / name
        if self.mirror and not path.is_file():
            self.mirror.fetch(name)
        return path

    def holds(self, name: str) -> bool:
        """Whether a file is in the folder, as far as is known of a store."""
        return (self.path / name).is_file() or bool(self.mirror and name in self.mirror.index)

    def bring(self, *names: str) -> None:
        """Bring files to the store, if the folder lies in one, in this order; on return they are there.

        Raises:
            RunFolderError: the store does not take them.
        """
        if self.mirror:
            self.mirror.bring(*names)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.results_file.is_file()

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment_file(self) -> Path:
        """What the processes were that worked on the run; the mark of a run folder."""
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        """The records."""
        return self.path / "metrics.jsonl"

    @property
    def results_file(self) -> Path:
        """The figures of a finished run."""
        return self.path / "results.json"

    @property
    def scores_file(self) -> Path:
        """The scores so far."""
        return self.path / "scores.json"

    @property
    def partition_file(self) -> Path:
        """Who holds how many records of what."""
        return self.path / "partition.json"

    @property
    def log_file(self) -> Path:
        """Where Ray's own output goes."""
        return self.path / "logs" / "ray.log"

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def partition_picture(self) -> Path:
        """Where the picture of the partition goes."""
        return self.path / "partition.png"

    def checkpoints(self) -> list[Path]:
        """The checkpoints' folders, oldest first."""
        found = []
        if self.checkpoint_folder.is_dir():
            for child in self.checkpoint_folder.iterdir():
                if match := _CHECKPOINT.fullmatch(child.name):
                    found.append((int(match[1]), int(match[2]), child))
        return [child for _, _, child in sorted(found)]

    def checkpoint_at(self, stage: int, round: int) -> Path:
        """Where the checkpoint before a round lies."""
        return self.checkpoint_folder / f"stage_{stage:04d}_round_{round:04d}"

    def update_folder(self, stage: int, round: int, client: int) -> Path:
        """Where an update under way is kept."""
        return self.path / UNDER_WAY / f"stage_{stage:04d}_round_{round:04d}_client_{client:04d}"

    def updates(self) -> list[Path]:
        """The folders of the updates under way."""
        return sorted(folder for folder in (self.path / UNDER_WAY).glob("stage_*") if folder.is_dir())

    @contextmanager
    def using(self) -> Iterator[None]:
        """A path that cannot be used is told in one line."""
        try:
            yield
        except OSError as error:
            reason = disk_reason(error, error.filename or self.path)
            if error.errno in FULL:
                raise RunFolderError(
                    f"{self.path}: {reason}; the finished rounds are kept: make room, and --resume goes on from the "
                    "last checkpoint"
                ) from error
            at = "" if error.filename in (None, str(self.path)) else f" ({error.filename})"
            raise RunFolderError(f"{self.path}: {reason}{at}; give another folder (--out)") from error
