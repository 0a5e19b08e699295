"""Reading the tensors of a checkpoint's files by name: safetensors, or PyTorch's `.bin` without its pickle's powers.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses every other object, so no code of a file
ever runs. Both kinds are mapped into memory: only what is asked for is read.
"""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fcit_ray.errors import ModelError
from fcit_ray.models.folder import read_header, read_index
from fcit_ray.storage.files import misfit

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
            files = [folder / name for name in sorted(set(read_index(index).values()))]
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
    try:
        if reason := misfit(file):
            raise ModelError(f"{file}: {reason}")
        if file.suffix == ".safetensors":
            read_header(file)
            with safe_open(file, framework="pt") as tensors:
                yield _SafeTensors(tensors)
            return
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: does not load: {error}") from error
    state = _unpickled(file)
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ModelError(f"{file}: holds a {type(state).__name__}; expected names and their tensors")
    yield _Loaded(state)


def _unpickled(file: Path) -> Any:
    """What `torch.save` wrote, if that is tensors in plain containers."""
    with file.open("rb") as stream:
        start = stream.read(4)
    # Files older than PyTorch 1.6 are no archives and cannot be mapped: those are read whole.
    is_archive = start == b"PK\x03\x04"
    if not is_archive and not start.startswith(b"\x80"):
        raise ModelError(f"{file}: is no file of weights as PyTorch writes them; fetch it again")
    if is_archive and not zipfile.is_zipfile(file):  # an archive's table of contents stands at its end
        raise ModelError(f"{file}: is cut short, an archive without its end; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a newer pickle's protocol
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file}: is a pickle of more than tensors, which is not read, as that would run its code; expected named "
            f"tensors and nothing else"
        ) from error
    except (OSError, EOFError, RuntimeError, LookupError, ValueError) as error:
        raise ModelError(f"{file}: is cut short or broken ({type(error).__name__}); fetch it again") from error


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
