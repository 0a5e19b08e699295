"""The folder of a run: how each of its files is written, read and vouched for; `places.py` says which there are."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from pydantic import ValidationError

from fcit_ray.config.mistakes import describe
from fcit_ray.config.reading import read_settings
from fcit_ray.config.schema import Config
from fcit_ray.errors import CheckpointError, ConfigError, RunFolderError
from fcit_ray.results import checkpoint, stored
from fcit_ray.results import lock as run_lock
from fcit_ray.results.cover import PARTITION, json_sha256
from fcit_ray.results.records import append_record, in_order, read_records, rewind
from fcit_ray.results.results_file import read_results, write_results
from fcit_ray.results.states import States
from fcit_ray.storage import durable
from fcit_ray.storage.location import is_uri, uri_made_path
from fcit_ray.storage.mirror import mirror_of
from fcit_ray.storage.strict_json import dump_json, finite

FORMAT: Final = "fcit_ray run"
LOCK: Final = ".run.lock"  # of whoever started the run
WRITER_LOCK: Final = ".writer.lock"  # of the process that writes, which may outlive the former by a moment
_WRITER_WAIT_S: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder(States):
    """A run's folder on disk. Holds a path and nothing open, so it may be pickled into another process.

    `opening.open_run` starts or resumes a run, and locks the folder until `release` or the end of the process;
    `RunFolder.at(place)` reads one. In a store (`s3://...`) every process has a working copy of its own, and what is
    told here to be on the disk is in the store by then.

    Attributes:
        path: the folder; of one in a store, this process's working copy.
        mirror: of a folder in a store.
    """

    @classmethod
    def at(cls, place: Path | str, *, fetch: bool = True) -> Self:
        """A run folder by its path or URI.

        Args:
            place: of it.
            fetch: of a folder in a store, learn first what is there now.

        Raises:
            RunFolderError: no such kind of place, or none that answers.
        """
        if not is_uri(place):
            if said := uri_made_path(place):
                raise RunFolderError(f"{said}: a URI that was made a pathlib.Path, which cannot hold one; give text")
            return cls(Path(place))
        if str(place).startswith("file://"):
            return cls(Path(urlsplit(str(place)).path))
        mirror = mirror_of(str(place))
        folder = cls(mirror.path, mirror)
        if fetch:
            folder.refresh()
        return folder

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process, or on another machine, a folder in a store has another working copy."""
        return (RunFolder.at, (self.mirror.uri,)) if self.mirror else (RunFolder, (self.path,))

    def refresh(self) -> None:
        """Learn what others have brought to the store meanwhile; not for a process that writes.

        Raises:
            RunFolderError: it does not answer.
        """
        if self.mirror:
            with self.using():
                stored.refresh(self.mirror)

    def refresh_records(self) -> None:
        """As `refresh`, of metrics.jsonl alone."""
        if self.mirror:
            with self.using():
                self.mirror.fetch(self.metrics_file.name)

    def store_s(self) -> dict[str, float]:
        """`store`: seconds spent on writing to the store since this was asked last; nothing of a folder on a disk."""
        return {"store": self.mirror.lap()} if self.mirror else {}

    def bring_beside(self) -> str:
        """Bring what has changed of pictures, pages, logs and trackers' files; returns why that failed, if it did.

        No figure is made of them, and a run is not to fail for them.
        """
        try:
            if self.mirror:
                self.mirror.bring_changed(stored.beside(self.path))
        except (RunFolderError, OSError) as error:
            return f"{self.place}: logs and pictures were not brought there: {error}"
        return ""

    def release(self) -> None:
        """Let other processes work in the folder again."""
        run_lock.release(self.path / LOCK, self.mirror)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For the process that writes, which is not the one that opened the folder (but for a moment, to begin).

        Raises:
            RunFolderError: another one still does. One whose run was killed is waited for.
        """
        try:
            taken = run_lock.acquire(self.path / WRITER_LOCK, _WRITER_WAIT_S, self.mirror)
        except run_lock.Locked as holder:
            raise RunFolderError(f"{self.place}: the driver of an earlier session still writes ({holder})") from None
        try:
            if taken:
                self.refresh()
            yield
        finally:
            if taken:
                run_lock.release(self.path / WRITER_LOCK, self.mirror)

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
            self.bring(self.metrics_file.name)

    def cover_records(self) -> None:
        """Have the newest checkpoint vouch for the records that were appended after it."""
        if folders := self.checkpoints():
            with self.using():
                checkpoint.write_beside(folders[-1], self._cover())
                self.bring(f"{self.checkpoint_folder.name}/{folders[-1].name}/{checkpoint.MANIFEST}")

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
            if rewind(self.metrics_file, stage, round):
                self.bring(self.metrics_file.name)

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
            self.bring(f"predictions/{label}/{path.name}")
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
            self.bring(self.partition_file.name)

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """Write scores.json as a whole.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        with self.using():
            durable.write_text(self.scores_file, dump_json(finite(scores)))
            self.bring(self.scores_file.name)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json as a whole, last of all: from here on the run is finished.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        with self.using():
            write_results(self.results_file, results, self._cover())
            self.bring(self.results_file.name)

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
