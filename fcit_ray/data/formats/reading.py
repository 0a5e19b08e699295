"""One file of any format to its records: plain values with their positions, as JSON would hold them."""

import csv
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcit_ray.data.formats.kinds import content_of, first_bytes, kind_of_file
from fcit_ray.errors import DataError, disk_reason
from fcit_ray.storage.files import parse_json
from fcit_ray.storage.location import is_uri, redact

_LARGEST_CELL = 2**26
_log = logging.getLogger(__name__)


def read_file(place: str, name: str, most_mb: int | None = None) -> list[Any]:
    """A file's records in their order.

    Args:
        place: the file's path, or its URI.
        name: as records name the file: pictures in its columns are named by it.
        most_mb: megabytes that the rows of a table may take in memory, where a key says so.

    Raises:
        DataError: no such file, not of the kind that its name says, not to be read as that, or too large in memory.
    """
    try:
        kind = kind_of_file(place, first_bytes(place))
        if kind in ("parquet", "arrow"):
            from fcit_ray.data.formats.columns import read_table  # pyarrow's tables, which no other format needs

            items = read_table(place, name, most_mb)
        elif kind in ("csv", "tsv"):
            items = list(_rows(place, _text(place), "\t" if kind == "tsv" else ","))
        elif kind == "lines":
            items = list(_lines(place, content_of(place)))
        else:
            items = _json(place)
    except FileNotFoundError:
        raise DataError(not_there(place)) from None
    except OSError as error:
        reason = error if is_uri(place) else disk_reason(error, place)
        raise DataError(f"{redact(place)}: cannot be read: {reason}") from error
    if not items:
        raise DataError(f"{redact(place)}: holds no records")
    return items


def not_there(place: str) -> str:
    """What to say of a file that is not there, with what lies beside it."""
    if is_uri(place):
        return f"{redact(place)}: no such file"
    folder = Path(place).parent
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
    found = f"the folder holds {', '.join(there) or 'nothing'}" if there is not None else "nor is its folder there"
    return f"{place}: no such file; {found}"


def _json(place: str) -> list[Any]:
    """A JSON list; under this name many keep JSON Lines too."""
    content = content_of(place)
    try:
        found = parse_json(content)
    except ValueError as error:
        if not _looks_like_lines(content):
            raise DataError(f"{redact(place)}: {error}") from None
        _log.warning("%s: holds JSON Lines (a record a line) under the name .json, and is read as that", redact(place))
        return list(_lines(place, content))
    if not isinstance(found, list):
        raise DataError(f"{redact(place)}: holds a JSON {type(found).__name__}; expected a list of records")
    return found


def _looks_like_lines(content: bytes) -> bool:
    """Whether the first line is a whole JSON object with something behind it."""
    first, _, rest = content.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _lines(place: str, content: bytes) -> Iterator[Any]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                yield parse_json(line)
            except ValueError as error:
                reason = str(error).replace("line 1, column", "column")
                hint = ""
                if number == 1 and line.lstrip().startswith(b"["):
                    hint = "; a JSON list belongs into a file named .json"
                raise DataError(f"{redact(place)}: line {number} {reason}{hint}") from None


def _text(place: str) -> str:
    content = content_of(place)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{redact(place)}: byte {error.start} is no UTF-8; save the table as UTF-8") from None


def _rows(place: str, text: str, comma: str) -> Iterator[dict[str, Any]]:
    """A table's rows by the names in its first; an empty cell is a value that is not there.

    A cell that is a JSON list of texts, such as `["a.png", "b.png"]`, is taken as the list.
    """
    csv.field_size_limit(_LARGEST_CELL)
    header_line = text.partition("\n")[0]
    if comma not in header_line and (other := next((mark for mark in ";\t" if mark in header_line), "")):
        _log.warning("%s: its columns are separated by %r, and it is read so", redact(place), other)
        comma = other
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise DataError(f"{redact(place)}: two columns named {twice!r}; expected names that differ")
        for cells in rows:
            if not cells:
                continue  # a blank line
            if len(cells) != len(header):
                raise DataError(
                    f"{redact(place)}: line {rows.line_num}: {len(cells)} cells for {len(header)} columns "
                    f"({', '.join(header)}); a cell with {comma!r} or a line break in it stands in double quotes"
                )
            yield {name: _cell(cell) for name, cell in zip(header, cells, strict=True) if cell != ""}
    except csv.Error as error:
        raise DataError(f"{redact(place)}: line {rows.line_num}: {error}") from None


def _cell(cell: str) -> Any:
    if cell.startswith('["') and cell.endswith('"]'):
        try:
            found = json.loads(cell)
        except ValueError:
            return cell
        if all(isinstance(part, str) for part in found):
            return found
    return cell
