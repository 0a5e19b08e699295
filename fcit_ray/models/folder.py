"""A model's folder before anything of it is loaded: its files are what their names say, and none brings code along."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from fcit_ray.errors import ModelError
from fcit_ray.storage.files import misfit, read_json

TINY = Path(__file__).parent.parent / "assets" / "tiny_llava"

_SETTINGS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("chat_template.json", "adapter_config.json"),
)
_OTHERS = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "*.model",
    "*.index.json",
    "*.safetensors",
)
"""What is read beside the settings: looked at from outside, as it is up to gigabytes and says nothing of code."""
_STRANGER_BYTES = 2**22
"""A JSON file of another name is looked through for code up to this size: some are logs of a training."""


def in_one_line(error: Exception) -> str:
    """What a library's error says, shortened."""
    return " ".join(line.strip() for line in (str(error).strip() or type(error).__name__).splitlines())[:300]


def why_not_read(folder: Path, error: Exception) -> str:
    """What an error of loading says; before that, which JSON file is none, if one is."""
    for path in sorted(folder.glob("*.json")):
        try:
            read_json(path)
        except (OSError, ValueError) as reason:
            return f"{path.name} {reason}"
    return in_one_line(error)


def model_folder(path: str, key: str = "model.path") -> Path:
    """The local folder of a model, looked over by `check_folder`.

    Args:
        path: `tiny`, a folder, or a hub name found in the local cache.
        key: of the configuration, for errors.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    folder = TINY if path == "tiny" else Path(path).expanduser()
    try:
        there, is_folder = (folder / "config.json").exists(), folder.is_dir()
    except OSError as error:
        raise ModelError(f"{key}={path!r}: cannot be looked at: {error}") from None
    if not there:
        if path == "tiny":
            raise ModelError(f"model.path='tiny': {TINY} is incomplete; reinstall fcit_ray")
        if is_folder:
            raise ModelError(f"{key}={path!r}: no config.json in this folder; expected a Hugging Face model")
        try:
            folder = Path(snapshot_download(path, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            raise ModelError(
                f"{key}={path!r}: neither a folder nor a hub name in the local cache; expected 'tiny', a folder, or "
                f"a model fetched beforehand (`hf download {path}`)"
            ) from None
    check_folder(folder, f"{key}={path!r}")
    return folder


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder whose files are not what their names say, and one with code of its own.

    Of weights only the first bytes are looked at; some milliseconds in all. Code is refused here because transformers
    would ask in the terminal whether to run it, and a worker has no terminal.

    Args:
        folder: of a model; hub caches' links are followed.
        what: the folder, for errors.

    Raises:
        ModelError: names the file, what it is, and what to do.
    """
    for path in sorted(folder.iterdir()):
        known = path.name in _SETTINGS or any(path.match(pattern) for pattern in _OTHERS)
        try:
            if known and (reason := misfit(path)):
                raise ModelError(f"{what}: {path.name} {reason}")
            code = next(_code(_settings(path)), None)
        except FileNotFoundError:
            raise ModelError(f"{what}: {path.name} is a link to a file that is not there; fetch it again") from None
        except (OSError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{what}: {path.name} {error}") from None
        if code:
            raise ModelError(
                f"{what}: {path.name} names code of the model's own (auto_map: {code}), which is never run; take a "
                f"model whose architecture transformers has, and remove auto_map if this is one"
            )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{what}: holds adapters (adapter_config.json), beneath which transformers would load another base than "
            f"the folder's own; expected a whole model: merge them, or move the two apart"
        )


def weight_files(folder: Path) -> dict[str, str]:
    """The file of every tensor, of a whole or a sharded checkpoint.

    Raises:
        ModelError: there is no safetensors file, or it does not open.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return read_index(index)
    whole = folder / "model.safetensors"
    if not whole.is_file():
        raise ModelError(
            f"{folder}: neither model.safetensors nor {index.name}; other weight formats are not read. Convert "
            f"pytorch_model.bin once: fcit-ray convert {folder} OUT"
        )
    return dict.fromkeys(read_header(whole), whole.name)


def read_index(index: Path) -> dict[str, str]:
    """Which tensor is in which file of a sharded checkpoint.

    Raises:
        ModelError: not such an index.
    """
    try:
        content = read_json(index)
    except (OSError, ValueError) as error:
        raise ModelError(f"{index}: {error}") from None
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(files, dict) and files and all(isinstance(file, str) for file in files.values())):
        raise ModelError(f"{index}: no 'weight_map' from names of tensors to files; expected one")
    if outside := [file for file in files.values() if Path(file).name != file]:
        raise ModelError(f"{index}: names {outside[0]!r}; expected files beside it")
    return files


def read_header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, by name; the file is as long as it says. Reads no tensor.

    Raises:
        ModelError: not there, no safetensors, or cut short.
    """
    try:
        if reason := misfit(file):
            raise ModelError(f"{file}: {reason}")
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(9)
            if start[8:] != b"{":
                is_pickle = start.startswith((b"PK\x03\x04", b"\x80"))
                found = (
                    "is a pickle, as PyTorch writes it, under another name" if is_pickle else "is no safetensors file"
                )
                raise ModelError(f"{file}: {found}; fetch the file of this name again")
            length = int.from_bytes(start[:8], "little")
            if length > size - 8:
                raise ModelError(f"{file}: {_cut(size, 8 + length)}")
            stream.seek(8)
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except FileNotFoundError:
        raise ModelError(f"{file}: not there; fetch it again") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{file}: is no safetensors file, its header makes no sense; fetch it again") from None
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ModelError(f"{file}: {_cut(size, expected)}")
    header.pop("__metadata__", None)
    return dict(header)


def check_weights(folder: Path) -> None:
    """See that every file of a checkpoint is there and as long as it says. Reads headers, no tensor.

    Raises:
        ModelError: names the file that is not.
    """
    for name in sorted(set(weight_files(folder).values())):
        read_header(folder / name)


def _cut(size: int, expected: int) -> str:
    return f"is cut short: {size:,} bytes, and its header says {expected:,}; fetch it again"


def _settings(path: Path) -> Any:
    """What a JSON file says, if it may be settings; nothing for any other file."""
    if path.name in _SETTINGS:
        if not isinstance(settings := read_json(path), dict):
            raise ValueError(f"holds a JSON {type(settings).__name__}; expected settings by name")
        return settings
    if path.suffix != ".json" or any(path.match(pattern) for pattern in _OTHERS):
        return None
    try:
        return read_json(path) if path.stat().st_size <= _STRANGER_BYTES else None
    except (OSError, ValueError):
        return None  # nobody else will read it either


def _code(settings: Any) -> Iterator[str]:
    """What the settings of a file want run, at any depth."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            if key == "auto_map" and value:
                yield str(next(iter(value.values())) if isinstance(value, dict) else value)[:80]
            yield from _code(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _code(value)
