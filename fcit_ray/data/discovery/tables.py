"""The files of records below what a user names, each read and looked at by itself."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcit_ray.data.discovery.keys import FoundKeys, find_keys
from fcit_ray.data.discovery.names import by_number
from fcit_ray.data.discovery.seen import Seen, seen_in
from fcit_ray.data.records.layout import read_json
from fcit_ray.errors import DataError

_SUFFIXES = (".json",)
_MOST_FILES = 2000
"""More files of records below one folder are no data sets that somebody means to declare one by one."""


@dataclass(frozen=True)
class Table:
    """One file of records.

    Attributes:
        path: of the file, or of a folder that is one table.
        format: what it is, in words.
        rows: the records as they stand there.
        found: what their keys were taken for.
        seen: those that were understood, in order.
    """

    path: Path
    format: str
    rows: Sequence[Any]
    found: FoundKeys
    seen: tuple[Seen, ...]

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


def find_tables(paths: Sequence[Path]) -> Tables:
    """Read every file of records.

    Args:
        paths: files, and folders to look through.

    Raises:
        DataError: a path that is not there, a named file of no known kind, or a folder of thousands.
    """
    tables: list[Table] = []
    captions: list[Path] = []
    aside: list[Aside] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; expected files of records, or folders to look through")
        files = list(_files_in(path)) if path.is_dir() else [path]
        if len(files) > _MOST_FILES:
            raise DataError(
                f"{path}: holds {len(files)} files that may be records; name those that are, or their folders"
            )
        for file in files:
            try:
                found = _look(file)
            except DataError as error:
                if file == path:
                    raise
                aside.append(Aside(file, str(error).removeprefix(f"{file}: ")))
                continue
            if isinstance(found, Table):
                tables.append(found)
            elif isinstance(found, Aside):
                aside.append(found)
            else:
                captions.append(found)
    return Tables(tuple(tables), tuple(captions), tuple(aside))


def _files_in(folder: Path) -> Iterator[Path]:
    for above, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from sorted(
            (Path(above) / name for name in names if not name.startswith(".") and name.lower().endswith(_SUFFIXES)),
            key=by_number,
        )


def _look(file: Path) -> Table | Aside | Path:
    content = read_json(file)
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return file
    if not isinstance(content, list):
        return Aside(file, f"holds a JSON {type(content).__name__}, not a list of records")
    if not content:
        return Aside(file, "holds no records")
    return table_of(file, "JSON, a list of records", content)


def table_of(path: Path, format: str, rows: Sequence[Any]) -> Table | Aside:
    """What rows are taken for."""
    found = find_keys(rows)
    if found.missing:
        return Aside(path, found.missing)
    seen = tuple(seen_in(rows, found))
    if not seen:
        return Aside(path, "none of its records has a question with an answer")
    return Table(path, format, rows, found, seen)
