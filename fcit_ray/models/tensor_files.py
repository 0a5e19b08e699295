"""Reading the tensors of a checkpoint's files by name: safetensors, or PyTorch's `.bin` without its pickle's powers.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses every other object, so no code of a file
ever runs. Both kinds are mapped into memory: only what is asked for is read.
"""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fcit_ray.models.load import ModelError

_WHOLE = ("model.safetensors", "pytorch_model.bin")


class TensorFile(Protocol):
    """An open file of named tensors."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor in it."""
        ...

    def tensor(self, name: str) -> Tensor: ...


def tensor_files(folder: Path) -> list[Path]:
    """The files of a whole or sharded checkpoint, safetensors first; other files in the folder do not count.

    Raises:
        ModelError: there is none, or an index names a file that is not there.
    """
    for whole in _WHOLE:
        index = folder / f"{whole}.index.json"
        if index.is_file():
            files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
            if missing := [file.name for file in files if not file.is_file()]:
                raise ModelError(f"{folder}: {index.name} names {missing[0]}, which is not there")
            return files
        if (folder / whole).is_file():
            return [folder / whole]
    raise ModelError(f"{folder}: no weights; expected {' or '.join(_WHOLE)}, or the index of several such files")


@contextmanager
def reading(file: Path) -> Iterator[TensorFile]:
    """Open one file.

    Raises:
        ModelError: not a file of named tensors and nothing else.
    """
    safe = file.suffix == ".safetensors"
    try:
        opened = safe_open(file, framework="pt") if safe else None
        # Files older than PyTorch 1.6 are no archives and cannot be mapped: those are read whole.
        mapped = zipfile.is_zipfile(file)
        state = None if safe else torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError) as error:
        raise ModelError(f"{file}: expected named tensors and nothing else: {str(error).splitlines()[0]}") from error
    if opened is not None:
        with opened as tensors:
            yield _SafeTensors(tensors)
        return
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ModelError(f"{file}: holds a {type(state).__name__}; expected names and their tensors")
    yield _Loaded(state)


class _SafeTensors:
    def __init__(self, opened: safe_open):
        self.opened = opened

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(self.opened.get_slice(name).get_shape()) for name in self.opened.keys()}  # noqa: SIM118

    def tensor(self, name: str) -> Tensor:
        return self.opened.get_tensor(name)


class _Loaded:
    def __init__(self, state: Mapping[str, Tensor]):
        self.state = state

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    def tensor(self, name: str) -> Tensor:
        return self.state[name]
