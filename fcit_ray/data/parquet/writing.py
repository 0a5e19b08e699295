"""From the authors' layout to sharded Parquet, for object stores: `reading` says what is written.

The manifest is written last. Until then a journal, `parquet.partial.json`, says which files are whole, so that a
conversion that was interrupted is completed by starting it again, and never looks finished before.

What is there is kept only if writing it now would give the same bytes. For records the plan's hashes of the instruction
files say so; images have no hash there, so their tables are put together again and compared, which reads every image.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fcit_ray.data.parquet.manifest import IMAGES, MANIFEST, Manifest, Plan, TableFile, parse_manifest
from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.parquet.reading import IMAGE_SCHEMA, RECORD_SCHEMA, ROWS_PER_GROUP, open_parquet
from fcit_ray.data.parquet.sources import Sources, datasets_in, folder_of, look_through
from fcit_ray.data.records import layout, quarantine
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.faults import refuse
from fcit_ray.data.records.fields import printable
from fcit_ray.data.records.images import OpenImage, file_fault, image_faults
from fcit_ray.data.records.parsing import Record
from fcit_ray.errors import DataError, disk_reason
from fcit_ray.storage.location import absolute, check_uri, file_in, is_folder, is_uri
from fcit_ray.storage.object_store import HashingFile, Store, Written, sha256_at

JOURNAL = "parquet.partial.json"

Row = dict[str, Any]
Progress = Callable[[int, int], None]
"""Told how many files there have been, and how many there are."""


def write_parquet(
    collection: Collection,
    out: str,
    datasets: Sequence[str] = (),
    images: Literal["embed", "reference"] = "embed",
    rows_per_file: int = 5000,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Convert a data root's instruction files, references and images.

    Files of the same plan that are there already, with the right hash, are kept, those of images only if every image
    is still the same. Records in quarantine are left out.

    Args:
        collection: what is declared, below a folder.
        out: folder or URI to write to.
        datasets: which; none means all that are there.
        images: `embed` puts the files' bytes into tables; `reference` leaves them below `root`.
        rows_per_file: rows of a table's file at most.
        progress: told of every file.

    Raises:
        DataError: a record or image cannot be used, or a place cannot be written.
    """
    root = collection.root
    for place in (root, out):
        check_uri(place)
    if rows_per_file < 1:
        raise DataError(f"rows_per_file={rows_per_file}: expected at least 1")
    if is_uri(root) or parquet_at(root) or not is_folder(root):
        raise DataError(f"{root}: expected a folder that holds the datasets' files as they were made")
    store = Store(out)
    if store.folder == Path(os.path.realpath(root)):
        raise DataError(f"{out}: is the data root itself; expected another place")
    root = absolute(str(root))
    collection = replace(collection, root=root)
    chosen = list(dict.fromkeys(datasets)) or datasets_in(collection)
    found = look_through(collection, chosen)
    if images == "reference":
        layout.check_images(root, found.images.values(), collection.opener)
    plan = _plan(root, found, images, rows_per_file)
    try:
        manifest = _Conversion(collection, store, plan, progress).write(found)
    except (OSError, pa.ArrowException) as error:
        reason = disk_reason(error, error.filename or out) if isinstance(error, OSError) else error
        raise DataError(f"{out}: cannot be written: {reason}") from error
    open_parquet.cache_clear()  # this process may have opened what was there before
    return manifest


def _plan(root: str, found: Sources, images: Literal["embed", "reference"], rows_per_file: int) -> Plan:
    away = quarantine.read_quarantine(root)
    return Plan(
        images=images,
        image_root=root if images == "reference" else None,
        rows_per_file=rows_per_file,
        sources={source: sha256_at(file_in(root, source)) for source in found.sources},
        set_aside={source: len(away[source]) for source in found.sources if away.get(source)},
        quarantine=sha256_at(str(Path(root) / quarantine.QUARANTINE_FILE)) if away else None,
        parts=found.parts,
        read_from=root if found.names_root else None,
    )


