"""Tables of pyarrow: Parquet, and the Arrow files of the datasets library, row by row, pictures left where they are.

A picture is a column of bytes, or of `{bytes, path}` as the datasets library writes it, or lists of these; it may lie
in parts of messages too. Of Parquet whose statistics say that every row has its bytes, these are not read until a
picture is wanted; then its row group is, and the last is kept, as records are mostly asked for in order.
"""

import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fcit_ray.data.formats.embedded import Reference, reference
from fcit_ray.data.formats.kinds import content_of, ending, first_bytes
from fcit_ray.errors import DataError
from fcit_ray.storage.location import file_in, is_uri, redact
from fcit_ray.storage.remote import open_uri
from fcit_ray.storage.tables import SMALLER, SPLIT, Room, parquet_file

_OPEN_TABLES = 8
_NOT_READ: Any = object()


def read_table(place: str, name: str, most_mb: int | None = None) -> list[Any]:
    """A table's rows as JSON would hold them; of a picture stands its reference, or its path where it has no bytes.

    Args:
        place: the file's path, or its URI.
        name: as records name the file.
        most_mb: megabytes that its rows may take in memory, where a key says so.

    Raises:
        DataError: it is no whole table, or takes more.
        OSError: it cannot be read.
    """
    try:
        return list(_items(place, name, most_mb))
    except pa.ArrowException as error:
        kind = "Parquet file" if ending(place) == ".parquet" else "Arrow table"
        raise DataError(f"{redact(place)}: is no whole {kind}: {str(error).splitlines()[0]}") from None


def _items(place: str, name: str, most_mb: int | None) -> Iterator[dict[str, Any]]:
    number, room = 0, Room(place, most_mb) if most_mb else Room(place, remedy=SPLIT)
    if ending(place) == ".parquet":
        with _parquet(place, parquet_file) as file:
            schema = file.metadata.schema.to_arrow_schema()  # the file's own has dictionaries in it
            parts = [_leaves(file, schema, group) for group in range(file.num_row_groups)]
            read = [(group, leaves) for group, (leaves, _) in enumerate(parts) if leaves]
            rows = (row for batch in room.groups(file, read) for row in batch.to_pylist())
            for group, (leaves, unread) in enumerate(parts):
                for _ in range(file.metadata.row_group(group).num_rows):
                    row = next(rows, None) if leaves else {}  # nothing but pictures
                    if row is None:
                        raise pa.ArrowInvalid("it holds fewer rows than its footer says")
                    yield _item(row, schema, name, number, unread)
                    number += 1
            assert next(rows, None) is None, "a row of the table was passed over"
        return
    for batch in room.arrow(*_arrow(place)):
        for row in batch.to_pylist():
            yield _item(row, batch.schema, name, number, ())
            number += 1


def _leaves(file: pq.ParquetFile, schema: pa.Schema, group: int) -> tuple[list[str], tuple[str, ...]]:
    """The columns of a row group that say all but the pictures' bytes; and those that are bytes alone, all there."""
    metadata = file.metadata.row_group(group)
    columns = [metadata.column(number) for number in range(metadata.num_columns)]
    paths = {column.path_in_schema for column in columns}
    if any("." in name for name in schema.names):
        return schema.names, ()  # the way to a part of one would be ambiguous
    full = {column.path_in_schema for column in columns if _has_all(column)}
    alone = tuple(field.name for field in schema if _is_binary(field.type) and field.name in full)
    beside = {
        path for path in full if path.endswith(".bytes") and f"{path.removesuffix('bytes')}path" in paths
    }  # their paths say which there are
    return [path for path in sorted(paths) if path not in beside and path not in alone], alone


def _has_all(column: Any) -> bool:
    statistics = column.statistics
    return statistics is not None and statistics.has_null_count and statistics.null_count == 0


def _item(row: dict[str, Any], schema: pa.Schema, name: str, number: int, unread: tuple[str, ...]) -> dict[str, Any]:
    item = {}
    for field in schema:
        value = _NOT_READ if field.name in unread else row.get(field.name)
        plain = _plain(value, field.type, reference(name, number, field.name))
        if plain is not None:
            item[field.name] = plain
    return item


