"""metrics.jsonl: one record a line, appended as the run goes on, cut back to where it resumes.

Position of a record: a record with `stage` s and `round` r lies at (s, r); one with `stage` alone (the evaluation
after stage s; -1 is zero-shot) lies after all rounds of stage s and before (s + 1, 0), wherever in the file it stands;
one without a stage lies before everything.
"""

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fcit_ray.errors import RunFolderError
from fcit_ray.storage import durable
from fcit_ray.storage.strict_json import finite

_log = logging.getLogger(__name__)


def append_record(file: Path, record: Mapping[str, Any]) -> None:
    """Append one record; on return it is on the disk. Non-finite floats become null.

    Raises:
        OSError: the disk is full, or the like.
    """
    line = json.dumps(finite(record), allow_nan=False) + "\n"
    with file.open("a", encoding="utf-8", newline="\n") as lines:
        lines.write(line)
        lines.flush()
        os.fsync(lines.fileno())


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records as they were appended, none where there is no file; a last line that a kill cut short is left out.

    Raises:
        RunFolderError: a line that is no record, by number.
    """
    return [record for _, record in _lines(file)]


def in_order(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records by their position; those of one position as they were appended.

    An evaluation that was answered behind rounds of the next stage lies after some of them in the file, at a place that
    depends on who was idle when; by position it lies before them.
    """
    return sorted(records, key=_position)


def rewind(file: Path, stage: float, round: int) -> bool:
    """Drop, atomically, every record at or beyond a position, and a last line that was cut short.

    Returns:
        Whether there was anything to drop.

    Raises:
        RunFolderError: a line that is no record, by number.
        OSError: the file cannot be written.
    """
    if not file.is_file():
        return False
    kept = "".join(line for line, record in _lines(file) if _position(record) < (stage, round))
    if kept.encode() != file.read_bytes():
        durable.write_text(file, kept)
        return True
    return False


def _position(record: Mapping[str, Any]) -> tuple[float, float]:
    return (record.get("stage", -math.inf), record.get("round", math.inf))


def _lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    if not file.is_file():
        return []
    # Bytes, and "\n" alone: a line cut short may end inside a character, and str.splitlines knows more line ends.
    *lines, torn = file.read_bytes().split(b"\n")
    if torn:
        _log.warning("%s: the last line was cut short and is left out", file)
    pairs = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{file}, line {number}: not a record: {error}") from error
        if not isinstance(record, dict):
            raise RunFolderError(f"{file}, line {number}: expected an object, got {line[:60]!r}")
        pairs.append((line.decode() + "\n", record))
    return pairs
