"""Records set aside: `<root>/quarantine.json`; `fcit-ray prepare check --quarantine` writes it, the loaders honour it.

A record is named by its file, its position and the SHA-256 of its JSON, so that a file that changed since is noticed
rather than losing other records than those that were looked at.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.records.parsing import Items
from fcit_ray.data.records.place import MARK
from fcit_ray.errors import DataError, disk_reason
from fcit_ray.storage import durable
from fcit_ray.storage.files import misfit
from fcit_ray.storage.location import is_folder, spellings

QUARANTINE_FILE = "quarantine.json"

_log = logging.getLogger(__name__)


class Entry(BaseModel):
    """One record set aside: position in its file, id, SHA-256 of its JSON, what kind of fault, and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int
    id: str
    sha256: str
    kind: str
    reason: str


class _Quarantine(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    files: dict[str, list[Entry]] = {}


def record_sha256(item: Any) -> str:
    """Of a record's JSON: keys sorted, no space, so that laying a file out anew changes nothing."""
    text = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_quarantine(root: Path | str) -> dict[str, list[Entry]]:
    """What is set aside, by file relative to the root; nothing if there is no quarantine.

    Raises:
        DataError: the file is not one of ours.
    """
    path = Path(root) / QUARANTINE_FILE
    try:
        if reason := misfit(path):
            raise DataError(f"{path}: {reason}")
        return _Quarantine.model_validate_json(path.read_bytes()).files
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path}: {where}: {first['msg']}; expected what `fcit-ray prepare check --quarantine` writes"
        ) from None


def write_quarantine(root: Path | str, files: Mapping[str, Iterable[Entry]]) -> None:
    """Replace the quarantine as a whole.

    Raises:
        DataError: it cannot be written.
    """
    kept = {source: sorted(entries, key=lambda entry: entry.index) for source, entries in sorted(files.items())}
    text = _Quarantine(files={source: entries for source, entries in kept.items() if entries}).model_dump_json(indent=1)
    path = Path(root) / QUARANTINE_FILE
    try:
        durable.write_text(path, text + "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {disk_reason(error, path)}") from error


def set_aside(source: str, items: Items, entries: Iterable[Entry]) -> dict[int, Entry]:
    """The entries of a file by position.

    Args:
        source: the file, relative to the root.
        items: all its records.
        entries: its part of the quarantine.

    Raises:
        DataError: a record is no longer the one that was set aside.
    """
    by_index = dict(items)
    chosen = {entry.index: entry for entry in entries}
    for index, entry in chosen.items():
        if index not in by_index or record_sha256(by_index[index]) != entry.sha256:
            raise DataError(
                f"{source}: record {index} (id {entry.id!r}) is not the one that {QUARANTINE_FILE} sets aside: the "
                "file has changed since; run `fcit-ray prepare check ROOT --quarantine` again, or delete "
                f"{QUARANTINE_FILE}"
            )
    return chosen


def keep(root: Path | str, source: str, items: Items) -> Items:
    """The records of a file that are not set aside; the log says how many are.

    Raises:
        DataError: the quarantine does not fit the file, or leaves nothing of it.
    """
    chosen = set_aside(source, items, read_quarantine(root).get(source, ()))
    if not chosen:
        return items
    _log.warning("%s: %d of %d records set aside by %s", source, len(chosen), len(items), QUARANTINE_FILE)
    kept = [(index, item) for index, item in items if index not in chosen]
    if not kept:
        raise DataError(f"{Path(root) / source}: {QUARANTINE_FILE} sets all its {len(items)} records aside")
    return kept


def still_the_same(items: Items, entries: Iterable[Entry]) -> list[Entry]:
    """Those entries of a file whose record is still the one that was set aside."""
    by_index = dict(items)
    return [e for e in entries if e.index in by_index and record_sha256(by_index[e.index]) == e.sha256]


class PartitionQuarantine:
    """What is set aside of a partition's files: by the quarantine above them, however the folder is spelled.

    Args:
        folder: of the partition.
        root: data root; its quarantine counts if there is none above the folder.
        made_of: the files that the partition was made of, if that is known, relative to the root; of each the positions
            that were set aside already.

    Raises:
        DataError: the quarantine cannot be read.
    """

    def __init__(self, folder: Path, root: str, made_of: Mapping[str, Iterable[int]]):
        self._home = _above(folder)
        home = self._home[0] if self._home else root if is_folder(root) and not parquet_at(root) else None
        entries = read_quarantine(home) if home else {}
        self._since = {
            entry.sha256: (source, entry)
            for source, known in made_of.items()
            for entry in entries.get(source, ())
            if entry.index not in set(known)
        }

    def leave_out(self, path: Path, name: str, items: Items) -> Items:
        """The records of one file that are not set aside.

        Args:
            path: the file, for messages.
            name: of it, relative to the partition's folder.
            items: all its records.

        Raises:
            DataError: the quarantine does not fit the file, or leaves nothing of it, or has come to set a record aside
                in the file that the partition was made of and not in this one.
        """
        if self._home:
            home, folder = self._home
            items = keep(home, f"{folder}/{name}", items)
        for index, item in items if self._since else ():
            if found := self._since.get(_origin(item)):
                source, entry = found
                raise DataError(
                    f"{path}: record {index} is record {entry.index} (id {entry.id!r}) of {source}, which "
                    f"{QUARANTINE_FILE} sets aside since the partition was made ({entry.kind}: {entry.reason}); write "
                    "the partition again, to another folder"
                )
        return items


def _origin(item: Any) -> str:
    """SHA-256 of the record that a partition's was made of: its own where it stands there as it was."""
    mark = item.get(MARK) if isinstance(item, Mapping) else None
    return str(mark["sha256"]) if isinstance(mark, Mapping) and "sha256" in mark else record_sha256(item)


def _above(folder: Path) -> tuple[Path, str] | None:
    """The nearest folder above one that holds a quarantine, and the name of the one below it; None if there is none."""
    for place in spellings(folder):  # links first as they are: one within a data root may lead out of it
        if place.is_dir() and place.samefile(folder):
            for above in place.parents:
                if (above / QUARANTINE_FILE).is_file():
                    return above, place.relative_to(above).as_posix()
    return None
