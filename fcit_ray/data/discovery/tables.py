"""The files of records below what a user names, each read and looked at by itself."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcit_ray.data.discovery.keys import FoundKeys, find_keys
from fcit_ray.data.discovery.seen import Seen, seen_in
from fcit_ray.data.formats.files import WRITTEN_BESIDE, files_of, natural
from fcit_ray.data.formats.kinds import EXPECTED, KINDS, ending
from fcit_ray.data.formats.reading import read_file
from fcit_ray.errors import DataError
from fcit_ray.storage.files import read_json

_MOST_FILES = 2000
"""More files of records below one folder are no data sets that somebody means to declare one by one."""
_NO_DATA = (*WRITTEN_BESIDE, "quarantine.json", "manifest.json", "parquet.json")
"""What is written about data and is none."""
_SHARD = re.compile(r"(train|test|validation)-\d+-of-\d+\.parquet")
_FORMATS = {"json": "JSON, a list of records", "lines": "JSON Lines", "csv": "CSV", "tsv": "tab-separated table",
            "parquet": "Parquet", "arrow": "Arrow table"}  # fmt: skip
_SAVED = "folder of the datasets library (save_to_disk)"
_SHARDS = "Parquet shards as the hub has them"


@dataclass(frozen=True)
class _Unit:
    """One table of a folder: a file, or what the datasets library lays out.

    Attributes:
        path: by which it is named and grouped; of shards that share a folder, their split's name in it.
        declared: what a configuration names.
        split: of shards.
        format: in words, where the kind of its files does not say it.
    """

    path: Path
    declared: Path
    split: str = "train"
    format: str = ""


@dataclass(frozen=True)
class Table:
    """One file of records.

    Attributes:
        path: of the file, or of a folder that is one table; its name says what it is.
        declared: what a configuration names, where that is another: the folder of shards.
        format: what it is, in words.
        rows: the records as they stand there.
        found: what their keys were taken for.
        seen: those that were understood, in order.
    """

    path: Path
    declared: Path
    format: str
    rows: Sequence[Any]
    found: FoundKeys
    seen: tuple[Seen, ...]

    @property
    def votes(self) -> str:
        """That its records list what several people answered, with how many; empty if they do not."""
        if self.found.turns or "answer" in self.found.keys:
            return ""
        counts = [len(row["answers"]) for row in self.rows if isinstance(row, Mapping) and row.get("answers")]
        listed = f"{len(counts)} of {len(self.rows)} records of {self.path} list what several people answered"
        return f"{listed}, {min(counts)} to {max(counts)} of them"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every question with its answer."""
        return [pair for record in self.seen for pair in record.pairs]


@dataclass(frozen=True)
class Aside:
    """A file that is no table of records, or none that can be told, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Tables:
    """What lies below the paths that a user named.

    Attributes:
        tables: files of records, in order.
        captions: COCO files of reference captions.
        aside: other files that looked like records.
    """

    tables: tuple[Table, ...]
    captions: tuple[Path, ...]
    aside: tuple[Aside, ...]


def find_tables(paths: Sequence[Path], keys: Mapping[str, str] | None = None) -> Tables:
    """Read every file of records.

    Args:
        paths: files, and folders to look through.
        keys: of their records, by role, that the user names.

    Raises:
        DataError: a path that is not there, a named file of no known kind, or a folder of thousands.
    """
    tables: list[Table] = []
    captions: list[Path] = []
    aside: list[Aside] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; expected files of records, or folders to look through")
        units = list(_units_in(path)) if path.is_dir() else [_Unit(path, path)]
        if len(units) > _MOST_FILES:
            raise DataError(
                f"{path}: holds {len(units)} files that may be records; name those that are, or their folders"
            )
        for unit in units:
            try:
                found = _look(unit, keys or {})
            except DataError as error:
                if unit.path == path:
                    raise
                aside.append(Aside(unit.path, str(error).removeprefix(f"{unit.path}: ")))
                continue
            if isinstance(found, Table):
                tables.append(found)
            elif isinstance(found, Aside):
                aside.append(found)
            else:
                captions.append(found)
    return Tables(tuple(tables), tuple(captions), tuple(aside))


def _units_in(folder: Path) -> Iterator[_Unit]:
    for above, below, names in os.walk(folder):
        here = Path(above)
        below[:] = sorted((name for name in below if not name.startswith(".")), key=natural)
        if "dataset_dict.json" in names:
            yield from (_Unit(here / name, here / name, format=_SAVED) for name in below)
            below.clear()
            continue
        if "state.json" in names:
            yield _Unit(here, here, format=_SAVED)
            below.clear()
            continue
        data = sorted((name for name in names if _may_be_records(name)), key=natural)
        splits = [match[1] for name in data if (match := _SHARD.fullmatch(name))]
        if splits and len(splits) == len(data):
            yield from (_Unit(here / split, here, split, _SHARDS) for split in dict.fromkeys(splits))
        else:
            yield from (_Unit(here / name, here / name) for name in data)


def _may_be_records(name: str) -> bool:
    return not name.startswith((".", "_")) and ending(name) in KINDS and name not in _NO_DATA


def _look(unit: _Unit, keys: Mapping[str, str]) -> Table | Aside | Path:
    """What a unit is: a table, a file of reference captions, or neither."""
    path = unit.path
    if unit.format:
        files = files_of("", str(unit.declared), unit.split)
    elif ending(str(path)) not in KINDS:
        raise DataError(f"{path}: its name ends in {path.suffix or 'nothing'}; expected {EXPECTED}")
    else:
        files = [str(path)]
    try:
        rows = [row for file in files for row in read_file(file, file)]
    except DataError:
        if ending(str(path)) == ".json" and _is_captions(path):
            return path
        raise
    return _table(unit, rows, keys)


def _is_captions(path: Path) -> bool:
    """Whether it is COCO's format, an object of images and annotations."""
    try:
        content = read_json(path)
    except ValueError:
        return False
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def _table(unit: _Unit, rows: Sequence[Any], keys: Mapping[str, str]) -> Table | Aside:
    """What rows are taken for."""
    format = unit.format or _FORMATS[KINDS[ending(str(unit.path))]]
    found = find_keys(rows, keys)
    if found.missing:
        return Aside(unit.path, found.missing)
    seen = tuple(seen_in(rows, found))
    if not seen:
        return Aside(unit.path, "none of its records has a question with an answer")
    if found.turns == "messages":
        format += " of chat messages"
    return Table(unit.path, unit.declared, format, rows, found, seen)
