"""Tensors into a safetensors file, as any other file of a folder is written; and the format itself, piece by piece."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fcit_ray.storage.trees import Place, raw

DTYPES: Final = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.bool: "BOOL", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
}  # fmt: skip
"""What the format stores as it is, by its name there."""

_BY_NAME: Final = {name: dtype for dtype, name in DTYPES.items()}
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a file that whoever may read its neighbours may read (the library's own are for their owner alone).

    Raises:
        OSError: the disk is full, or the like.
        SafetensorError, UnicodeEncodeError: the tensors cannot be written.
    """
    with path.open("wb"):
        mode = path.stat().st_mode  # what the process's mask makes of a new file
    with disk_errors(path):
        save_file(dict(tensors), path, dict(metadata) if metadata else None)
    path.chmod(mode)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the safetensors library says of a disk, as Python says it.

    Raises:
        OSError: instead of a SafetensorError that tells of one.
    """
    try:
        yield
    except SafetensorError as error:
        if number := _OS_ERROR.search(str(error)):  # the library hands on no errno
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece: the same whenever the tensors are, and none of them copied.

    Args:
        tensors: dense, contiguous, on the CPU, of a dtype in `DTYPES`.
        metadata: texts that go with them.

    Raises:
        UnicodeEncodeError: a name that is no Unicode.
    """
    # The largest numbers first: each then lies at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        entries[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for name in names:
        yield raw(tensors[name])


def places(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Where the tensors of a safetensors file lie in it, and the texts that go with them.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
    metadata = entries.pop("__metadata__", {})
    return {
        name: Place(_BY_NAME[entry["dtype"]], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
        for name, entry in entries.items()
    }, metadata
