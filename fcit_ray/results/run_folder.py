"""What a run leaves behind.

    config.yaml        the resolved configuration; reproduces the run
    environment.json   versions, platform, commit, command line; also what marks the folder as a run's
    partition.json     who holds how many records of what, and what decided it; partition.png shows it
    metrics.jsonl      one record a round and an evaluation
    checkpoints/       stage_0003_round_0002/: the state before round 2 of stage 3 (both from 0)
    predictions/       <label>/<dataset>.jsonl; no figure is made of them
    under_way/         stage_0003_round_0002_client_0004/: what a long update of that client needs to go on
    logs/ray.log       Ray's own words, and the tracebacks of mistakes
    results.json       written last: its presence means that the run is finished

The checkpoints vouch for metrics.jsonl, config.yaml and partition.json (`run_cover`), results.json for itself. What is
lost is named by `open`; environment.json, which nothing is computed from, is written anew.

A run that has neither a record nor a checkpoint yet has not begun: there is nothing in it that could be lost.

Position of a record: a record with `stage` s and `round` r lies at (s, r); one with `stage` alone (the evaluation
after stage s; -1 is zero-shot) lies after all rounds of stage s and before (s + 1, 0); one without a stage lies before
everything.
"""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fcit_ray.config.mistakes import describe
from fcit_ray.config.schema import Config, dump_config, read_settings
from fcit_ray.errors import FULL, CheckpointError, ConfigError, RunFolderError, disk_reason
from fcit_ray.results import checkpoint
from fcit_ray.results import lock as run_lock
from fcit_ray.results.cover import PARTITION, cover, json_sha256
from fcit_ray.results.session import this_session
from fcit_ray.results.whole import check_whole
from fcit_ray.storage import durable
from fcit_ray.types import ServerState

_FORMAT: Final = "fcit_ray run"
_CHECKPOINT: Final = re.compile(r"stage_(\d+)_round_(\d+)")
_UNDER_WAY: Final = "under_way"
_LOCK: Final = ".run.lock"  # of whoever started the run
_WRITER_LOCK: Final = ".writer.lock"  # of the process that writes, which may outlive the former by a moment
_WRITER_WAIT_S: Final = 60.0

