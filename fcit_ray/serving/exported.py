"""What an export holds, given back as the run had it: the same answers, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load_file

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ExportError
from fcit_ray.results import checkpoint
from fcit_ray.serving.manifest import ADAPTER, check_files, read_manifest
from fcit_ray.serving.packing import PREFIX, unpack
from fcit_ray.serving.trained import Trained
from fcit_ray.types import Params, ServerState

ADAPTER_FILE: Final = "adapter_model.safetensors"
STATE: Final = "state"
BASE: Final = "base"


def read_export(path: Path) -> Trained:
    """What the run that an export was made of has learned, as far as answers need it.

    The parameters are under the bank's own names and as the run had them, before `Method.deploy`. A projector that was
    not trained is not among them. Of the knowledge only what answers need is there; what the server optimiser and the
    clients remember is not. An export of one client has that client's values as the global ones.

    Args:
        path: the export's folder.

    Raises:
        ExportError: no export, one of a merged model, of a newer release, edited or damaged.
        CheckpointError: its `state` is damaged.
        ConfigError: its configuration is of another release.
    """
    manifest = read_manifest(path)
    if manifest["kind"] != ADAPTER:
        raise ExportError(
            f"{path}: holds a merged model, which plain transformers loads (its README.md says how); to be asked by "
            "fcit_ray it has to be an export without --merge, or the run itself"
        )
    files = manifest["files"]
    needed = [ADAPTER_FILE, *(name for name in files if name.startswith(f"{STATE}/"))]
    check_files(path, files, needed)
    state = checkpoint.load(path / STATE)
    try:
        packed = load_file(path / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:  # of the right digest, so this is the machine's
        raise ExportError(f"{path / ADAPTER_FILE}: cannot be read: {error}") from None
    found = unpack(packed, manifest["layers"], manifest["num_adapters"])
    found |= {name: packed[PREFIX + name] for name in manifest["projector"]}
    found |= state.params
    config = parse_config(manifest["config"])
    if config.model.path != "tiny" and (path / BASE).is_dir():
        model = config.model.model_copy(update={"path": str((path / BASE).resolve())})
        config = config.model_copy(update={"model": model})
    return Trained(config, _ordered(state, found, manifest["params"]), path)


def _ordered(state: ServerState, found: Params, names: list[str]) -> ServerState:
    """The state with all its parameters, in the order that they have in the run."""
    return replace(state, params={name: found[name] for name in names})