class _Conversion:
    """One conversion: what is there already, and what has been written."""

    def __init__(self, collection: Collection, store: Store, plan: Plan, progress: Progress):
        self._opener, self._most_mb = collection.opener, collection.max_table_mb
        self._root, self._store, self._plan, self._progress = collection.root, store, plan, progress
        self._tables: dict[str, list[TableFile]] = {}
        self._done = 0
        self._total = 0
        self._old = self._earlier()
        same = self._old is not None and self._old.plan == plan
        files = self._old.tables.values() if self._old and same else ()
        self._reusable = {file.name: file for table in files for file in table}

    def write(self, found: Sources) -> Manifest:
        """Write every table that is not there yet, then the manifest."""
        size = self._plan.rows_per_file
        sources, users, references = found.sources, found.images, found.references
        images = sorted(users)
        pieces = {
            source: list(_pieces(list(_record_rows(self._root, source, source in references, self._most_mb)), size))
            for source in sources
        }
        if self._plan.images == "embed":
            pieces[IMAGES] = list(_pieces([{"path": image} for image in images], size))
        self._total = sum(map(len, pieces.values()))
        # From here on nothing that looks finished may be there: the manifest goes before anything else changes.
        if self._old:
            self._store.write_bytes(JOURNAL, _dump(self._old))
            self._store.delete(MANIFEST)
        for source in sources:
            folder = folder_of(source)
            for number, rows in enumerate(pieces.pop(source)):
                self._keep_or_write(source, f"{folder}/{number:05}.parquet", len(rows), None, _filler(rows))
        for number, rows in enumerate(pieces.pop(IMAGES, [])):
            fill = _image_filler(self._root, [row["path"] for row in rows], users, self._opener)
            self._keep_or_write(IMAGES, f"{IMAGES}/{number:05}.parquet", len(rows), rows[-1]["path"], fill)
        manifest = Manifest(plan=self._plan, tables=self._tables)
        self._store.write_bytes(MANIFEST, _dump(manifest))
        self._store.delete(JOURNAL)
        named = {file.name for table in self._tables.values() for file in table}
        for table in (self._old.tables if self._old else {}).values():
            for file in table:
                if file.name not in named:
                    self._store.delete(file.name)
        return manifest

    def _keep_or_write(
        self, table: str, name: str, rows: int, last: str | None, fill: Callable[[HashingFile], None]
    ) -> None:
        there = self._reusable.get(name)
        found = self._store.look(name) if there else None
        same = there is not None and found is not None and found.sha256 == there.sha256
        if there is None or not same or (table == IMAGES and _rehearsed(fill) != found):
            written = self._store.write(name, fill)
            there = TableFile(name=name, rows=rows, bytes=written.bytes, sha256=written.sha256, last=last)
        self._tables.setdefault(table, []).append(there)
        self._reusable[name] = there
        self._done += 1
        self._store.write_bytes(JOURNAL, _dump(self._journal()))
        self._progress(self._done, self._total)

    def _journal(self) -> Manifest:
        """What is whole by now, those of an earlier attempt that have not been come to included."""
        rest = {file.name for table in self._tables.values() for file in table}
        later = [file for name, file in self._reusable.items() if name not in rest]
        return Manifest(plan=self._plan, tables={**self._tables, "": later})

    def _earlier(self) -> Manifest | None:
        for name in (MANIFEST, JOURNAL):
            if text := self._store.read(name):
                return parse_manifest(text, file_in(self._store.location, name))
        return None


def _rehearsed(fill: Callable[[HashingFile], None]) -> Written:
    """What a file would come to, without writing it."""
    with Path(os.devnull).open("wb") as nowhere:
        sink = HashingFile(nowhere)
        fill(sink)
    return sink.written


def _record_rows(root: str, source: str, references: bool, most_mb: int) -> Iterator[Row]:
    """A file's rows; a file of references' lists one after the other."""
    if not references:
        for index, item in layout.read_items(root, source, most_mb=most_mb):
            identity = next(
                (_text(item[key]) for key in ("question_id", "id") if item.get(key) not in (None, "")), None
            )
            yield {
                "index": index,
                "part": "records",
                "id": identity,
                "image": _images(item),
                "record": _json(item),
            }
        return
    content = layout.read_json(file_in(root, source))
    lists = {"data": content} if isinstance(content, list) else content
    for part in ("images", "annotations", "data"):  # of COCO's files, and of those of what people answered
        for index, item in enumerate(lists.get(part) or []):
            row = {"index": index, "part": part, "record": _json(item)}
            identity = _text(item.get("id", item.get("question_id")))
            yield {**row, "id": identity, "image": _text(item.get("file_name"))}


def _text(value: Any) -> str | None:
    return None if value is None else printable(str(value))


def _images(item: Any) -> str | None:
    """What a record names as its picture under LLaVA's keys, for whoever looks; of several the list as JSON."""
    found = item.get("image") or item.get("images")
    if isinstance(found, list):
        return _json(found) if len(found) > 1 else _text(found[0])
    return _text(found) if isinstance(found, str) else None


def _filler(rows: Sequence[Row]) -> Callable[[HashingFile], None]:
    def fill(sink: HashingFile) -> None:
        pq.write_table(pa.Table.from_pylist(list(rows), RECORD_SCHEMA), sink, compression="zstd")

    return fill


def _image_filler(
    root: str, images: Sequence[str], users: dict[str, Record], opener: OpenImage
) -> Callable[[HashingFile], None]:
    def fill(sink: HashingFile) -> None:
        faults: list[str] = []
        # JPEG and PNG do not shrink further; statistics of the bytes would only repeat them.
        with pq.ParquetWriter(
            sink, IMAGE_SCHEMA, compression="none", use_dictionary=False, write_statistics=["path"]
        ) as writer:
            for group in _pieces(images, ROWS_PER_GROUP):
                contents = []
                for image in group:
                    content, fault = _content(root, image, opener)
                    contents.append(content)
                    if fault:
                        faults.append(f"{users[image].where}: image {image}: {fault}")
                writer.write_table(pa.table([list(group), contents], schema=IMAGE_SCHEMA))
        refuse(root, faults, len(images), what="images")

    return fill


def _content(root: str, image: str, opener: OpenImage) -> tuple[bytes, str | None]:
    """An image file's bytes, and what is wrong with it."""
    try:
        with opener(root, image) as file:
            return file.read(), file_fault(file)
    except (OSError, ValueError):
        return b"", image_faults(root, [image], opener=opener)[image]


def _pieces(rows: Sequence[Any], size: int) -> Iterable[list[Any]]:
    iterator = iter(rows)
    while piece := list(islice(iterator, size)):
        yield piece


def _json(item: Any) -> str:
    return json.dumps(item, ensure_ascii=True, separators=(",", ":"))


def _dump(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=1) + "\n").encode()
