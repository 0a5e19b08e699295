"""Tensors into a safetensors file, as any other file of a folder is written."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

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
