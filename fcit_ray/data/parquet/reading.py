"""A data root as Parquet: the manifest, the records of its tables, and one image at a time.

    parquet.json                                     the manifest, written last
    instructions/<dataset>/<file>/00000.parquet …    the records of <file>.json, in their order
    records/<file>/00000.parquet …                   those of files that lie elsewhere below the root
    records/outside/<hash>-<file>/00000.parquet …    those of files outside of it, absolute or URIs
    images/00000.parquet …                           every image once, ordered by path (unless they are referenced)

Columns of a record table: `index` (int64, position in the source file), `part` (string: `records`; of references
`images` or `annotations` of a COCO file, `data` of votes), `id` and `image` (string, null where the record has none;
several pictures as a JSON list), `record` (string: the record as JSON, every field as it was). Columns of an image
table: `path` (string, as records name it), `bytes` (binary: the file as it was, not encoded anew).

What one image costs: its file and row group are found by bisection over the tables' statistics, then the group's
`ROWS_PER_GROUP` images are read, about a megabyte, and the last group is kept. That is little beside decoding on a
local disk, and one request to an object store. Footers of open tables are kept per process.
"""

import errno
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fcit_ray.data.parquet.manifest import IMAGES, MANIFEST, Manifest, TableFile, parse_manifest
from fcit_ray.data.records.parsing import Items
from fcit_ray.errors import DataError
from fcit_ray.storage.files import NUM_BYTES, misfit_content, parse_json
from fcit_ray.storage.location import file_in
from fcit_ray.storage.object_store import Store
from fcit_ray.storage.tables import MOST_MB, SMALLER, Room, parquet_file

ROWS_PER_GROUP = 16
"""Images read together: fewer waste less, more keep the footers small."""

RECORD_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("image", pa.string()),
        pa.field("record", pa.string(), nullable=False),
    ]
)
IMAGE_SCHEMA = pa.schema(
    [pa.field("path", pa.string(), nullable=False), pa.field("bytes", pa.binary(), nullable=False)]
)

_OPEN_TABLES = 64


@lru_cache(maxsize=4)
def open_parquet(location: str) -> "ParquetRoot":
    """The Parquet root at a path or URI; opened once a process.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    store = Store(location)
    text = store.read(MANIFEST)
    if text is None:
        expected = "expected what `fcit-ray prepare parquet` writes, whole"
        raise DataError(f"benchmark.root={location!r}: no {MANIFEST}; {expected}")
    return ParquetRoot(store, parse_manifest(text, file_in(location, MANIFEST)))


class ParquetRoot:
    """Records and images of a Parquet root.

    Args:
        store: where its files are.
        manifest: which files they are.
    """

    def __init__(self, store: Store, manifest: Manifest):
        self._store = store
        self.manifest = manifest
        self._table = lru_cache(maxsize=_OPEN_TABLES)(self._open)
        self._group = lru_cache(maxsize=1)(self._read_group)

    @property
    def embeds_images(self) -> bool:
        return self.manifest.plan.images == "embed"

    def declared(self, path: str, split: str) -> list[str]:
        """The files that a path of a declaration meant when they were converted."""
        return self.manifest.plan.parts.get(f"{split}:{path}", [path])

    def items(self, source: str, most_mb: int = MOST_MB) -> Items:
        """A file's records as JSON, with their positions in the file that they came from.

        Args:
            source: the file, as it was called when it was converted.
            most_mb: megabytes that the rows of a table may take in memory.

        Raises:
            DataError: it was not converted, cannot be read, or takes more.
        """
        return [(row["index"], self._parsed(source, row)) for row in self._rows(source, most_mb)]

    def json(self, source: str) -> dict[str, list[Any]]:
        """The lists of a file of references, COCO's or what people answered.

        Raises:
            DataError: it was not converted, or cannot be read.
        """
        lists: dict[str, list[Any]] = {}
        for row in self._rows(source):
            lists.setdefault(row["part"], []).append(self._parsed(source, row))
        return lists

    def image(self, path: str) -> bytes:
        """An embedded image file's bytes.

        Raises:
            OSError: there is none, or it cannot be read.
        """
        path = self._kept_as(path)
        files = self.manifest.tables[IMAGES]
        number = bisect_left(files, path, key=lambda file: file.last or "")
        if number < len(files):
            metadata = self._table(files[number].name).metadata
            groups = range(metadata.num_row_groups)
            group = bisect_left(groups, path, key=lambda g: metadata.row_group(g).column(0).statistics.max)
            if group < len(groups):
                paths, contents = self._group(files[number].name, group)
                if path in paths:
                    return bytes(contents[paths.index(path)].as_py())
        raise FileNotFoundError(errno.ENOENT, "No such file in the image tables", path)

    def missing_images(self, paths: Iterable[str]) -> list[str]:
        """Those of these paths that no image table holds, in their order. Reads paths, no image.

        Raises:
            DataError: a table cannot be read.
        """
        there: set[str] = set()
        for file in self.manifest.tables[IMAGES]:
            there.update(row["path"] for row in self._column(file, ["path"]))
        return [path for path in paths if self._kept_as(path) not in there]

    def _kept_as(self, path: str) -> str:
        """A picture's path in the tables."""
        return path.removeprefix("datasets/") if self.manifest.plan.version == 1 else path

    def _parsed(self, source: str, row: Mapping[str, Any]) -> Any:
        try:
            return parse_json(row["record"])
        except ValueError as error:
            raise DataError(f"{file_in(self._store.location, source)}: record {row['index']} {error}") from None

    def _rows(self, source: str, most_mb: int = MOST_MB) -> list[dict[str, Any]]:
        if source not in self.manifest.tables:
            known = ", ".join(name for name in self.manifest.tables if name != IMAGES)
            raise DataError(f"{file_in(self._store.location, source)}: not among the files converted ({known})")
        files = self.manifest.tables[source]
        return [row for file in files for row in self._column(file, ["index", "part", "record"], most_mb)]

    def _column(self, file: TableFile, columns: list[str], most_mb: int = MOST_MB) -> list[dict[str, Any]]:
        place = file_in(self._store.location, file.name)
        try:
            batches = Room(place, most_mb).table(self._table(file.name), columns)
            rows = [row for batch in batches for row in batch.to_pylist()]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{place}: cannot be read: {error}") from error
        if len(rows) != file.rows:
            raise DataError(f"{place}: holds {len(rows)} rows, its manifest says {file.rows}; convert again")
        return rows

    def _open(self, name: str) -> pq.ParquetFile:
        try:
            return parquet_file(self._store.open(name), pre_buffer=True)
        except (OSError, pa.ArrowException) as error:
            place = file_in(self._store.location, name)
            try:
                with self._store.open(name) as file:
                    reason = misfit_content(file.read(NUM_BYTES)) or "is no whole Parquet file; convert again"
            except OSError:
                reason = f"cannot be read: {error}"
            raise DataError(f"{place}: {reason}") from error

    def _read_group(self, name: str, group: int) -> tuple[list[str], pa.ChunkedArray]:
        file, room = self._table(name), Room(file_in(self._store.location, name), remedy=SMALLER)
        paths, contents = (room.column(file, name, group, lambda: file) for name in ("path", "bytes"))
        return paths.to_pylist(), contents
