"""A trained model by its path, whatever kind of folder it lies in, made ready to be asked on this machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fcit_ray.config.schema import parse_config, with_absolute_paths
from fcit_ray.errors import ConfigError, RunFolderError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.params import params_sha256
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.serving.exported import read_export
from fcit_ray.serving.manifest import is_export
from fcit_ray.serving.trained import Trained, trained_by
from fcit_ray.storage.location import is_uri
from fcit_ray.types import Params


def open_trained(path: Path | str) -> Trained:
    """What lies in a folder: of a finished run (which may be a URI), or of an export.

    Raises:
        UserError: neither lies there, or it cannot be used; says why.
    """
    if is_uri(path):
        return trained_by(path)
    path = Path(path)
    if is_export(path):
        return read_export(path)
    if not path.is_dir():
        raise RunFolderError(f"{path}: no such folder; expected that of a finished run, or of an export")
    if not RunFolder(path).is_run():
        raise RunFolderError(
            f"{path}: no folder of a run, nor of an export; expected what `fcit-ray run` or `fcit-ray export` wrote"
        )
    return trained_by(path)


def on_this_machine(
    trained: Trained, *, gpu: bool = False, base: Path | None = None, evaluation: Mapping[str, Any] | None = None
) -> Trained:
    """The same model to be asked here.

    Args:
        trained: as it was read.
        gpu: whether it answers on GPUs; where it was trained decides nothing.
        base: folder of the frozen base, where it is not where the run had it.
        evaluation: keys of `evaluation` that are to be others; None of a key leaves it.

    Raises:
        ConfigError: a value that cannot be.
    """
    values = trained.config.model_dump(mode="json")
    values["runtime"]["gpu"] = gpu
    values["evaluation"] |= {key: value for key, value in (evaluation or {}).items() if value is not None}
    if base is not None:
        values["model"]["path"] = str(base)
    return replace(trained, config=with_absolute_paths(parse_config(values)))


def views_of(trained: Trained) -> dict[str, Params]:
    """The models that the run was evaluated by: the global one, called "", or one for each client that has its own."""
    lora = make_algorithm(trained.config).aggregation.lora
    return lora.views(trained.state.params, trained.state.memories)


def view_of(trained: Trained, client: int | None) -> str:
    """The name of the model that is asked.

    Args:
        trained: with one model, or one for each client.
        client: whose; None where there is one model.

    Raises:
        ConfigError: there are several and none was chosen, or not that one.
    """
    names = list(views_of(trained))
    if names == [""]:
        if client is not None:
            raise ConfigError(f"--client {client}: {trained.source} holds one model for all clients; leave it out")
        return ""
    if client is None or f"client_{client}" not in names:
        numbers = ", ".join(name.removeprefix("client_") for name in names)
        given = "" if client is None else f" {client}"
        raise ConfigError(
            f"--client{given}: {trained.source} holds a model for each client that trained (lora.name="
            f"{trained.config.lora['name']}); expected one of {numbers}"
        )
    return f"client_{client}"


def trained_sha256(trained: Trained, view: str = "") -> str:
    """Hexadecimal digest of what answers: a view's parameters, the knowledge, and what configures how."""
    config = trained.config
    said = {name: value for name, value in config.model_dump(mode="json").items() if name in _DECIDES}
    said["evaluation"] = {key: getattr(config.evaluation, key) for key in ("batch_size", "max_new_tokens")}
    said["gpu"] = config.runtime.gpu
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    tensors: dict[str, Tensor] = {}
    rest = _split(trained.state.knowledge, "knowledge", tensors)
    digest.update(json.dumps(rest, sort_keys=True, default=repr).encode())
    digest.update(params_sha256(views_of(trained)[view]).encode())
    digest.update(params_sha256(tensors).encode())
    return digest.hexdigest()


_DECIDES = ("seed", "regime", "method", "lora", "model")
"""Sections of the configuration that decide what a trained model answers, beside how it is asked."""


def _split(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A tree without its tensors, which are put under their places."""
    if isinstance(value, Tensor):
        tensors[place] = value
        return place
    if isinstance(value, Mapping):
        return {key: _split(item, f"{place}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_split(item, f"{place}/{number}", tensors) for number, item in enumerate(value)]
    return value