_SHA256, _BESIDE = "sha256", "beside"  # keys of results.json that vouch for it
_RESULTS_REMEDY: Final = "copy it back, or delete it: --resume then makes it again of metrics.jsonl and the last state"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on disk. Holds a path and nothing open, so it may be pickled into another process.

    `RunFolder.open` starts or resumes a run, and locks the folder until `release` or the end of the process;
    `RunFolder(path)` reads one.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def open(cls, path: Path | str, config: Config, *, resume: bool, overwrite: bool) -> "RunFolder":
        """Start a run in a new or empty folder, or, if told so, resume or overwrite the one that is there.

        Args:
            path: created with its parents if absent.
            config: what is to be run.
            resume: go on with the run in the folder if there is one; it must have the same configuration, but for
                `runtime.*` keys other than `runtime.gpu`, which do not change the bits. A finished run stays as it is.
            overwrite: delete the run in the folder if there is one, finished or not.

        Raises:
            RunFolderError: the folder holds a run and neither flag is given, or something else than a run, or a run
                of another configuration; what figures are made of was lost or edited; another process works in it; it
                cannot be used.
            CheckpointError: the checkpoint to resume from is damaged.
        """
        folder = cls(Path(path))
        if resume and overwrite:
            raise RunFolderError("--resume keeps what is in the folder, --overwrite deletes it: give one of them")
        with folder.using():
            if folder.path.exists() and not folder.path.is_dir():
                raise RunFolderError(f"{folder.path}: is a file; name a folder (--out)")
            folder._check_ours()  # before anything of ours is put there
            folder.path.mkdir(parents=True, exist_ok=True)
            try:
                taken = run_lock.acquire(folder.path / _LOCK)
            except run_lock.Locked as holder:
                raise RunFolderError(
                    f"{folder.path}: another process works in it ({holder}); wait for it, end it, or give another "
                    "folder (--out)"
                ) from None
            try:
                with folder.writing():  # no driver of a session that was killed writes any more
                    folder._begin(config, resume, overwrite)
            except BaseException:
                if taken:
                    folder.release()
                raise
        return folder

    def _begin(self, config: Config, resume: bool, overwrite: bool) -> None:
        """`open`, once nobody else can come between."""
        self._check_ours()
        begun = self._has_begun()
        if begun and not (resume or overwrite):
            state = "a finished" if self.finished else "an unfinished"
            going_on = "" if self.finished else "--resume to go on with it, "
            raise RunFolderError(
                f"{self.path}: holds {state} run; give {going_on}--overwrite to delete it, or another folder (--out)"
            )
        if overwrite and self.is_run():
            self._clear()
            begun = False
        if begun:
            check_whole(self, config)
            self._append_session(config)
        else:
            for name in ("checkpoints", "predictions", _UNDER_WAY):
                shutil.rmtree(self.path / name, ignore_errors=True)  # parts of what never came to a record
            # First the mark, then the configuration: killed in between, the folder is known as a run that never began.
            environment = {"format": _FORMAT, "sessions": [this_session(config.seed)]}
            durable.write_text(self.environment_file, _dump_json(environment))
            durable.write_text(self.config_file, dump_config(config))
        for name in ("checkpoints", "predictions", "logs"):
            (self.path / name).mkdir(exist_ok=True)
        durable.sync(self.path)

    def release(self) -> None:
        """Let other processes work in the folder again."""
        run_lock.release(self.path / _LOCK)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For the process that writes, which is not the one that opened the folder (but for a moment, to begin).

        Raises:
            RunFolderError: another one still does. One whose run was killed is waited for.
        """
        try:
            taken = run_lock.acquire(self.path / _WRITER_LOCK, _WRITER_WAIT_S)
        except run_lock.Locked as holder:
            raise RunFolderError(f"{self.path}: the driver of an earlier session still writes ({holder})") from None
        try:
            yield
        finally:
            if taken:
                run_lock.release(self.path / _WRITER_LOCK)

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
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        with self.using(), self.metrics_file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def cover_records(self) -> None:
        """Have the newest checkpoint vouch for the records that were appended after it."""
        if folders := self.checkpoints():
            with self.using():
                checkpoint.write_beside(folders[-1], self._cover())

    def records(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl in their order; a last line that a kill cut short is left out.

        Raises:
            RunFolderError: a line that is no record, by number.
        """
        return [record for _, record in self._lines()]

    def rewind(self, stage: float, round: int) -> None:
        """Drop, atomically, every record at or beyond a position, and a last line that was cut short.

        Called with the position of the checkpoint that a run resumes from, it leaves metrics.jsonl as it was when that
        round began. The evaluation of stage s lies before (s + 1, 0) and is kept there: it may or may not be present.
        Minus infinity is the very beginning.
        """
        if not self.metrics_file.is_file():
            return
        kept = "".join(line for line, record in self._lines() if _position(record) < (stage, round))
        if kept.encode() != self.metrics_file.read_bytes():
            with self.using():
                durable.write_text(self.metrics_file, kept)

    def save_checkpoint(self, state: ServerState, keep: int) -> Path:
        """Write the state under its position, then delete all but the last `keep` checkpoints.

        Raises:
            CheckpointError: the state holds something that cannot be saved.
            RunFolderError: the disk is full, or the like.
        """
        assert keep >= 1, "a run that keeps no checkpoint cannot be resumed: set runtime.keep_checkpoints to 1 or more"
        folder = self.checkpoint_folder / f"stage_{state.stage:04d}_round_{state.round:04d}"
        with self.using():
            checkpoint.save(state, folder, self._cover())
            for old in self.checkpoints()[:-keep]:
                # Renamed before it is emptied: a half-deleted folder must not pass for a damaged checkpoint.
                durable.rename(old, durable.partial(old))
            for kept in self.updates():
                durable.rename(kept, durable.partial(kept))  # they are part of the state now
            for place in (self.checkpoint_folder, self.path / _UNDER_WAY):
                for doomed in place.glob(f".*{durable.PARTIAL}*"):
                    shutil.rmtree(doomed)  # these, and what an earlier process left when it was killed
        return folder

    def checkpoints(self) -> list[Path]:
        """The checkpoints' folders, oldest first."""
        found = []
        if self.checkpoint_folder.is_dir():
            for child in self.checkpoint_folder.iterdir():
                if match := _CHECKPOINT.fullmatch(child.name):
                    found.append((int(match[1]), int(match[2]), child))
        return [child for _, _, child in sorted(found)]

    def latest_checkpoint(self) -> ServerState | None:
        """The newest state, or None if the run has none yet.

        Raises:
            CheckpointError: the newest one is damaged. It is not passed over silently: the message says which folder
                to delete, so that the run resumes from the one before, or that it must start anew.
        """
        folders = self.checkpoints()
        if not folders:
            return None
        try:
            return checkpoint.load(folders[-1])
        except CheckpointError as error:
            if len(folders) == 1:
                raise CheckpointError(f"{error}\nThere is none before it: --overwrite starts the run anew.") from error
            raise CheckpointError(
                f"{error}\nDelete the folder {folders[-1]} and the run resumes from {folders[-2].name}."
            ) from error

    def keep_update(self, client: int, state: ServerState) -> None:
        """Keep what a client's update under way needs to go on, in the place of what was kept of it before.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        folder = self._update_folder(state.stage, state.round, client)
        with self.using():
            folder.parent.mkdir(exist_ok=True)
            checkpoint.save(state, folder, self._cover())

    def kept_update(self, stage: int, round: int, client: int) -> ServerState | None:
        """What was kept of a client's update under way; None if nothing was, or it is damaged (the log says so)."""
        folder = self._update_folder(stage, round, client)
        if not folder.is_dir():
            return None
        try:
            return checkpoint.load(folder)
        except CheckpointError as error:
            _log.warning("the update begins anew: %s", error)
            return None

    def _update_folder(self, stage: int, round: int, client: int) -> Path:
        return self.path / _UNDER_WAY / f"stage_{stage:04d}_round_{round:04d}_client_{client:04d}"

    def updates(self) -> list[Path]:
        """The folders of the updates under way."""
        return sorted(folder for folder in (self.path / _UNDER_WAY).glob("stage_*") if folder.is_dir())

    def write_predictions(self, label: str, dataset: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write predictions/<label>/<dataset>.jsonl as a whole, a row a line.

        Raises:
            RunFolderError: a name that is not one file name, a full disk or the like.
        """
        for name in (label, dataset):
            if not name or name.startswith(".") or Path(name).name != name:
                raise RunFolderError(f"{name!r}: names of predictions become file names; no slash, no leading dot")
        path = self.path / "predictions" / label / f"{dataset}.jsonl"
        lines = (json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with self.using():
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.write_text(path, "".join(lines))
        return path

    def write_partition(self, counts: Mapping[str, Any]) -> None:
        """Write partition.json as a whole; a resumed run writes the same again.

        Raises:
            RunFolderError: it would not be the same; a full disk or the like.
        """
        text = _dump_json(_finite(counts))
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

    @property
    def partition_picture(self) -> Path:
        """Where the picture of the partition goes."""
        return self.path / "partition.png"

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json as a whole, last of all: from here on the run is finished.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        with self.using():
            document = {**_finite(results), _BESIDE: self._cover()}
            durable.write_text(self.results_file, _dump_json({**document, _SHA256: json_sha256(document)}))

    def results(self) -> dict[str, Any]:
        """What `write_results` wrote.

        Raises:
            RunFolderError: the run is not finished, or the file was edited or damaged.
        """
        results, _ = self.read_results()
        return results

    def results_with_config(self) -> dict[str, Any]:
        """The results with the run's configuration, which older releases kept beside them alone.

        Raises:
            RunFolderError: as `results`.
        """
        results = self.results()
        if "config" not in results and self.config_file.is_file():
            results["config"] = self.config().model_dump(mode="json")
        return results

    def read_results(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The results, and what they say of the files beside them (None where an older release wrote them)."""
        try:
            results = json.loads(self.results_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(
                f"{self.results_file}: missing; the run is not finished, --resume goes on with it"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(
                f"{self.results_file}: not the JSON that was written: {error}; {_RESULTS_REMEDY}"
            ) from None
        if not isinstance(results, dict):
            raise RunFolderError(f"{self.results_file}: not the JSON that was written; {_RESULTS_REMEDY}")
        proof = results.pop(_SHA256, None)
        if proof is None:
            _log.warning("%s: has no digest (of an older release?), so an edit would not show", self.results_file)
        elif proof != json_sha256(results):
            raise RunFolderError(
                f"{self.results_file}: edited since it was written (its SHA-256 is another); {_RESULTS_REMEDY}"
            )
        return results, results.pop(_BESIDE, None)

    def _cover(self) -> dict[str, Any]:
        return cover(self.metrics_file, self.config_file, self.partition_file)

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

    def _check_ours(self) -> None:
        if not self.is_run() and self._holds_anything():
            raise RunFolderError(
                f"{self.path}: holds files, but none that fcit_ray wrote; nothing is deleted, give another folder "
                "(--out)"
            )

    def is_run(self) -> bool:
        """Whether the folder is a run's: by its environment.json, or else by a checkpoint or results of ours."""
        if not self.path.is_dir():
            return False
        if self._environment().get("format") == _FORMAT:
            return True
        for folder in self.checkpoints():
            try:
                checkpoint.beside(folder)
                return True
            except CheckpointError:
                continue  # a stranger's, or damaged
        try:
            return self.finished and self.read_results()[1] is not None
        except RunFolderError:
            return False

    def _has_begun(self) -> bool:
        """Whether there is anything that could be lost."""
        metrics = self.metrics_file
        some = metrics.is_file() and metrics.stat().st_size > 0
        return some or self.finished or bool(self.checkpoints()) or bool(self.updates())

    def _environment(self) -> dict[str, Any]:
        try:
            environment = json.loads(self.environment_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}  # absent, or not a file of ours: not a run
        return environment if isinstance(environment, dict) else {}

    def _holds_anything(self) -> bool:
        return self.path.is_dir() and any(
            not child.name.endswith(durable.PARTIAL) and child.name not in (_LOCK, _WRITER_LOCK)
            for child in self.path.iterdir()
        )

    def _clear(self) -> None:
        # results.json first and the mark last: killed in between, the folder is an unfinished run, not a stranger's.
        self.results_file.unlink(missing_ok=True)
        for child in self.path.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name not in (self.environment_file.name, _LOCK, _WRITER_LOCK):  # new ones could be locked twice
                child.unlink()
        self.environment_file.unlink(missing_ok=True)

    def _append_session(self, config: Config) -> None:
        environment, session = self._environment(), this_session(config.seed)
        if environment.get("format") != _FORMAT or not isinstance(environment.get("sessions"), list):
            _log.warning(
                "%s: was missing or damaged, and is written anew without earlier sessions", self.environment_file
            )
            environment = {"format": _FORMAT, "sessions": []}
        first: Any = environment["sessions"][0] if environment["sessions"] else {}
        before = first.get("versions", {}) if isinstance(first, dict) else {}
        if changed := [f"{name} {before[name]} -> {new}" for name, new in session["versions"].items()
                       if name in before and before[name] != new]:  # fmt: skip
            _log.warning("%s: resumed with other versions, bits may differ: %s", self.path, ", ".join(changed))
        environment["sessions"].append(session)
        durable.write_text(self.environment_file, _dump_json(environment))

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        if not self.metrics_file.is_file():
            return []
        # Bytes, and "\n" alone: a line cut short may end inside a character, and str.splitlines knows more line ends.
        *lines, torn = self.metrics_file.read_bytes().split(b"\n")
        if torn:
            _log.warning("%s: the last line was cut short and is left out", self.metrics_file)
        pairs = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RunFolderError(f"{self.metrics_file}, line {number}: not a record: {error}") from error
            if not isinstance(record, dict):
                raise RunFolderError(f"{self.metrics_file}, line {number}: expected an object, got {line[:60]!r}")
            pairs.append((line.decode() + "\n", record))
        return pairs


@dataclass(frozen=True)
class Found:
    """Run folders below some paths: those of finished runs and the others; and the paths that have none."""

    finished: list[RunFolder]
    unfinished: list[RunFolder]
    without: list[Path]


def find_runs(paths: Iterable[Path]) -> Found:
    """The run folders among these paths, or up to two levels below them (`runs/*` has `runs/demo/<method>`), each once.

    In the order of the paths; below one by name.
    """
    found = Found([], [], [])
    seen: set[Path] = set()
    for path in paths:
        places = [path] if RunFolder(path).is_run() else [
            place for place in sorted([*path.glob("*"), *path.glob("*/*")]) if RunFolder(place).is_run()
        ]  # fmt: skip
        if not places:
            found.without.append(path)
        for place in places:
            if place.resolve() not in seen:
                seen.add(place.resolve())
                folder = RunFolder(place)
                (found.finished if folder.finished else found.unfinished).append(folder)
    return found


def _position(record: Mapping[str, Any]) -> tuple[float, float]:
    return (record.get("stage", -math.inf), record.get("round", math.inf))


def _finite(value: Any) -> Any:
    """JSON has no nan and no inf; what is undefined is null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _dump_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
