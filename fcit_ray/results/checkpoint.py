"""A server state as a folder of plain files, and back, bit for bit.

    params.safetensors   the global parameters under their own names, so that other tools can read them
    state.safetensors    every other tensor, under its path in the state: knowledge/anchor/layer.0~1A
    state.json           everything else; a tensor's place is taken by its key
    manifest.json        format version, size and SHA-256 of the three files above, and what else belongs to the state

Path parts are joined by "/", with "~" written ~0 and "/" written ~1 (RFC 6901), so no two paths share a key. Nothing
is pickled: loading a checkpoint runs no code from it.
"""

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fcit_ray.errors import CheckpointError
from fcit_ray.storage import durable
from fcit_ray.storage.files import parse_json
from fcit_ray.storage.safe_tensors import save_tensors
from fcit_ray.types import ServerState

VERSION: Final = 3
"""Of the format written here; a higher one is refused, never guessed at."""

MANIFEST: Final = "manifest.json"
_FORMAT: Final = "fcit_ray checkpoint"
_PARAMS: Final = "params.safetensors"
_STATE: Final = "state.safetensors"
_JSON: Final = "state.json"
_FILES: Final = (_PARAMS, _STATE, _JSON)
_TREES: Final = ("knowledge", "optimizer", "memories", "local")

# What safetensors stores as it is; any other dtype (complex128 ...) goes in as bytes, its dtype and shape in the JSON.
_NATIVE: Final = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
}  # fmt: skip


