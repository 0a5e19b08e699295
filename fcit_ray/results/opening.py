"""Begin a run in a folder, go on with the one that is there, or begin anew: nothing is lost that was not told to go."""

import logging
import shutil
from pathlib import Path
from typing import Any

from fcit_ray.config.schema import Config, dump_config
from fcit_ray.errors import RunFolderError
from fcit_ray.results import lock as run_lock
from fcit_ray.results import stored
from fcit_ray.results.places import UNDER_WAY
from fcit_ray.results.run_folder import FORMAT, LOCK, WRITER_LOCK, RunFolder
from fcit_ray.results.session import this_session
from fcit_ray.results.whole import check_whole
from fcit_ray.storage import durable
from fcit_ray.storage.strict_json import dump_json

_log = logging.getLogger(__name__)


def open_run(path: Path | str, config: Config, *, resume: bool, overwrite: bool) -> RunFolder:
    """Start a run in a new or empty folder, or, if told so, resume or overwrite the one that is there.

    Args:
        path: created with its parents if absent; or a URI.
        config: what is to be run.
        resume: go on with the run in the folder if there is one; it must have the same configuration, but for
            `tracking.*`, `failures.*` and `runtime.*` keys other than `runtime.gpu`, which do not change the bits. A
            finished run stays as it is.
        overwrite: delete the run in the folder if there is one, finished or not.

    Raises:
        RunFolderError: the folder holds a run and neither flag is given, or something else than a run, or a run
            of another configuration; what figures are made of was lost or edited; another process works in it; it
            cannot be used.
        CheckpointError: the checkpoint to resume from is damaged.
    """
    if resume and overwrite:
        raise RunFolderError("--resume keeps what is in the folder, --overwrite deletes it: give one of them")
    folder = RunFolder.at(path)
    with folder.using():
        if folder.path.exists() and not folder.path.is_dir():
            raise RunFolderError(f"{folder.path}: is a file; name a folder (--out)")
        _check_ours(folder)  # before anything of ours is put there
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            taken = run_lock.acquire(folder.path / LOCK, mirror=folder.mirror)
        except run_lock.Locked as holder:
            raise RunFolderError(
                f"{folder.place}: another process works in it ({holder}); wait for it, end it, or give another "
                "folder (--out)"
            ) from None
        try:
            with folder.writing():  # no driver of a session that was killed writes any more
                _begin(folder, config, resume, overwrite)
        except BaseException:
            if taken:
                folder.release()
            raise
    return folder


def _begin(folder: RunFolder, config: Config, resume: bool, overwrite: bool) -> None:
    """`open_run`, once nobody else can come between."""
    _check_ours(folder)
    begun = _has_begun(folder)
    if begun and not (resume or overwrite):
        state = "a finished" if folder.finished else "an unfinished"
        going_on = "" if folder.finished else "--resume to go on with it, "
        raise RunFolderError(
            f"{folder.path}: holds {state} run; give {going_on}--overwrite to delete it, or another folder (--out)"
        )
    if overwrite and folder.is_run():
        _clear(folder)
        begun = False
    if begun:
        if folder.mirror:
            if folders := folder.checkpoints():
                stored.drop_stale_updates(folder.mirror, folders[-1])
            else:
                stored.fetch_updates(folder.mirror)
        check_whole(folder, config)
        _append_session(folder, config)
    else:
        if folder.mirror:
            stored.clear(folder.mirror, keep_mark=True)
        for name in ("checkpoints", "predictions", UNDER_WAY):
            shutil.rmtree(folder.path / name, ignore_errors=True)  # parts of what never came to a record
        # First the mark, then the configuration: killed in between, the folder is known as a run that never began.
        environment = {"format": FORMAT, "sessions": [this_session(config.seed)]}
        durable.write_text(folder.environment_file, dump_json(environment))
        durable.write_text(folder.config_file, dump_config(config))
    for name in ("checkpoints", "predictions", "logs"):
        (folder.path / name).mkdir(exist_ok=True)
    durable.sync(folder.path)
    folder.bring(folder.environment_file.name, folder.config_file.name)


def _check_ours(folder: RunFolder) -> None:
    if not folder.is_run() and _holds_anything(folder):
        raise RunFolderError(
            f"{folder.path}: holds files, but none that fcit_ray wrote; nothing is deleted, give another folder (--out)"
        )


def _has_begun(folder: RunFolder) -> bool:
    """Whether there is anything that could be lost."""
    metrics = folder.metrics_file
    some = metrics.is_file() and metrics.stat().st_size > 0
    updates = bool(folder.updates())
    if folder.mirror:
        updates = any(name.startswith(f"{UNDER_WAY}/") for name in folder.mirror.index)
    return some or folder.finished or bool(folder.checkpoints()) or updates


def _holds_anything(folder: RunFolder) -> bool:
    if folder.mirror:
        return stored.holds_anything(folder.mirror)
    return folder.path.is_dir() and any(
        not child.name.endswith(durable.PARTIAL) and child.name not in (LOCK, WRITER_LOCK)
        for child in folder.path.iterdir()
    )


def _clear(folder: RunFolder) -> None:
    # results.json first and the mark last: killed in between, the folder is an unfinished run, not a stranger's.
    folder.results_file.unlink(missing_ok=True)
    for child in folder.path.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name not in (folder.environment_file.name, LOCK, WRITER_LOCK):  # new ones could be locked twice
            child.unlink()
    folder.environment_file.unlink(missing_ok=True)
    if folder.mirror:
        stored.clear(folder.mirror)


def _append_session(folder: RunFolder, config: Config) -> None:
    environment, session = folder.environment(), this_session(config.seed)
    if environment.get("format") != FORMAT or not isinstance(environment.get("sessions"), list):
        _log.warning(
            "%s: was missing or damaged, and is written anew without earlier sessions", folder.environment_file
        )
        environment = {"format": FORMAT, "sessions": []}
    first: Any = environment["sessions"][0] if environment["sessions"] else {}
    before = first.get("versions", {}) if isinstance(first, dict) else {}
    if changed := [f"{name} {before[name]} -> {new}" for name, new in session["versions"].items()
                   if name in before and before[name] != new]:  # fmt: skip
        _log.warning("%s: resumed with other versions, bits may differ: %s", folder.path, ", ".join(changed))
    environment["sessions"].append(session)
    durable.write_text(folder.environment_file, dump_json(environment))
