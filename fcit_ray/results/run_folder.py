"""The folder of a run: how each of its files is written, read and vouched for; `places.py` says which there are."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fcit_ray.config.mistakes import describe
from fcit_ray.config.reading import read_settings
from fcit_ray.config.schema import Config
from fcit_ray.errors import CheckpointError, ConfigError, RunFolderError
from fcit_ray.results import checkpoint
from fcit_ray.results import lock as run_lock
from fcit_ray.results.cover import PARTITION, cover, json_sha256
from fcit_ray.results.objects import FOLDER as OBJECTS
from fcit_ray.results.objects import Objects
from fcit_ray.results.places import UNDER_WAY, Places
from fcit_ray.results.records import append_record, in_order, read_records, rewind
from fcit_ray.results.results_file import read_results, write_results
from fcit_ray.storage import durable
from fcit_ray.storage.strict_json import dump_json, finite
from fcit_ray.types import ServerState

FORMAT: Final = "fcit_ray run"
LOCK: Final = ".run.lock"  # of whoever started the run
WRITER_LOCK: Final = ".writer.lock"  # of the process that writes, which may outlive the former by a moment
_WRITER_WAIT_S: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder(Places):
    """A run's folder on disk. Holds a path and nothing open, so it may be pickled into another process.

    `opening.open_run` starts or resumes a run, and locks the folder until `release` or the end of the process;
    `RunFolder(path)` reads one.

    Attributes:
        path: the folder.
    """

    def release(self) -> None:
        """Let other processes work in the folder again."""
        run_lock.release(self.path / LOCK)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For the process that writes, which is not the one that opened the folder (but for a moment, to begin).

        Raises:
            RunFolderError: another one still does. One whose run was killed is waited for.
        """
        try:
            taken = run_lock.acquire(self.path / WRITER_LOCK, _WRITER_WAIT_S)
        except run_lock.Locked as holder:
            raise RunFolderError(f"{self.path}: the driver of an earlier session still writes ({holder})") from None
        try:
            yield
        finally:
            if taken:
                run_lock.release(self.path / WRITER_LOCK)

    def config(self) -> Config:
        """The configuration of the run.

        Raises:
            RunFolderError: there is none, or it is not one of this release.
        """
        try:
            return Config.model_validate(read_settings(self.config_file))
        except ConfigError as error:
            raise RunFolderError(f"{error}; missing or edited since it was written, or no folder of a run") from None
        except ValidationError as error:
            raise RunFolderError(
                f"{self.config_file}: edited, or of another release of fcit_ray:\n{describe(error)}"
            ) from None

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl; on return it is on the disk. Non-finite floats become null.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        with self.using():
            append_record(self.metrics_file, record)

    def cover_records(self) -> None:
        """Have the newest checkpoint vouch for the records that were appended after it."""
        if folders := self.checkpoints():
            with self.using():
                checkpoint.write_beside(folders[-1], self._cover())

    def records(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl by stage and round; a last line that a kill cut short is left out.

        Raises:
            RunFolderError: a line that is no record, by number.
        """
        return in_order(read_records(self.metrics_file))

    def rewind(self, stage: float, round: int) -> None:
        """Drop, atomically, every record at or beyond a position, and a last line that was cut short.

        Called with the position of the checkpoint that a run resumes from, it leaves metrics.jsonl as it was when that
        round began. The evaluation of stage s lies before (s + 1, 0) and is kept there: it may or may not be present.
        Minus infinity is the very beginning.
        """
        with self.using():
            rewind(self.metrics_file, stage, round)

    def save_checkpoint(
        self,
        state: ServerState,
        keep: int,
        unit: checkpoint.Unit = checkpoint.one,
        held: tuple[int, int] | None = None,
    ) -> ServerState:
        """Write the state under its position, then delete all but the last `keep` checkpoints and that at `held`.

        Args:
            state: clients' memories that lie in an earlier checkpoint's objects are not read.
            keep: checkpoints that stay, at least 1.
            unit: what of a run a parameter belongs to: what has not changed since the last checkpoint stays as it is.
            held: position of one more that stays: of which something is still to be made.

        Returns:
            The state, with the clients' memories where they now lie.

        Raises:
            CheckpointError: the state holds something that cannot be saved.
            RunFolderError: the disk is full, or the like.
        """
        assert keep >= 1, "a run that keeps no checkpoint cannot be resumed: set runtime.keep_checkpoints to 1 or more"
        objects = Objects(self.checkpoint_folder / OBJECTS)
        with self.using():
            state = checkpoint.save(state, self.checkpoint_at(state.stage, state.round), self._cover(), objects, unit)
            for kept in self.updates():
                durable.rename(kept, durable.partial(kept))  # they are part of the state now
            self.drop_checkpoints(keep, held)
        return state

    def drop_checkpoints(self, keep: int, held: tuple[int, int] | None = None) -> None:
        """Delete all but the last `keep` checkpoints, and that at `held`; and what a kill left of any.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        with self.using():
            for old in self.checkpoints()[:-keep]:
                if held is None or old != self.checkpoint_at(*held):
                    # Renamed before it is emptied: a half-deleted folder must not pass for a damaged checkpoint.
                    durable.rename(old, durable.partial(old))
            for place in (self.checkpoint_folder, self.path / UNDER_WAY):
                for doomed in place.glob(f".*{durable.PARTIAL}*"):
                    shutil.rmtree(doomed)  # these, and what an earlier process left when it was killed
            self._collect(Objects(self.checkpoint_folder / OBJECTS))

    def _collect(self, objects: Objects) -> None:
        """Delete the objects that no checkpoint needs; none, while it cannot be said of one what it needs."""
        try:
            needed = {name for folder in self.checkpoints() for name in checkpoint.needed(folder)}
        except CheckpointError as error:
            _log.warning("%s: nothing is deleted there for the time being: %s", objects.folder, error)
        else:
            objects.collect(needed)

    def latest_checkpoint(self) -> ServerState | None:
        """The newest state, or None if the run has none yet.

        Raises:
            CheckpointError: the newest one is damaged. It is not passed over silently: the message says which folders
                to delete, so that the run resumes from the last whole one before, or that it must start anew.
        """
        folders = self.checkpoints()
        if not folders:
            return None
        try:
            return checkpoint.load(folders[-1])
        except CheckpointError as error:
            damaged = [folders[-1]]
            for older in reversed(folders[:-1]):
                try:
                    checkpoint.load(older)  # what is damaged may be a part of it too
                except CheckpointError:
                    damaged.append(older)
                    continue
                named = " and ".join(map(str, damaged))
                what = "folder" if len(damaged) == 1 else "folders"
                raise CheckpointError(
                    f"{error}\nDelete the {what} {named} and the run resumes from {older.name}."
                ) from error
            before = "There is none" if len(folders) == 1 else "There is no whole one"
            raise CheckpointError(f"{error}\n{before} before it: --overwrite starts the run anew.") from error

    def checkpoint_of(self, stage: int, round: int) -> ServerState:
        """The state at a position.

        Raises:
            CheckpointError: its checkpoint is damaged, or not there.
        """
        return checkpoint.load(self.checkpoint_at(stage, round))

    def keep_update(self, client: int, state: ServerState) -> None:
        """Keep what a client's update under way needs to go on, in the place of what was kept of it before.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        folder = self.update_folder(state.stage, state.round, client)
        with self.using():
            folder.parent.mkdir(exist_ok=True)
            checkpoint.save(state, folder, self._cover())

    def kept_update(self, stage: int, round: int, client: int) -> ServerState | None:
        """What was kept of a client's update under way; None if nothing was, or it is damaged (the log says so)."""
        folder = self.update_folder(stage, round, client)
        if not folder.is_dir():
            return None
        try:
            return checkpoint.load(folder)
        except CheckpointError as error:
            _log.warning("the update begins anew: %s", error)
            return None

    def write_predictions(self, label: str, dataset: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write predictions/<label>/<dataset>.jsonl as a whole, a row a line.

        Raises:
            RunFolderError: a name that is not one file name, a full disk or the like.
        """
        for name in (label, dataset):
            if not name or name.startswith(".") or Path(name).name != name:
                raise RunFolderError(f"{name!r}: names of predictions become file names; no slash, no leading dot")
        path = self.path / "predictions" / label / f"{dataset}.jsonl"
        lines = (json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with self.using():
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.write_text(path, "".join(lines))
        return path

    def write_partition(self, counts: Mapping[str, Any]) -> None:
        """Write partition.json as a whole; a resumed run writes the same again.

        Raises:
            RunFolderError: it would not be the same; a full disk or the like.
        """
        text = dump_json(finite(counts))
        folders = self.checkpoints()
        said = checkpoint.beside(folders[-1]).get(PARTITION) if folders else None
        if said is not None and said != json_sha256(json.loads(text)):
            raise RunFolderError(
                f"{self.partition_file}: the clients would not hold the records that they held when "
                f"{folders[-1].name} was written: the data, its quarantine or partition files have changed since (or "
                "fcit_ray has); put them back, or give --overwrite to start the run anew"
            )
        with self.using():
            durable.write_text(self.partition_file, text)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json as a whole, last of all: from here on the run is finished.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        with self.using():
            write_results(self.results_file, results, self._cover())

    def results(self) -> dict[str, Any]:
        """What `write_results` wrote.

        Raises:
            RunFolderError: the run is not finished, or the file was edited or damaged.
        """
        return read_results(self.results_file)[0]

    def results_with_config(self) -> dict[str, Any]:
        """The results with the run's configuration, which older releases kept beside them alone.

        Raises:
            RunFolderError: as `results`.
        """
        results = self.results()
        if "config" not in results and self.config_file.is_file():
            results["config"] = self.config().model_dump(mode="json")
        return results

    def _cover(self) -> dict[str, Any]:
        return cover(self.metrics_file, self.config_file, self.partition_file)

    def is_run(self) -> bool:
        """Whether the folder is a run's: by its environment.json, or else by a checkpoint or results of ours."""
        if not self.path.is_dir():
            return False
        if self.environment().get("format") == FORMAT:
            return True
        for folder in self.checkpoints():
            try:
                checkpoint.beside(folder)
                return True
            except CheckpointError:
                continue  # a stranger's, or damaged
        try:
            return self.finished and read_results(self.results_file)[1] is not None
        except RunFolderError:
            return False

    def environment(self) -> dict[str, Any]:
        """What environment.json says; nothing if it is absent or not ours."""
        try:
            environment = json.loads(self.environment_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}  # absent, or not a file of ours: not a run
        return environment if isinstance(environment, dict) else {}
