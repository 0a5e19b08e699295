"""What a checkpoint says of its files, and those files, none of which is read before it is checked."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from torch import Tensor

from fcit_ray.errors import CheckpointError
from fcit_ray.results.objects import FOLDER, StoredObject, Written, check
from fcit_ray.storage.files import parse_json

VERSION: Final = 4
"""Of the format written here; a higher one is refused, never guessed at."""

MANIFEST: Final = "manifest.json"
OBJECT: Final = re.compile(rf"{FOLDER}/[0-9a-f]{{64}}\.safetensors")
_READ: Final = (3, VERSION)
_FORMAT: Final = "fcit_ray checkpoint"


def read_manifest(folder: Path) -> dict[str, Any]:
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
        if version in _READ:
            intact = intact and dump_manifest(version, listed["beside"], listed["files"]).encode() == text
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise CheckpointError(f"{manifest}: damaged, not the manifest that was written; use another checkpoint")
    if version not in _READ:
        raise CheckpointError(
            f"{manifest}: format version {version}, this program reads version {VERSION}; "
            "go on with the release of fcit_ray that wrote it, or start the run anew with --overwrite"
        )
    return dict(listed)


def dump_manifest(version: int, beside: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> str:
    # What is said of the files has its proof in them; of what is beside them there may be none left.
    proof = hashlib.sha256(json.dumps(beside).encode()).hexdigest()
    return _dump({"format": _FORMAT, "version": version, "beside": beside, "beside_sha256": proof, "files": files})


def _dump(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


class Files:
    """The files of a checkpoint, none of which is read before it is checked."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._listed = read_manifest(folder)["files"]

    def checked(self, name: str) -> Path:
        """The path of a file that is as it was written."""
        written = self.written(name)
        path = (self._folder.parent if OBJECT.fullmatch(name) else self._folder) / name
        check(path, written)
        return path

    def written(self, name: str) -> Written:
        """What the manifest says of a file."""
        entry = self._listed.get(name)
        if entry is None or entry.keys() != {"bytes", "sha256"}:
            manifest = self._folder / MANIFEST
            raise CheckpointError(f"{manifest}: damaged, lacks size or digest of {name}; use another checkpoint")
        return Written(Path(name).name, entry["bytes"], entry["sha256"])

    def tensors(self, names: Iterable[str], keys: Collection[str] | None = None) -> dict[str, Tensor]:
        """The tensors of several files, those of some keys or all of them."""
        found: dict[str, Tensor] = {}
        for path in map(self.checked, names):
            with safe_open(path, framework="pt") as file:
                # Cloned: each tensor owns its memory instead of a map of a file that pruning may delete.
                found |= {key: file.get_tensor(key).clone() for key in file.keys() if keys is None or key in keys}  # noqa: SIM118 (not a mapping)
        return found

    def memory(self, name: str) -> StoredObject:
        """A client's memory, where it lies."""
        return StoredObject(self.checked(name), self.written(name))
