"""A server state as a folder of plain files, and back, bit for bit.

    state.json      everything but the tensors; a tensor's place is taken by its key
    manifest.json   format version, size and SHA-256 of all files of the checkpoint, and what else belongs to the state

The tensors of a run's checkpoints are objects, which they share (`objects.py`): a group that has not changed since the
last checkpoint is not written again. A group holds the parameters of an adapter (or what all clients share), or of what
the server remembers the values of one adapter under one key; small ones are put together; every client's memory is one.
A checkpoint by itself holds two files of its own instead, as format 3 did, which is read still:

    params.safetensors  the global parameters under their own names, so that other tools can read them
    state.safetensors   every other tensor, under its path in the state: knowledge/anchor/layer.0~1A

Nothing is pickled: loading a checkpoint runs no code from it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from fcit_ray.errors import CheckpointError
from fcit_ray.params import num_bytes
from fcit_ray.results.encoding import checked_key, decode, decode_tensor, encode, encode_tensor, escape
from fcit_ray.results.manifest import MANIFEST, OBJECT, VERSION, Files, dump_manifest, read_manifest
from fcit_ray.results.objects import FOLDER, Objects, Written, file_sha256, write
from fcit_ray.storage import durable
from fcit_ray.types import ServerState

_PARAMS: Final = "params.safetensors"
_STATE: Final = "state.safetensors"
_JSON: Final = "state.json"
_IN: Final = {"params_in": (_PARAMS,), "state_in": (_STATE,)}
_TREES: Final = ("knowledge", "optimizer", "memories", "local")
_SMALL: Final = 2**16  # bytes of a group that is no file of its own

Unit = Callable[[str], Any]
"""What of a run a parameter belongs to, by its name: what is trained together changes together."""


def one(name: str) -> Any:
    """All of it is one."""
    return None


def save(
    state: ServerState,
    folder: Path,
    beside: Mapping[str, Any] | None = None,
    objects: Objects | None = None,
    unit: Unit = one,
) -> ServerState:
    """Write a checkpoint; `folder` appears under its name only when every byte is on the disk.

    An existing `folder` is replaced in two renames; killed between them, the old one lies beside it as
    `.<name>.partial-old`.

    Args:
        state: tensors may be of any dtype, shape, stride and device; they come back contiguous, on the CPU, without
            gradients, and no two share memory.
        folder: its parent must exist.
        beside: what the manifest says of files that are no part of the checkpoint; a JSON value, read by `beside`.
        objects: where the tensors go, in a folder beside `folder`; None puts them into `folder` itself.
        unit: by which objects are made.

    Returns:
        The same state; with `objects`, its memories are read from there.

    Raises:
        OSError: the disk is full, or the like; nothing is left but a hidden folder, and objects that nobody needs.
        CheckpointError: a leaf that is neither tensor nor JSON value (the message names its path).
    """
    params: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    document: dict[str, Any] = {"stage": state.stage, "round": state.round}
    # The order of the names is kept: sums over parameters, hence bits, may depend on it.
    document["params"] = {
        checked_key(name, "params"): encode_tensor(value, name, params) for name, value in state.params.items()
    }
    for name in _TREES:
        if objects is None or name != "memories":
            document[name] = encode(getattr(state, name), name, tensors)

    temporary = durable.partial(folder)
    if temporary.exists():
        shutil.rmtree(temporary)  # left by a save that was killed
    temporary.mkdir()
    files: dict[str, Written] = {}
    try:
        if objects is None:
            for name, held in ((_PARAMS, params), (_STATE, tensors)):
                files[name] = write(held, temporary / name)
        else:
            memories = {
                checked_key(client, "memories"): objects.put_tree(memory, f"memories/{escape(client)}")
                for client, memory in state.memories.items()
            }
            document["memories"] = {client: _refer(memory.written, files) for client, memory in memories.items()}
            document["params_in"] = [_refer(objects.put(group), files) for group in _groups(params, unit)]
            document["state_in"] = {
                _refer(objects.put(group), files): sorted({_top(key) for key in group if key.startswith("knowledge/")})
                for group in _groups(tensors, unit, paths=True)
            }
            objects.sync()
            state = replace(state, memories=memories)
    except UnicodeEncodeError as error:
        raise CheckpointError(f"these tensors cannot be written: {error}") from error
    (temporary / _JSON).write_text(json.dumps(document, allow_nan=False, indent=1), encoding="utf-8")
    durable.sync(temporary / _JSON)
    path = temporary / _JSON
    files[_JSON] = Written(_JSON, path.stat().st_size, file_sha256(path))
    listed = {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in files.items()}
    (temporary / MANIFEST).write_text(dump_manifest(VERSION, beside or {}, listed), encoding="utf-8")
    durable.sync(temporary / MANIFEST)
    durable.sync(temporary)

    old = folder.with_name(f"{temporary.name}-old")
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        os.replace(folder, old)
    durable.rename(temporary, folder)
    if old.exists():
        shutil.rmtree(old)
    return state


def needed(folder: Path) -> set[str]:
    """Names of the objects that a checkpoint refers to.

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format.
    """
    return {name.removeprefix(f"{FOLDER}/") for name in read_manifest(folder)["files"] if OBJECT.fullmatch(name)}


def _refer(written: Written, files: dict[str, Written]) -> str:
    """The name under which the manifest has an object."""
    name = f"{FOLDER}/{written.name}"
    files[name] = written
    return name


def _groups(tensors: Mapping[str, Tensor], unit: Unit, paths: bool = False) -> list[dict[str, Tensor]]:
    """Tensors by what changes together: by unit, and of the knowledge and the local rule's memory by key."""
    groups: dict[Any, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parts = [part.replace("~1", "/").replace("~0", "~") for part in key.split("/")] if paths else [key]
        owner = next((found for part in parts if (found := unit(part)) is not None), None)
        tree = tuple(parts[: 1 if parts[0] == "optimizer" else 2]) if paths else ()
        groups.setdefault((tree, owner), {})[key] = value
    together: dict[str, Tensor] = {}
    large = []
    for held in groups.values():
        if num_bytes(held) < _SMALL:
            together |= held
        else:
            large.append(held)
    return [*large, together] if together else large


def _top(key: str) -> str:
    """The first two parts of a path."""
    return "/".join(key.split("/")[:2])


def beside(folder: Path) -> dict[str, Any]:
    """What `save` was told of the files beside the checkpoint.

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format.
    """
    return dict(read_manifest(folder)["beside"])


def write_beside(folder: Path, beside: Mapping[str, Any]) -> None:
    """Replace what a checkpoint says of the files beside it.

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format.
    """
    durable.write_text(folder / MANIFEST, dump_manifest(VERSION, beside, read_manifest(folder)["files"]))


def load(folder: Path) -> ServerState:
    """Read a checkpoint after checking every byte of it. Of objects the clients' memories stay where they are.

    Raises:
        CheckpointError: a file is missing, cut, changed, or of a newer format; the message names the file, what was
            expected and found, and what to do.
    """
    document = _document(folder)
    files = Files(folder)
    params, tensors = (files.tensors(document.get(part, default)) for part, default in _IN.items())
    values = {name: decode(document[name], tensors) for name in _TREES if name != "memories"}
    if "state_in" in document:
        memories = {client: files.memory(name) for client, name in document["memories"].items()}
    else:
        memories = decode(document["memories"], tensors)
    return ServerState(
        stage=document["stage"],
        round=document["round"],
        params={name: decode_tensor(value, params) for name, value in document["params"].items()},
        memories=memories,
        **values,
    )


def load_knowledge(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Those of the named tensors that the server's knowledge holds at its top level.

    The global parameters are not read.

    Raises:
        CheckpointError: as `load`, of the files that are read.
    """
    document = _document(folder)
    knowledge = document["knowledge"]
    there = [name for name in names if isinstance(knowledge.get(name), dict) and "$tensor" in knowledge[name]]
    if not there:
        return {}
    keys = {knowledge[name]["$tensor"] for name in there}
    if "state_in" in document:
        held = [name for name, tops in document["state_in"].items() if keys & set(tops)]
    else:
        held = [_STATE]
    stored = Files(folder).tensors(held, keys)
    return {name: decode_tensor(knowledge[name], stored) for name in there}


def _document(folder: Path) -> dict[str, Any]:
    files = Files(folder)
    document: dict[str, Any] = json.loads(files.checked(_JSON).read_text(encoding="utf-8"))
    return document
