"""Whether a run that is to go on still has all that its figures are made of; every loss is named with what to do."""

import logging
from collections.abc import Mapping
from typing import Any

from fcit_ray.config.schema import Config, dump_config
from fcit_ray.errors import CheckpointError, RunFolderError
from fcit_ray.results import checkpoint
from fcit_ray.results.cover import (
    CONFIG,
    DECIDES_BITS,
    config_sha256,
    decides_bits,
    flat,
    metrics_fault,
    predictions_label,
    values_sha256,
)
from fcit_ray.results.results_file import read_results
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.storage import durable

_log = logging.getLogger(__name__)


def check_whole(folder: RunFolder, config: Config) -> None:
    """Refuse to go on with a run that lost something its figures are made of; write anew what can be."""
    folders = folder.checkpoints()
    if folder.finished:
        said, witness = read_results(folder.results_file)[1], folder.results_file.name
    elif folders:
        if (state := folder.latest_checkpoint()) is not None:  # a damaged one is found before anything is started
            _check_owed(folder, config, state.stage, state.round)
        said, witness = checkpoint.beside(folders[-1]), folders[-1].name
    else:
        rounds = sum(record.get("kind") == "round" for record in folder.records())
        if rounds > 1:  # one may be there: it is written before its checkpoint
            raise RunFolderError(
                f"{folder.checkpoint_folder}: holds no checkpoint, though {folder.metrics_file.name} tells of {rounds} "
                "rounds; copy them back, or give --overwrite to start the run anew"
            )
        said, witness = _of_an_update(folder)
    _check_config(folder, config, said, witness)
    if (folder.finished or folders) and said and (fault := metrics_fault(folder.metrics_file, said)):
        raise RunFolderError(
            f"{folder.metrics_file}: {fault}, and figures are made of it since {witness} was written; copy it back, "
            f"or give --overwrite to start the run anew{_earlier(folder)}"
        )
    _tell_of_lost_predictions(folder)


def _check_owed(folder: RunFolder, config: Config, stage: int, round: int) -> None:
    """Refuse to go on where a stage is to be evaluated yet, and the state that answers is lost.

    It is the newest checkpoint's, or that of a checkpoint that was kept for it: an evaluation is answered behind the
    rounds that follow.
    """
    if not config.evaluation.every_stage:
        return
    known = {record["stage"] for record in folder.records() if record.get("kind") == "evaluation"}
    for owed in set(range(stage)) - known - ({stage - 1} if round == 0 else set()):
        if not folder.checkpoint_at(owed + 1, 0).is_dir():
            raise RunFolderError(
                f"{folder.path}: stage {owed} (counted from 0) was not evaluated yet when the run was ended, and "
                f"{folder.checkpoint_at(owed + 1, 0).name}, which its questions are to be answered from, is missing; "
                "copy it back, or give --overwrite to start the run anew"
            )
        folder.checkpoint_of(owed + 1, 0)  # a damaged one


def _of_an_update(folder: RunFolder) -> tuple[dict[str, Any] | None, str]:
    """What an update under way says of the configuration, where there is no checkpoint yet."""
    for kept in folder.updates():
        try:
            return checkpoint.beside(kept), kept.name
        except CheckpointError:
            continue  # damaged: it begins anew
    return None, ""


def _check_config(folder: RunFolder, config: Config, said: Mapping[str, Any] | None, witness: str) -> None:
    there = folder.config_file.is_file()
    if there:
        folder.config()  # that it is one of this release, and YAML at all
    found = config_sha256(folder.config_file) if there else values_sha256(config.model_dump(mode="json"))
    if said is None or found == said[CONFIG]:
        if not there:
            durable.write_text(folder.config_file, dump_config(config))
            _log.warning("%s: was missing, and is written anew", folder.config_file)
        return _check_same(folder, config)
    if there:
        raise RunFolderError(
            f"{folder.config_file}: edited since {witness} was written; put back what it was, or give --overwrite to "
            "start the run anew"
        )
    raise RunFolderError(
        f"{folder.config_file}: missing, and what is given now is not the configuration that {witness} was written "
        "under; give the same files and overrides again, copy it back, or give --overwrite to start the run anew"
    )


def _earlier(folder: RunFolder) -> str:
    """Which checkpoints a record file that has lost its end is still good for, in words; empty if for none."""
    if folder.finished:
        return ""
    newer: list[str] = []
    for older in reversed(folder.checkpoints()):
        try:
            if newer and not metrics_fault(folder.metrics_file, checkpoint.beside(older)):
                return f", or delete {' and '.join(newer)} to resume from {older.name}"
        except CheckpointError:
            pass  # of no use to resume from either
        newer.append(str(older))
    return ""


def _tell_of_lost_predictions(folder: RunFolder) -> None:
    for record in folder.records():
        if record.get("kind") == "evaluation":
            label = predictions_label(record["stage"])
            lost = [
                name for name in record.get("datasets", {})
                if not folder.holds(f"predictions/{label}/{name}.jsonl")
            ]  # fmt: skip
            if lost:
                _log.warning(
                    "%s: predictions/%s of %s are missing; no figure is made of them, and they are not written again",
                    folder.path, label, ", ".join(lost),
                )  # fmt: skip


def _check_same(folder: RunFolder, config: Config) -> None:
    old, new = flat(folder.config().model_dump(mode="json")), flat(config.model_dump(mode="json"))
    differing = [
        f"  {key}: {_show(old, key)} in the folder, {_show(new, key)} now"
        for key in dict.fromkeys([*old, *new])
        if decides_bits(key) and (key not in old or key not in new or old[key] != new[key])
    ]
    if differing:
        raise RunFolderError(
            f"{folder.path}: holds a run of another configuration:\n" + "\n".join(differing) + "\n"
            "Resume with the folder's own config.yaml, or give another folder (--out), or --overwrite to delete the "
            f"run. Only tracking.*, failures.* and runtime.* keys (but {', '.join(sorted(DECIDES_BITS))}) may differ: "
            "they do not change the bits."
        )


def _show(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "absent"
