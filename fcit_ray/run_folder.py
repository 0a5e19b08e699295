"""What a run leaves behind.

    config.yaml        the resolved configuration; reproduces the run
    environment.json   versions, platform, commit, command line; also what marks the folder as a run's
    partition.json     who holds how many records of what, and what decided it; partition.png shows it
    metrics.jsonl      one record a round and an evaluation
    checkpoints/       stage_0003_round_0002/: the state before round 2 of stage 3 (both from 0)
    predictions/       <label>/<dataset>.jsonl
    logs/ray.log       Ray's own words
    results.json       written last: its presence means that the run is finished

Position of a record: a record with `stage` s and `round` r lies at (s, r); one with `stage` alone (the evaluation
after stage s; -1 is zero-shot) lies after all rounds of stage s and before (s + 1, 0); one without a stage lies before
everything.
"""

import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from fcit_ray import checkpoint, durable
from fcit_ray.checkpoint import CheckpointError
from fcit_ray.config import Config, describe, dump_config
from fcit_ray.errors import UserError
from fcit_ray.types import ServerState

_FORMAT: Final = "fcit_ray run"
_CHECKPOINT: Final = re.compile(r"stage_(\d+)_round_(\d+)")
_PACKAGES: Final = ("fcit_ray", "ray", "torch", "transformers", "peft")

# runtime.* says where the clients run, not what they compute, with this exception: GPU arithmetic rounds otherwise.
_DECIDES_BITS: Final = frozenset({"runtime.gpu"})

_log = logging.getLogger(__name__)


