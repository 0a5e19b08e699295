"""fcit_ray.json: what an export is, of which run, and the digests of its files.

An export of an adapter holds

    adapter_config.json, adapter_model.safetensors   what PEFT loads
    gate.json, gate.safetensors, load_gated.py       only where answers weigh the adapters by sample or by token
    state/                                           a checkpoint: the knowledge that answers need, and the parameters
                                                     that the adapter file does not hold bit for bit
    base/                                            the frozen base, where it was asked for (`tiny`: always)
    tasks/<task>/                                    an adapter folder a task, where it was asked for
    README.md                                        the model card
    fcit_ray.json                                    this

and one of a merged model a model folder, README.md and fcit_ray.json.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fcit_ray.errors import ExportError
from fcit_ray.results.cover import json_sha256
from fcit_ray.storage.files import file_sha256, read_json
from fcit_ray.storage.strict_json import dump_json, finite

MANIFEST: Final = "fcit_ray.json"
FORMAT: Final = "fcit_ray export"
VERSION: Final = 1
"""Of the format written here; a higher one is refused, never guessed at."""
ADAPTER, MERGED = "adapter", "merged"
"""Kinds of exports."""
CARD: Final = "README.md"

_SHA256: Final = "sha256"
_REMEDY: Final = "copy the export again, or make it anew: fcit-ray export RUN OUT"


def is_export(path: Path) -> bool:
    """Whether a folder says that it is an export of ours."""
    try:
        document = read_json(path / MANIFEST)
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def write_manifest(folder: Path, said: Mapping[str, Any]) -> None:
    """Write the manifest over all files that lie in the folder.

    Args:
        folder: the export, complete but for this file.
        said: JSON values; non-finite floats become null.

    Raises:
        OSError: the disk is full, or the like.
    """
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    document = {"format": FORMAT, "version": VERSION, **finite(said), "files": files}
    text = dump_json({**document, _SHA256: json_sha256(document)})
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises:
        ExportError: no export, one of a newer release, or its manifest was edited or damaged.
    """
    file = folder / MANIFEST
    if not folder.is_dir() or not file.exists():
        raise ExportError(f"{folder}: no export (no {MANIFEST} in it); expected what `fcit-ray export` wrote")
    try:
        document = read_json(file)
    except (OSError, ValueError) as error:
        raise ExportError(f"{file}: {error}; {_REMEDY}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ExportError(f"{file}: not the manifest of an export; expected what `fcit-ray export` wrote")
    if document.get("version") != VERSION:
        raise ExportError(
            f"{file}: format version {document.get('version')!r}, this program reads version {VERSION}; use the "
            f"release of fcit_ray that wrote it ({document.get('fcit_ray', 'unknown')})"
        )
    proof = document.pop(_SHA256, None)
    if proof != json_sha256(document):
        raise ExportError(f"{file}: edited since it was written (its SHA-256 is another); {_REMEDY}")
    return document


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> None:
    """See that files are what the manifest says, byte for byte.

    Raises:
        ExportError: names the first that is not, with what was expected and found.
    """
    for name in names:
        path, entry = folder / name, files[name]
        if not path.is_file():
            raise ExportError(f"{path}: missing; {_REMEDY}")
        size, digest = path.stat().st_size, file_sha256(path)
        if (size, digest) != (entry["bytes"], entry["sha256"]):
            raise ExportError(
                f"{path}: damaged: expected {entry['bytes']} bytes of SHA-256 {entry['sha256']}, found {size} bytes "
                f"of {digest}; {_REMEDY}"
            )