def _plain(value: Any, kind: pa.DataType, at: str) -> Any:
    """A value as JSON would hold it; `at` is what it is called if it is a picture."""
    if value is None:
        return None
    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_binary(kind):
        return at
    if pa.types.is_struct(kind):
        if _is_picture(kind):
            return at if value.get("bytes", _NOT_READ) is not None else value.get("path")
        return {field.name: _plain(value.get(field.name), field.type, f"{at}/{field.name}") for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_plain(part, kind.value_type, f"{at}/{number}") for number, part in enumerate(value)]
    if isinstance(value, datetime | date | time | timedelta | Decimal):
        return str(value)
    return value


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_picture(kind: pa.DataType) -> bool:
    return "bytes" in {field.name for field in kind} and _is_binary(kind.field("bytes").type)


def _parquet(place: str, opened: Callable[..., pq.ParquetFile] = pq.ParquetFile) -> pq.ParquetFile:
    if is_uri(place):
        return opened(open_uri(place), pre_buffer=True)
    return opened(place)


def _arrow(place: str) -> tuple[pa.NativeFile, bool]:
    """A file of Arrow (true), or a stream, as the datasets library writes it; of this machine mapped, not read."""
    in_file = first_bytes(place).startswith(b"ARROW1")
    return (pa.BufferReader(content_of(place)) if is_uri(place) else pa.memory_map(place)), in_file


class Table:
    """The pictures of one table.

    Args:
        place: the file's path, or its URI.
    """

    def __init__(self, place: str):
        self._parquet = _parquet(place) if ending(place) == ".parquet" else None
        self._room = Room(place, remedy=SMALLER)
        self._arrow = None if self._parquet else self._room.arrow_table(*_arrow(place))
        sizes = (
            [self._parquet.metadata.row_group(group).num_rows for group in range(self._parquet.num_row_groups)]
            if self._parquet
            else [self._arrow.num_rows if self._arrow else 0]
        )
        self._ends = list(accumulate(sizes))
        self._column = lru_cache(maxsize=1)(self._read_column)
        self._as_kept = lru_cache(maxsize=1)(lambda: _parquet(place, parquet_file))

    def picture(self, row: int, at: tuple[str, ...]) -> bytes:
        """A picture's bytes.

        Raises:
            OSError: there is none, or it cannot be read.
        DataError: its column takes more memory than there is room for.
        """
        group = bisect_right(self._ends, row)
        if group == len(self._ends):
            raise FileNotFoundError(errno.ENOENT, f"No row {row} in the table of {self._ends[-1]} rows")
        first = self._ends[group - 1] if group else 0
        try:
            column = self._column(group, at[0])
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, f"No column {at[0]} in the table") from None
        except pa.ArrowException as error:
            raise OSError(errno.EIO, f"cannot be read: {error}") from error
        try:
            value = column[row - first].as_py()
            for part in at[1:]:
                value = value[int(part)] if isinstance(value, list) else value[part]
            if isinstance(value, dict):
                value = value["bytes"]
        except (KeyError, IndexError, ValueError, TypeError):
            value = None
        if not isinstance(value, bytes):
            raise FileNotFoundError(errno.ENOENT, f"No picture at {'/'.join(at)} of row {row}")
        return value

    def _read_column(self, group: int, column: str) -> pa.ChunkedArray:
        if self._parquet:
            return self._room.column(self._parquet, column, group, self._as_kept)
        assert self._arrow is not None, "one of the two is open"
        return self._arrow[column]


def embedded_picture(root: str, image: Reference) -> bytes:
    """The bytes of a picture in a table.

    Args:
        root: data root, where the table's name is relative.
        image: which.

    Raises:
        OSError: no such table, row or column, or it cannot be read.
        DataError: the table lies behind a URI that does not answer.
    """
    return open_table(file_in(root, image.table)).picture(image.row, image.at)


def open_table(place: str) -> Table:
    """The table at a place; kept open, and opened anew when its file changed.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    if is_uri(place):
        return _opened(place, 0, 0)
    found = os.stat(place)
    return _opened(place, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=_OPEN_TABLES)
def _opened(place: str, changed: int, size: int) -> Table:
    try:
        return Table(place)
    except pa.ArrowException as error:
        raise OSError(errno.EIO, f"is no whole table: {str(error).splitlines()[0]}") from error
