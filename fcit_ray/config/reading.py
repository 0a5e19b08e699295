"""From YAML files and `key.path=value` overrides to a checked configuration."""

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fcit_ray.config.datasets import is_function
from fcit_ray.config.schema import Config, parse_config
from fcit_ray.errors import ConfigError, disk_reason
from fcit_ray.storage.plain_yaml import MAX_BYTES, YamlError, read_yaml


def load_config(files: Sequence[Path | str], overrides: Sequence[str] = ()) -> Config:
    """Merge YAML files from left to right, then the overrides, and check the result.

    Mappings merge key by key, anything else is replaced; a section with a `name` (`method`, `server`, `local` ...) is
    replaced as a whole when the later file names another one, since its hyper-parameters belong to the name.
    Overrides count as one more file, so their order does not matter unless they give the same key.

    A scorer of one's own that a file names, `module:function`, is that of `module.py` beside the file if it is there.

    A top-level `tuned` maps run names to keys that this benchmark wants for a run of that name (a learning rate chosen
    on its validation split). They are merged after all files and before the overrides.

    Args:
        files: YAML files, each a mapping.
        overrides: `key.path=value`, the value read as YAML.

    Raises:
        ConfigError: names every offending key.
    """
    merged: dict[str, Any] = {}
    declared: dict[str, tuple[Path, Any]] = {}
    for file in files:
        path = Path(file)
        loaded = read_settings(path)
        if loaded is None:
            continue
        if not isinstance(loaded, Mapping):
            raise ConfigError(f"{path}: expected keys and values, got {type(loaded).__name__}")
        loaded = _with_scorers_beside(loaded, path.parent)
        _check_declared_once(declared, path, loaded)
        merged = _merge(merged, loaded)
    given: dict[str, Any] = {}
    for override in overrides:
        given = _merge(given, _parse_override(override), by_name=False)
    given = dict(_with_scorers_beside(given, Path(), modules=False))
    tuned = merged.pop("tuned", {})
    if not isinstance(tuned, Mapping) or not all(isinstance(keys, Mapping) for keys in tuned.values()):
        raise ConfigError("tuned: expected a mapping from run names to keys and their values")
    return parse_config(_merge(_merge(merged, tuned.get(str(merged.get("name")), {})), given))


def _check_declared_once(declared: dict[str, tuple[Path, Any]], path: Path, loaded: Mapping[str, Any]) -> None:
    """Refuse two files that declare datasets of one name differently: merged, they would be a third that nobody meant.

    Args:
        declared: by name the file and the declaration of those seen so far; the file's are added.
        path: the file.
        loaded: what it holds.
    """
    benchmark = loaded.get("benchmark")
    datasets = benchmark.get("datasets") if isinstance(benchmark, Mapping) else None
    for name, each in datasets.items() if isinstance(datasets, Mapping) else ():
        other, before = declared.setdefault(str(name), (path, each))
        if before != each:
            raise ConfigError(
                f"benchmark.datasets.{name}: two datasets of one name, declared differently in {other} and in {path}; "
                f"give one of them another name, or change single keys on the command line "
                f"(benchmark.datasets.{name}.<key>=...)"
            )


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with some keys changed.

    Args:
        config: complete.
        overrides: `key.path=value`, the value read as YAML.

    Raises:
        ConfigError: names every offending key.
    """
    values = config.model_dump(mode="json")
    for override in overrides:
        values = _merge(values, _parse_override(override), by_name=False)
    return parse_config(values)


def read_settings(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        ConfigError: no such file, or none that is taken.
    """
    try:
        if not path.is_file():
            raise ConfigError(_no_file(path))
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ConfigError(f"{path}: holds {size} bytes; a file of settings has at most {MAX_BYTES}")
        return _parsed(path.read_bytes())
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {disk_reason(error, path)}") from None


@lru_cache(maxsize=64)
def _parsed(text: bytes) -> Any:
    """Read once, as a sweep merges the same few files hundreds of times; nobody writes into what comes of it."""
    return read_yaml(text)


def _no_file(path: Path) -> str:
    """What to say of a path that is no file, with the file that was probably meant."""
    if path.exists():
        return f"{path}: is no file; expected a YAML file"
    if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", str(path)):
        return f"{path}: no such file; expected a YAML file, or an override, which reads key.path=value"
    beside = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    meant = f"; did you mean {path.with_name(close[0])}?" if close else ""
    return f"{path}: no such file; expected a YAML file{meant}"


def _with_scorers_beside(values: Mapping[str, Any], folder: Path, modules: bool = True) -> Mapping[str, Any]:
    """The values of a file whose datasets name scorers of files beside it by the path of these files.

    Args:
        values: of the file, or of overrides.
        folder: of the file; of overrides the working directory.
        modules: whether `module:function` may be a file there too, and not `file.py:function` alone: what lies in the
            working directory changes no name that is not written as a file.
    """
    benchmark = values.get("benchmark")
    datasets = benchmark.get("datasets") if isinstance(benchmark, Mapping) else None
    if not isinstance(benchmark, Mapping) or not isinstance(datasets, Mapping):
        return values

    def found(rule: Any) -> Any:
        if not isinstance(rule, str) or not is_function(rule):
            return rule
        module, _, function = rule.rpartition(":")
        written_as_file = module.endswith(".py")
        file = folder / (module if written_as_file else f"{module.replace('.', '/')}.py")
        return f"{file.resolve()}:{function}" if (written_as_file or modules) and file.is_file() else rule

    def answered(dataset: Any) -> Any:
        answer = dataset.get("answer") if isinstance(dataset, Mapping) else None
        if isinstance(answer, Mapping):
            return {**dataset, "answer": {k: found(v) if k in ("kind", "released") else v for k, v in answer.items()}}
        return {**dataset, "answer": found(answer)} if isinstance(answer, str) else dataset

    named = {name: answered(dataset) for name, dataset in datasets.items()}
    return {**values, "benchmark": {**benchmark, "datasets": named}}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], by_name: bool = True) -> dict[str, Any]:
    """`over` on top of `base`; with `by_name`, a section under another name replaces the one that was there."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
            merged[key] = value
        elif by_name and "name" in old and value.get("name", old["name"]) != old["name"]:
            merged[key] = dict(value)
        else:
            merged[key] = _merge(old, value, by_name)
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{text!r}: an override reads key.path=value")
    try:
        tree: Any = read_yaml(value)
    except YamlError as error:
        raise ConfigError(f"{text!r}: the value: {error}") from None
    for key in reversed(keys):
        tree = {key: tree}
    return dict(tree)