def save(state: ServerState, folder: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint; `folder` appears under its name only when every byte is on the disk.

    An existing `folder` is replaced in two renames; killed between them, the old one lies beside it as
    `.<name>.partial-old`.

    Args:
        state: tensors may be of any dtype, shape, stride and device; they come back contiguous, on the CPU, without
            gradients, and no two share memory.
        folder: its parent must exist.
        beside: what the manifest says of files that are no part of the checkpoint; a JSON value, read by `beside`.

    Raises:
        OSError: the disk is full, or the like; nothing is left but a hidden folder.
        CheckpointError: a leaf that is neither tensor nor JSON value (the message names its path).
    """
    params: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    document: dict[str, Any] = {"stage": state.stage, "round": state.round}
    # The order of the names is kept: sums over parameters, hence bits, may depend on it.
    document["params"] = {
        _key(name, "params"): _encode_tensor(value, name, params) for name, value in state.params.items()
    }
    for name in _TREES:
        document[name] = _encode(getattr(state, name), name, tensors)

    temporary = durable.partial(folder)
    if temporary.exists():
        shutil.rmtree(temporary)  # left by a save that was killed
    temporary.mkdir()
    (temporary / _JSON).write_text(json.dumps(document, allow_nan=False, indent=1), encoding="utf-8")
    _save_tensors(params, temporary / _PARAMS)
    _save_tensors(tensors, temporary / _STATE)
    files = {}
    for name in _FILES:
        durable.sync(temporary / name)
        files[name] = {"bytes": (temporary / name).stat().st_size, "sha256": _digest(temporary / name)}
    (temporary / MANIFEST).write_text(_dump_manifest(VERSION, beside or {}, files), encoding="utf-8")
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


def beside(folder: Path) -> dict[str, Any]:
    """What `save` was told of the files beside the checkpoint.

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format.
    """
    return dict(_manifest(folder)["beside"])


def write_beside(folder: Path, beside: Mapping[str, Any]) -> None:
    """Replace what a checkpoint says of the files beside it.

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format.
    """
    durable.write_text(folder / MANIFEST, _dump_manifest(VERSION, beside, _manifest(folder)["files"]))


def load(folder: Path) -> ServerState:
    """Read a checkpoint after checking every byte of it.

    Raises:
        CheckpointError: a file is missing, cut, changed, or of a newer format; the message names the file, what was
            expected and found, and what to do.
    """
    _verify(folder)
    document = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    params = _load_tensors(folder / _PARAMS)
    tensors = _load_tensors(folder / _STATE)
    return ServerState(
        stage=document["stage"],
        round=document["round"],
        params={name: _decode_tensor(value, params) for name, value in document["params"].items()},
        **{name: _decode(document[name], tensors) for name in _TREES},
    )


def load_knowledge(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Those of the named tensors that the server's knowledge holds at its top level.

    The global parameters are not read.

    Raises:
        CheckpointError: as `load`, of the files that are read.
    """
    _verify(folder, (_JSON,))
    knowledge = json.loads((folder / _JSON).read_text(encoding="utf-8"))["knowledge"]
    there = [name for name in names if isinstance(knowledge.get(name), dict) and "$tensor" in knowledge[name]]
    if not there:
        return {}
    _verify(folder, (_STATE,))
    with safe_open(folder / _STATE, framework="pt") as file:
        stored = {key: file.get_tensor(key).clone() for key in (knowledge[name]["$tensor"] for name in there)}
    return {name: _decode_tensor(knowledge[name], stored) for name in there}


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, unless it is missing, damaged, or of another format."""
    manifest = folder / MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint; name a folder that holds {MANIFEST}")
    if not manifest.is_file():
        raise CheckpointError(f"{manifest}: missing, so {folder} is no complete checkpoint; use another one")
    text = manifest.read_bytes()
    try:
        listed = parse_json(text)
        version = listed["version"]
        # Written back, an undamaged manifest of any version is the same bytes; that is its own checksum.
        intact = listed["format"] == _FORMAT and _dump(listed).encode() == text
        if version == VERSION:
            intact = intact and _dump_manifest(version, listed["beside"], listed["files"]).encode() == text
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise CheckpointError(f"{manifest}: damaged, not the manifest that was written; use another checkpoint")
    if version != VERSION:
        raise CheckpointError(
            f"{manifest}: format version {version}, this program reads version {VERSION}; "
            "go on with the release of fcit_ray that wrote it, or start the run anew with --overwrite"
        )
    return dict(listed)


def _verify(folder: Path, names: Iterable[str] = _FILES) -> None:
    manifest, files = folder / MANIFEST, _manifest(folder)["files"]
    for name in names:
        path, entry = folder / name, files.get(name)
        if entry is None or entry.keys() != {"bytes", "sha256"}:
            raise CheckpointError(f"{manifest}: damaged, lacks size or digest of {name}; use another checkpoint")
        if not path.is_file():
            raise CheckpointError(
                f"{path}: missing, expected {entry['bytes']} bytes with sha256 {entry['sha256']}; "
                "copy it back or use another checkpoint"
            )
        size, digest = path.stat().st_size, _digest(path)
        if (size, digest) != (entry["bytes"], entry["sha256"]):
            raise CheckpointError(
                f"{path}: damaged, expected sha256 {entry['sha256']} ({entry['bytes']} bytes), "
                f"found {digest} ({size} bytes); copy it again or use another checkpoint"
            )


def _dump_manifest(version: int, beside: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> str:
    # What is said of the files has its proof in them; of what is beside them there may be none left.
    proof = hashlib.sha256(json.dumps(beside).encode()).hexdigest()
    return _dump({"format": _FORMAT, "version": version, "beside": beside, "beside_sha256": proof, "files": files})


def _dump(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_tensors(tensors, path)
    except (SafetensorError, UnicodeEncodeError) as error:
        raise CheckpointError(f"{path.name}: these tensors cannot be written: {error}") from error


def _load_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        # Cloned: each tensor owns its memory instead of a map of a file that pruning may delete.
        return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a mapping)


def _encode_tensor(value: Tensor, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise CheckpointError(f"{key}: expected a dense tensor with data, got {type(value).__name__} {value!r:.60}")
    if key == "__metadata__":
        raise CheckpointError(f"{key}: the safetensors format reserves this name; call the parameter otherwise")
    plain = value.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    if plain.dtype in _NATIVE:
        tensors[key] = plain.clone()
        return {"$tensor": key}
    tensors[key] = plain.reshape(-1).view(torch.uint8).clone()
    return {"$tensor": key, "dtype": str(plain.dtype).removeprefix("torch."), "shape": list(plain.shape)}


def _decode_tensor(value: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    stored = tensors[value["$tensor"]]
    if "dtype" not in value:
        return stored
    return stored.view(getattr(torch, value["dtype"])).reshape(value["shape"])


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a tree; what JSON lacks becomes a mapping of one key with "$" (a user's own "$" key is doubled)."""
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, tensors)
    if isinstance(value, Mapping):
        return {
            "$" + key if key.startswith("$") else key: _encode(item, f"{path}/{_escape(key)}", tensors)
            for key, item in ((_key(key, path), item) for key, item in value.items())
        }
    if type(value) in (list, tuple):
        items = [_encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        # JSON has no inf and no nan; the sixteen hexadecimal digits keep even a nan's payload.
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    # Subclasses (numpy.float64, named tuples, enumerations) would come back as something else: refused, not flattened.
    raise CheckpointError(
        f"{path}: a checkpoint holds tensors, numbers, texts, bools, None, lists, tuples and mappings, "
        f"not {type(value).__module__}.{type(value).__qualname__}"
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return _decode_tensor(value, tensors)
    if "$tuple" in value:
        return tuple(_decode(item, tensors) for item in value["$tuple"])
    if "$float" in value:
        return struct.unpack(">d", bytes.fromhex(value["$float"]))[0]
    return {key[1:] if key.startswith("$$") else key: _decode(item, tensors) for key, item in value.items()}


def _key(key: Any, path: str) -> str:
    if type(key) is not str:
        raise CheckpointError(f"{path}: keys are texts, got {key!r} of type {type(key).__name__}")
    return key


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