class RunFolderError(UserError):
    """A folder that cannot be used as asked."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on disk. Holds a path and nothing open, so it may be pickled into another process.

    `RunFolder.open` starts or resumes a run; `RunFolder(path)` reads one. One process at a time may write.

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
                of another configuration.
            CheckpointError: the checkpoint to resume from is damaged.
        """
        folder = cls(Path(path))
        if resume and overwrite:
            raise RunFolderError("--resume keeps what is in the folder, --overwrite deletes it: give one of them")
        if folder.path.exists() and not folder.path.is_dir():
            raise RunFolderError(f"{folder.path}: is a file; name a folder")
        if folder._holds_run():
            if overwrite:
                folder._clear()
            elif not resume:
                state = "a finished" if folder.finished else "an unfinished"
                going_on = "" if folder.finished else "--resume to go on with it, "
                raise RunFolderError(
                    f"{folder.path}: holds {state} run; give {going_on}--overwrite to delete it, or another folder"
                )
        elif folder._holds_anything():
            raise RunFolderError(
                f"{folder.path}: holds files, but none that fcit_ray wrote; nothing is deleted, give another folder"
            )
        if folder._holds_run() and folder._config_file.is_file():
            folder._check_same(config)
            if not folder.finished:
                folder.latest_checkpoint()  # a damaged one is found here, before anything is started
            folder._append_session(config)
        else:
            folder.path.mkdir(parents=True, exist_ok=True)
            # First the mark, then the configuration: killed in between, the folder is known as a run that never began.
            environment = {"format": _FORMAT, "sessions": [_session(config)]}
            durable.write_text(folder._environment_file, _dump_json(environment))
            durable.write_text(folder._config_file, dump_config(config))
        for name in ("checkpoints", "predictions", "logs"):
            (folder.path / name).mkdir(exist_ok=True)
        durable.sync(folder.path)
        return folder

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._results_file.is_file()

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
            return Config.model_validate(yaml.safe_load(self._config_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunFolderError(f"{self._config_file}: missing; {self.path} is not the folder of a run") from None
        except yaml.YAMLError as error:
            raise RunFolderError(f"{self._config_file}: edited since it was written? {error}") from error
        except ValidationError as error:
            raise RunFolderError(
                f"{self._config_file}: edited, or of another release of fcit_ray:\n{describe(error)}"
            ) from None

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl; on return it is on the disk. Non-finite floats become null."""
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        with self._metrics_file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl in their order; a last line that a kill cut short is left out.

        Raises:
            RunFolderError: a line that is no record, by number.
        """
        return [record for _, record in self._lines()]

    def rewind(self, stage: int, round: int) -> None:
        """Drop, atomically, every record at or beyond a position, and a last line that was cut short.

        Called with the position of the checkpoint that a run resumes from, it leaves metrics.jsonl as it was when that
        round began. The evaluation of stage s lies before (s + 1, 0) and is kept there: it may or may not be present.
        """
        if not self._metrics_file.is_file():
            return
        kept = "".join(line for line, record in self._lines() if _position(record) < (stage, round))
        if kept.encode() != self._metrics_file.read_bytes():
            durable.write_text(self._metrics_file, kept)

    def save_checkpoint(self, state: ServerState, keep: int) -> Path:
        """Write the state under its position, then delete all but the last `keep` checkpoints.

        Raises:
            CheckpointError: the state holds something that cannot be saved.
        """
        assert keep >= 1, "a run that keeps no checkpoint cannot be resumed: set runtime.keep_checkpoints to 1 or more"
        folder = self.checkpoint_folder / f"stage_{state.stage:04d}_round_{state.round:04d}"
        checkpoint.save(state, folder)
        for old in self.checkpoints()[:-keep]:
            # Renamed before it is emptied: a half-deleted folder must not pass for a damaged checkpoint.
            durable.rename(old, durable.partial(old))
        for doomed in self.checkpoint_folder.glob(f".*{durable.PARTIAL}*"):
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
                to delete, so that the run resumes from the one before.
        """
        folders = self.checkpoints()
        if not folders:
            return None
        try:
            return checkpoint.load(folders[-1])
        except CheckpointError as error:
            before = f"resumes from {folders[-2].name}" if len(folders) > 1 else "starts again from the beginning"
            raise CheckpointError(f"{error}\nDelete the folder {folders[-1]} and the run {before}.") from error

    def write_predictions(self, label: str, dataset: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write predictions/<label>/<dataset>.jsonl as a whole, a row a line.

        Raises:
            RunFolderError: a name that is not one file name.
        """
        for name in (label, dataset):
            if not name or name.startswith(".") or Path(name).name != name:
                raise RunFolderError(f"{name!r}: names of predictions become file names; no slash, no leading dot")
        path = self.path / "predictions" / label / f"{dataset}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        durable.write_text(path, "".join(lines))
        return path

    def write_partition(self, counts: Mapping[str, Any]) -> None:
        """Write partition.json as a whole; a resumed run writes the same again."""
        durable.write_text(self.path / "partition.json", _dump_json(_finite(counts)))

    @property
    def partition_picture(self) -> Path:
        """Where the picture of the partition goes."""
        return self.path / "partition.png"

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json as a whole, last of all: from here on the run is finished."""
        durable.write_text(self._results_file, _dump_json(_finite(results)))

    def results(self) -> dict[str, Any]:
        """What `write_results` wrote.

        Raises:
            RunFolderError: the run is not finished, or the file was damaged.
        """
        try:
            results: dict[str, Any] = json.loads(self._results_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(
                f"{self._results_file}: missing; the run is not finished, --resume goes on with it"
            ) from None
        except json.JSONDecodeError as error:
            raise RunFolderError(f"{self._results_file}: edited since it was written? {error}") from error
        return results

    @property
    def _config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def _environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def _metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _results_file(self) -> Path:
        return self.path / "results.json"

    def _holds_run(self) -> bool:
        return self._environment().get("format") == _FORMAT

    def _environment(self) -> dict[str, Any]:
        try:
            environment = json.loads(self._environment_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}  # absent, or not a file of ours: not a run
        return environment if isinstance(environment, dict) else {}

    def _holds_anything(self) -> bool:
        return self.path.is_dir() and any(not child.name.endswith(durable.PARTIAL) for child in self.path.iterdir())

    def _clear(self) -> None:
        # results.json first and the mark last: killed in between, the folder is an unfinished run, not a stranger's.
        self._results_file.unlink(missing_ok=True)
        for child in self.path.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child != self._environment_file:
                child.unlink()
        self._environment_file.unlink()

    def _check_same(self, config: Config) -> None:
        old, new = _flat(self.config().model_dump(mode="json")), _flat(config.model_dump(mode="json"))
        differing = [
            f"  {key}: {_show(old, key)} in the folder, {_show(new, key)} now"
            for key in dict.fromkeys([*old, *new])
            if (not key.startswith("runtime.") or key in _DECIDES_BITS)
            and (key not in old or key not in new or old[key] != new[key])
        ]
        if differing:
            raise RunFolderError(
                f"{self.path}: holds a run of another configuration:\n" + "\n".join(differing) + "\n"
                "Resume with the folder's own config.yaml, or give another folder, or --overwrite to delete the run. "
                f"Only runtime.* keys (but {', '.join(sorted(_DECIDES_BITS))}) may differ: they do not change the bits."
            )

    def _append_session(self, config: Config) -> None:
        environment, session = self._environment(), _session(config)
        before = environment["sessions"][0]["versions"]
        if changed := [f"{name} {before.get(name)} -> {new}" for name, new in session["versions"].items()
                       if before.get(name) != new]:  # fmt: skip
            _log.warning("%s: resumed with other versions, bits may differ: %s", self.path, ", ".join(changed))
        environment["sessions"].append(session)
        durable.write_text(self._environment_file, _dump_json(environment))

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        if not self._metrics_file.is_file():
            return []
        # Bytes, and "\n" alone: a line cut short may end inside a character, and str.splitlines knows more line ends.
        *lines, torn = self._metrics_file.read_bytes().split(b"\n")
        if torn:
            _log.warning("%s: the last line was cut short and is left out", self._metrics_file)
        pairs = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise RunFolderError(f"{self._metrics_file}, line {number}: not a record: {error}") from error
            if not isinstance(record, dict):
                raise RunFolderError(f"{self._metrics_file}, line {number}: expected an object, got {line[:60]!r}")
            pairs.append((line.decode() + "\n", record))
        return pairs


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


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys; lists stay whole."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "absent"


def _session(config: Config) -> dict[str, Any]:
    """Where and with what one process started to work on the run."""
    return {
        "argv": sys.argv,
        "seed": config.seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)  # asks the metadata: importing ray or transformers costs seconds
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the package's own repository, with `-dirty` if its files differ; None outside of one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed in a venv inside another repository: not ours
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", str(here.parent)) else commit
    except (OSError, subprocess.SubprocessError):
        return None
