"""The configurations that come with the package, by name: inside it where it was installed, `configs/` in a clone."""

import os
from importlib import resources
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from fcit_ray.config.mistakes import nearest
from fcit_ray.errors import ConfigError
from fcit_ray.storage.location import is_uri, redact

Kind = Literal["", "methods", "sweeps"]
"""A folder of the shipped configurations; the empty one is that of the benchmarks."""


def configs_folder() -> Path:
    """The folder of the shipped configurations."""
    package = Path(str(resources.files("fcit_ray")))
    inside = package / "configs"  # of a wheel
    return inside if inside.is_dir() else package.parent / "configs"


def shipped() -> dict[str, Path]:
    """The shipped configurations by name, their path in `configs/` without suffix; those of benchmarks come first."""
    folder = configs_folder()
    found = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.yaml")}
    found = {name: file for name, file in found.items() if not name.startswith("catalogs/")}
    return {name: found[name] for name in sorted(found, key=lambda name: ("/" in name, name))}


def about(file: Path) -> str:
    """What a shipped configuration says of itself: the first sentences of its comment, up to the command."""
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or text.startswith("fcit-ray ") or not text:
            break
        if not text.startswith("yaml-language-server:"):
            words.append(text)
    return " ".join(words)


def find_config(name: str | Path, kind: Kind = "") -> Path:
    """The file of a configuration that is named by a user.

    Args:
        name: a path, a URI, or the name of a shipped configuration; methods are known by their bare name too. A file
            counts only where it is written as one, with a suffix or a slash, so that no file in the working directory
            changes what a name means.
        kind: where a bare name is looked up first.

    Raises:
        RunFolderError: the store that a URI names does not answer.
        ConfigError: no such name; says which is like it. A path that leads nowhere is told by who reads it, unless
            it is that of a shipped configuration.
    """
    text = str(name)
    if is_uri(text):
        return _fetched(text)
    path = Path(text)
    written_as_file = isinstance(name, Path) or "/" in text or bool(path.suffix)
    if written_as_file and os.path.isfile(path):
        return path
    known = shipped()
    if isinstance(name, str):
        for full in (f"{kind}/{text}" if kind else text, text, f"methods/{text}"):
            if full in known:
                return known[full]
    if written_as_file:
        bare = text.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
        if bare in known and not os.path.exists(path):
            raise ConfigError(f"{text}: no such file; did you mean {bare!r}, which comes with fcit_ray?")
        if isinstance(name, Path) or path.suffix or os.path.exists(path):
            return path
    elif os.path.isfile(path):
        raise ConfigError(f"{text}: no shipped configuration; for the file of that name write ./{text}")
    choices = [*known, *(full.removeprefix("methods/") for full in known)]
    if kind and "/" not in text:
        choices = [full.removeprefix(f"{kind}/") for full in known if full.startswith(f"{kind}/")]
    raise ConfigError(
        f"{text}: no shipped configuration (`fcit-ray list` names them, a file of your own is written with its suffix, "
        f"an override reads key.path=value){nearest(text, choices)}"
    )


def _fetched(uri: str) -> Path:
    """This process's copy of a file in a store."""
    from fcit_ray.storage.mirror import mirror_of  # pyarrow, which no other configuration needs

    base, mark, options = uri.partition("?")
    folder, _, name = base.rpartition("/")
    mirror = mirror_of(f"{folder}{mark}{options}")
    if not mirror.fetch(unquote(name)):
        raise ConfigError(f"{redact(uri)}: no such file there")
    return mirror.path / unquote(name)
