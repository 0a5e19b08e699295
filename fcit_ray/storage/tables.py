"""Tables of Parquet and Arrow that are refused before they unfold to more than their reader has room for.

A table can be small on disk and large in memory: a long text that stands in every row is kept once (a dictionary), rows
without values are counted, buffers are compressed. So texts are read as the dictionaries that they are kept as, which
take no more than the file says, and what they would unfold to is added up first. A footer may lie: what is read is
added up too.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fcit_ray.errors import DataError
from fcit_ray.storage.location import redact

MOST_MB: Final = 4096
"""Megabytes (2^20 bytes) that the rows of one file may take, unless a key says otherwise."""
KEY: Final = "benchmark.max_table_mb allows more, if you trust the file and have the memory"
SPLIT: Final = "split it into several files"
SMALLER: Final = "write the table anew with smaller row groups"
ROWS: Final = 64
"""Unfolded at a time, with their pictures where these must be read."""
_KEPT_ROWS: Final = 4096  # read at a time, as they are kept, where there are no pictures among them
_MB: Final = 2**20
ROW: Final = 64
"""Bytes that a row takes as a mapping, at the least."""
_VALUE: Final = 8  # a reference to a value
_PREFIXED: Final = "DELTA_BYTE_ARRAY"  # a value is the start of the one before, and more


def parquet_file(source: Any, **options: Any) -> pq.ParquetFile:
    """A Parquet file whose texts and bytes come as dictionaries, where they are kept so.

    Args:
        source: path, or file open for reading at any position.
        options: of pyarrow.
    """
    file = pq.ParquetFile(source, **options)
    metadata = file.metadata
    kept = {
        column.path_in_schema
        for group in range(metadata.num_row_groups)
        for column in _columns(metadata.row_group(group))
        if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page
    }
    if not kept:
        return file
    if hasattr(source, "seek"):
        source.seek(0)
    return pq.ParquetFile(source, metadata=metadata, read_dictionary=sorted(kept), **options)


class Room:
    """What the rows of one file may take in memory.

    Args:
        place: of the file, as errors name it.
        most_mb: megabytes.
        remedy: what can be done about a refusal.
    """

    def __init__(self, place: str, most_mb: int = MOST_MB, remedy: str = KEY):
        self._place, self._most, self._remedy = redact(place), most_mb * _MB, remedy
        self._taken = 0

    def need(self, num_bytes: int) -> None:
        """Refuse what takes more.

        Raises:
            DataError: names the file, what it would take, the limit and the remedy.
        """
        if num_bytes > self._most:
            raise DataError(
                f"{self._place}: would unfold to {num_bytes / _MB:,.0f} MB in memory, and the limit is "
                f"{self._most // _MB:,} MB; {self._remedy}"
            )

    def take(self, batch: pa.RecordBatch, pictures: bool = True) -> pa.RecordBatch:
        """Add a batch up, and give it back; it is not unfolded yet.

        Args:
            batch: of rows.
            pictures: whether its bytes stay in memory with the rest.

        Raises:
            DataError: there is no room for it.
        """
        self.need(unfolded(batch))
        self._taken += unfolded(batch, pictures)
        self.need(self._taken)
        return batch

    def rows(self, file: pq.ParquetFile, columns: Sequence[str], groups: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Rows of a Parquet file of `parquet_file`, a few at a time: those that the caller wants he is to `take`."""
        leaves = [*_leaves(file, columns, groups)]
        most = ROWS if any(_holds_pictures(kind, leaf) for kind, leaf in leaves) else _KEPT_ROWS
        kept = [leaf.total_uncompressed_size for _, leaf in leaves if _PREFIXED in leaf.encodings]
        size = self._most // max([1, *kept])
        return iter(file.iter_batches(max(1, min(most, size)), row_groups=list(groups), columns=list(columns)))

    def table(self, file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows of a Parquet file of `parquet_file`, a few at a time, taken; all but bytes (pictures) is to stay.

        Raises:
            DataError: they take more than there is room for: before any are given out, unless the footer lies.
        """
        return self.groups(file, [(number, columns) for number in range(file.num_row_groups)])

    def groups(self, file: pq.ParquetFile, parts: Sequence[tuple[int, Sequence[str]]]) -> Iterator[pa.RecordBatch]:
        """As `table`, of row groups by number, each with the columns that are read of it."""
        total, unclear = file.metadata.num_rows * ROW, dict[int, list[str]]()
        for number, columns in parts:
            for kind, leaf in _leaves(file, columns, [number]):
                if not _holds_pictures(kind, leaf):
                    total += leaf.total_uncompressed_size + leaf.num_values * _VALUE
                    if _unfolds(leaf):
                        unclear.setdefault(number, []).append(leaf.path_in_schema)
        self.need(total)
        told = 0
        for number, columns in unclear.items():
            told += sum(unfolded(batch, pictures=False) for batch in self.rows(file, columns, [number]))
        self.need(told)
        for number, columns in parts:
            for batch in self.rows(file, columns, [number]):
                self.take(batch, pictures=False)
                yield from (batch.slice(start, ROWS) for start in range(0, batch.num_rows, ROWS))

    def column(
        self, file: pq.ParquetFile, column: str, group: int, as_kept: Callable[[], pq.ParquetFile]
    ) -> pa.ChunkedArray:
        """A column of a row group; nothing is added up, as one alone is held.

        Args:
            file: that is read.
            column: its name.
            group: number of the row group.
            as_kept: opens the same by `parquet_file`, which is slower for pictures that all differ.

        Raises:
            DataError: it takes more than there is room for.
        """
        leaves = [leaf for _, leaf in _leaves(file, [column], [group])]
        kept = sum(leaf.total_uncompressed_size for leaf in leaves)
        values = max((leaf.num_values for leaf in leaves), default=0)
        self.need(kept + values * _VALUE)
        if kept * values > self._most and any(map(_unfolds, leaves)):
            file = as_kept()
            if any(_PREFIXED in leaf.encodings for leaf in leaves):  # which are kept in no dictionary
                self.need(sum(unfolded(batch) for batch in self.rows(file, [column], [group])))
                return pa.Table.from_batches(self.rows(file, [column], [group]))[column]
        return file.read_row_group(group, columns=[column])[column]

    def arrow(self, source: pa.NativeFile, in_file: bool) -> Iterator[pa.RecordBatch]:
        """Rows of an Arrow table, a few at a time.

        Args:
            source: mapped or in memory.
            in_file: whether it is a file of Arrow, and else a stream.

        Raises:
            DataError: they take more than there is room for.
        """
        batches = self.arrow_table(source, in_file).to_batches(max_chunksize=ROWS)
        self.need(sum(unfolded(batch, pictures=False) for batch in batches))
        for batch in batches:
            yield self.take(batch, pictures=False)

    def arrow_table(self, source: pa.NativeFile, in_file: bool) -> pa.Table:
        """All of an Arrow table, as it is kept.

        Raises:
            DataError: its buffers are compressed, and unfold to more than there is room for.
        """
        source.seek(8 if in_file else 0)  # a file of Arrow is a stream between two marks
        total = 0
        for message in _messages(source):
            total += _of_buffers(message)
            self.need(total)
        source.seek(0)
        return (pa.ipc.open_file(source) if in_file else pa.ipc.open_stream(source)).read_all()


def unfolded(batch: pa.RecordBatch, pictures: bool = True) -> int:
    """Bytes that a batch's rows take as plain values, at the least; without `pictures` those of bytes are left out."""
    return int(batch.num_rows * ROW + sum(_dense(column, pictures) for column in batch.columns))


def _dense(array: Any, pictures: bool) -> int:
    kind = array.type
    if isinstance(kind, pa.ExtensionType):
        return _dense(array.storage, pictures)
    values = array.dictionary if pa.types.is_dictionary(kind) else array
    if not pictures and (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        return len(array) * _VALUE
    if pa.types.is_dictionary(kind):
        if not _is_text(values.type):
            return len(array) * max(_dense(values, pictures), _VALUE)  # at the most; no writer of ours makes such
        lengths = pc.take(pc.binary_length(values), array.indices)
        return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0) + len(array) * _VALUE
    if pa.types.is_struct(kind):
        return sum(_dense(part, pictures) for part in array.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return len(array) * ROW + _dense(array.flatten(), pictures)
    if pa.types.is_map(kind):
        return len(array) * ROW + _dense(array.keys, pictures) + _dense(array.items, pictures)
    if pa.types.is_run_end_encoded(kind):
        runs = (_dense(array.values.slice(number, 1), pictures) for number in range(len(array.values)))
        return len(array) * max(runs, default=0)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return sum(len(value.as_buffer()) for value in array if value.is_valid) + len(array) * _VALUE
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return (sum(filter(None, array.sizes.to_pylist())) + len(array)) * max(_dense(array.values, pictures), _VALUE)
    return int(array.nbytes) + len(array) * _VALUE


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    )  # fmt: skip


def _holds_pictures(kind: str, column: Any) -> bool:
    """Whether a column of Parquet is bytes, by its logical type."""
    return kind == "NONE" and bool(column.physical_type == "BYTE_ARRAY")


def _unfolds(column: Any) -> bool:
    """Whether what a column of Parquet holds may take more than it is kept in."""
    return column.physical_type == "BYTE_ARRAY" and (column.has_dictionary_page or _PREFIXED in column.encodings)


def _leaves(file: pq.ParquetFile, columns: Sequence[str], groups: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """What is kept of some columns, by row group, each with its logical type."""
    kinds = [file.metadata.schema.column(number).logical_type.type for number in range(file.metadata.num_columns)]
    for number in groups:
        for kind, leaf in zip(kinds, _columns(file.metadata.row_group(number)), strict=True):
            if _is_among(leaf.path_in_schema, columns):
                yield kind, leaf


def _columns(group: Any) -> list[Any]:
    return [group.column(number) for number in range(group.num_columns)]


def _is_among(path: str, columns: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _messages(source: pa.NativeFile) -> Iterator[Any]:
    reader = pa.ipc.MessageReader.open_stream(source)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _of_buffers(message: Any) -> int:
    """Bytes that a message's compressed buffers unfold to, as their beginnings say; 0 where none are compressed.

    The message's head is a flatbuffer (Arrow's `Message.fbs`): `header_type` is its second field, `header` its third.
    """
    if message.type not in ("record batch", "dictionary") or message.body is None:
        return 0
    head = message.metadata.to_pybytes()
    root = struct.unpack_from("<I", head, 0)[0]
    batch = _follow(head, root, 2)
    if message.type == "dictionary":
        batch = batch and _follow(head, batch, 1)
    if not batch or not _follow(head, batch, 3):  # `compression`
        return 0
    buffers = _follow(head, batch, 2)
    if not buffers:
        return 0
    body, total = memoryview(message.body), 0
    for number in range(struct.unpack_from("<I", head, buffers)[0]):
        offset, length = struct.unpack_from("<qq", head, buffers + 4 + 16 * number)
        if length >= 8:
            total += max(struct.unpack_from("<q", body, offset)[0], 0)
    return total


def _follow(head: bytes, table: int, field: int) -> int:
    """Where what a field of a flatbuffer's table refers to begins; 0 where the field is not there."""
    vtable = table - struct.unpack_from("<i", head, table)[0]
    size, slot = struct.unpack_from("<H", head, vtable)[0], 4 + 2 * field
    at = struct.unpack_from("<H", head, vtable + slot)[0] if slot < size else 0
    return table + at + struct.unpack_from("<I", head, table + at)[0] if at else 0
