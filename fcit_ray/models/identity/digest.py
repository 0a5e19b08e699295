"""What a feature's value depends on, as one digest: features of equal digest and content are interchangeable."""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import PIL
import torch
import transformers

from fcit_ray.errors import ModelError
from fcit_ray.models.folder import model_folder, read_header, weight_files
from fcit_ray.models.identity.cache import remember, remembered
from fcit_ray.models.identity.clip import ROWS, clip_parts
from fcit_ray.models.load import find_vision_tower

Half = Literal["text", "image"]
"""Of what a feature is: an instruction or a picture."""

_VERSION: Final = 1
"""Raise it when features of the same encoder and content become others."""
_SETTINGS: Final = (".json", ".txt", ".model")
_CHUNK: Final = 2**22
_SETTLED_S: Final = 2.0  # a file that changed this recently may change again within the clock's tick


def encoder_digest(model: str, encoder: str, half: Half, device: str, memo: Path | None = None) -> str:
    """A digest of the tensors that an encoder is loaded from, its tokenizer and processor, and what computes it.

    The versions of torch, transformers and Pillow belong to it, and of a CPU its instructions: any of them may change
    the last bits.

    Args:
        model: as in `model.path`.
        encoder: as in `model.identity_encoder`.
        half: which of its encoders.
        device: `cpu` or `cuda`.
        memo: folder in which digests of weights are kept, so that they are read once a file, not once a run; a file is
            the same as long as its place, size, inode and times of change are.

    Raises:
        ModelError: the model or a part of it is missing.
    """
    if encoder == "base":
        assert half == "image", "token embeddings are looked up, which is quicker than a cache"
        folder, names = model_folder(model), [*find_vision_tower(model).values()]
    else:
        folder, names = clip_parts(encoder, "text" if half == "text" else "vision")
    parts: list[Any] = [_VERSION, half, encoder == "base", device, ROWS[device]]
    parts += [torch.__version__, transformers.__version__, PIL.__version__ if half == "image" else ""]
    if device == "cpu":
        parts += [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    parts.append(_weights(folder, sorted(names), memo))
    for path in sorted(folder.iterdir()):
        if path.suffix in _SETTINGS and not path.name.endswith(".index.json"):
            parts.append([path.name, hashlib.sha256(path.read_bytes()).hexdigest()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _weights(folder: Path, names: Sequence[str], memo: Path | None) -> str:
    files = weight_files(folder)
    paths = {files[name]: (folder / files[name]).resolve() for name in names}
    stats = [path.stat() for path in paths.values()]
    state = [[str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
             for path, stat in zip(paths.values(), stats, strict=True)]  # fmt: skip
    name = hashlib.sha256(json.dumps([names, state]).encode()).hexdigest()
    if memo is not None and (known := remembered(memo, name)):
        return known
    digest = _of_tensors(folder, names, files)
    if memo is not None and all(time.time() - stat.st_ctime > _SETTLED_S for stat in stats):
        remember(memo, name, digest)
    return digest


def _of_tensors(folder: Path, names: Sequence[str], files: dict[str, str]) -> str:
    """SHA-256 over the tensors' names, types, shapes and bytes; one tensor's bytes are never in memory as a whole."""
    total = hashlib.sha256()
    headers = {file: read_header(folder / file) for file in {files[name] for name in names}}
    for name in names:
        entry = headers[files[name]][name]
        total.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        try:
            with (folder / files[name]).open("rb") as stream:
                start = 8 + int.from_bytes(stream.read(8), "little")
                begin, end = entry["data_offsets"]
                stream.seek(start + begin)
                left = end - begin
                while left and (chunk := stream.read(min(left, _CHUNK))):
                    total.update(chunk)
                    left -= len(chunk)
        except OSError as error:
            raise ModelError(f"{folder / files[name]}: cannot be read: {error}") from None
    return total.hexdigest()
