"""Records set aside: `<root>/quarantine.json`, written by `prepare.py check --quarantine`, honoured by the loaders.

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

from fcit_ray import durable
from fcit_ray.data.records import Items
from fcit_ray.errors import DataError

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
        return _Quarantine.model_validate_json(path.read_bytes()).files
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path}: {where}: {first['msg']}; expected what prepare.py check --quarantine writes"
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
        raise DataError(f"{path}: cannot be written: {error}") from error


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
                f"file has changed since; run `prepare.py check ROOT --quarantine` again, or delete {QUARANTINE_FILE}"
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
