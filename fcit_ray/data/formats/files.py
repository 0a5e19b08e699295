"""Which files a declaration means: a file, a folder of files, a pattern, or what the datasets library lays out.

Files of a folder come in the order in which people count: `client_10` after `client_9`.
"""

import fnmatch
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcit_ray.data.formats.kinds import EXPECTED, KINDS, content_of, ending
from fcit_ray.errors import DataError
from fcit_ray.storage.files import parse_json
from fcit_ray.storage.location import child_of, file_in, is_uri, redact
from fcit_ray.storage.remote import kind_of, listing

_PATTERN = re.compile(r"[*?\[]")
_SHARD = re.compile(r"(\w+)-\d+-of-\d+\.\w+")
"""Of the hub: `train-00000-of-00002.parquet`."""
WRITTEN_BESIDE = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")
"""What the datasets library writes about its files."""


_SHOWN = 10


def natural(name: str) -> list[Any]:
    """By this key `client_10` comes after `client_9`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def files_of(root: str, path: str, split: str) -> list[str]:
    """The files that one path of a declaration means, in order, in the words of the path.

    Args:
        root: data root, of this machine.
        path: a file, a folder or a pattern, relative to the root or complete; or a URI.
        split: which split is wanted, of folders that hold several.

    Raises:
        DataError: a folder without such files, a pattern that nothing fits, a URI that does not answer.
    """
    place = file_in(root, path)
    if is_uri(place):
        kind = "" if _has_pattern(path) else kind_of(place)
    else:
        kind = "folder" if os.path.isdir(place) else "file" if os.path.exists(place) else ""
    if kind == "folder":
        return _in_folder(root, path, split)
    if kind == "" and _has_pattern(path):
        return _matching(root, path)
    if kind == "" and is_uri(place):
        raise DataError(f"{redact(place)}: no such file or folder there")
    return [path]  # one that is not there is said so where it is read


def _has_pattern(path: str) -> bool:
    return bool(_PATTERN.search(path.partition("?")[0] if is_uri(path) else path))


def _matching(root: str, path: str) -> list[str]:
    """Files of one folder whose names fit: no pattern in the folder's own path."""
    base, mark, options = path.partition("?") if is_uri(path) else (path, "", "")  # of a URI the options
    folder, _, pattern = base.rpartition("/")
    if _PATTERN.search(folder):
        raise DataError(f"{redact(path)}: a pattern may stand in the name of the file, not of its folders")
    folder = f"{folder}{mark}{options}"
    place = file_in(root, folder) if folder else root
    if not is_uri(place) and not Path(place).is_dir():
        raise DataError(f"{redact(file_in(root, path))}: no such folder")
    names, _ = _listing(place)
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern) and name not in WRITTEN_BESIDE]
    if not found:
        raise DataError(
            f"{redact(file_in(root, path))}: no file fits; the folder holds {', '.join(names) or 'no file'}"
        )
    return [child_of(folder, name) for name in found]


def _in_folder(root: str, path: str, split: str) -> list[str]:
    place = file_in(root, path)
    files, folders = _listing(place)
    if "dataset_dict.json" in files:
        if split not in folders:
            raise DataError(
                f"{redact(place)}: holds the splits {', '.join(folders)}; none is {split!r}, so name a folder"
            )
        return _in_folder(root, child_of(path, split), split)
    if "state.json" in files:
        return [child_of(path, name) for name in _saved(child_of(place, "state.json"))]
    data = [name for name in files if ending(name) in KINDS and name not in WRITTEN_BESIDE]
    if not data and "data" in folders:
        return _in_folder(root, child_of(path, "data"), split)
    shards = {name: match[1] for name in data if (match := _SHARD.fullmatch(name))}
    if shards and len(shards) == len(data) and set(shards.values()) & {"train", "test", "validation"}:
        if split not in shards.values():
            held = ", ".join(dict.fromkeys(shards.values()))
            raise DataError(f"{redact(place)}: holds the splits {held}; none is {split!r}, so name the files")
        data = [name for name in data if shards[name] == split]
    if not data:
        there = _several([*files, *(f"{name}/" for name in folders)])
        raise DataError(f"{redact(place)}: holds {there}; expected files of records ({EXPECTED})")
    return [child_of(path, name) for name in data]


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "nothing"


def _saved(state: str) -> list[str]:
    """The names of the tables that `save_to_disk` lists."""
    try:
        found = parse_json(content_of(state))
        return [posixpath.basename(str(entry["filename"])) for entry in found["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{redact(state)}: is not what the datasets library writes ({error})") from None


def _listing(place: str) -> tuple[list[str], list[str]]:
    """Names of files and of folders, hidden ones left out."""
    if is_uri(place):
        files, folders = listing(place)
    else:
        entries = list(os.scandir(place))
        files = [entry.name for entry in entries if not entry.is_dir()]
        folders = [entry.name for entry in entries if entry.is_dir()]
    visible = ([name for name in names if not name.startswith((".", "_"))] for names in (files, folders))
    return sorted(next(visible), key=natural), sorted(next(visible), key=natural)
