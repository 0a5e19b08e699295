"""Reading the files of datasets: every record is checked when it is read, so that nothing fails hours into a run.

They lie where their declarations say, or in the Parquet that `fcit-ray prepare parquet` makes of them, in a folder or
an object store, with the same records. A file is read whole; what is wrong with it is collected and reported together,
with the place of every offender.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.records.collection import Collection, Source
from fcit_ray.data.records.faults import Fault, refuse
from fcit_ray.data.records.fields import text_of
from fcit_ray.data.records.held_out import as_question, with_own_ids
from fcit_ray.data.records.images import OpenImage, image_faults, open_image
from fcit_ray.data.records.parsing import Box, Items, PlaceOf, Record, parse_box, parse_test, parse_train
from fcit_ray.data.records.raw import (
    check_root,
    num_set_aside,
    positions_set_aside,
    read_captions,
    read_items,
    read_json,
    read_references,
)
from fcit_ray.data.records.references import Captions, Votes
from fcit_ray.errors import DataError
from fcit_ray.seeds import derive_seed
from fcit_ray.storage.location import file_in

__all__ = [
    "Box",
    "DataError",
    "Record",
    "check_images",
    "load_test",
    "load_train",
    "load_train_files",
    "num_set_aside",
    "parse_box",
    "positions_set_aside",
    "read_captions",
    "read_items",
    "read_json",
    "read_references",
    "training_records",
]


def load_train(collection: Collection, dataset: str) -> list[Record]:
    """Read a dataset's training records, in file order; those in quarantine are left out, and the log says so.

    Images are not looked at: see `check_images`.

    Args:
        collection: of the dataset.
        dataset: its name.

    Raises:
        DataError: names the file and every kind of offending record.
    """
    return [record for part in load_train_files(collection, dataset) for record in part]


def load_train_files(collection: Collection, dataset: str) -> list[list[Record]]:
    """As `load_train`, file by file."""
    check_root(collection.root)
    parts: list[list[Record]] = []
    for number, source in enumerate(collection.sources(dataset, "train")):
        items = read_items(collection.root, source.name, most_mb=collection.max_table_mb)
        away = set(held_out_of(collection, dataset, number, source.name, items))
        items = [(index, item) for index, item in items if index not in away]
        parts.append(_trained(collection, dataset, source, items))
    return parts


def _trained(collection: Collection, dataset: str, source: Source, items: Items) -> list[Record]:
    place = collection.place(dataset, source.images, [source.name])
    shape = collection.shape(dataset, source.name, asked=False)
    path = file_in(collection.root, source.name)
    shape.check(path, items)
    return training_records(path, source.name, items, lambda *_: place, shape)


def held_out_of(
    collection: Collection, dataset: str, number: int, source: str, items: Items | None = None
) -> list[int]:
    """Positions of the records of a training file that are held out for validation, in order.

    Drawn by a seed of (run's seed, dataset, position of the file) among all records of the file, those in quarantine
    too: setting one aside moves no other.

    Args:
        collection: of the dataset.
        dataset: its name.
        number: position of the file among the dataset's training files.
        source: the file.
        items: its records without those in quarantine, if they are at hand.

    Raises:
        DataError: the file cannot be read.
    """
    if not (share := collection[dataset].held_out):
        return []
    kept = read_items(collection.root, source, most_mb=collection.max_table_mb) if items is None else items
    count = len(kept) + num_set_aside(collection.root, [source]).get(source, 0)
    chosen = min(max(1, round(share * count)), count - 1)
    draw = np.random.default_rng(derive_seed(collection.seed, "validation", dataset, number))
    return sorted(int(index) for index in draw.choice(count, chosen, replace=False))


def training_records(
    path: Path | str,
    source: str,
    items: Items,
    place_of: PlaceOf,
    shape: Callable[[int, Any], Any] = lambda index, item: item,
) -> list[Record]:
    """Check and read the items of one file of training records, in file order.

    Args:
        path: the file, for messages.
        source: what the records name as their file.
        items: as `read_items` gives them.
        place_of: where a record belongs; a `DataError` of it counts as the record's.
        shape: puts a record into LLaVA's shape, given its position.

    Raises:
        DataError: names the file and every kind of offending record.
    """
    records, faults = parse_train(place_of, source, items, shape)
    refuse(str(path), faults, len(items))
    return records


def field_values(root: Path | str, records: Sequence[Record], field: str, most_mb: int) -> list[str]:
    """What the files say under one key of each record; numbers as they print.

    Raises:
        DataError: names the records without the field, or whose value is no text and no number.
    """
    values: list[str] = []
    problems: list[str] = []
    source, items = "", {}
    for record in records:  # those of one file follow each other
        if record.source != source:
            source = record.source
            items = dict(read_items(root, source, False, most_mb))
        try:
            values.append(text_of(items[record.index], field))
        except DataError as error:
            problems.append(f"{record.where}: {error}")
    refuse(file_in(root, "instructions"), problems, len(records))
    return values


def load_test(
    collection: Collection, dataset: str, split: Literal["test", "validation"] = "test", limit: int | None = None
) -> list[Record]:
    """Read a dataset's test records, in file order; those in quarantine are left out, and the log says so.

    Reference captions come from the dataset's COCO file: a record's image is found there by file name, or else its
    `question_id`, or else the image's name without suffix, is the COCO image id. What people answered comes from a file
    by `question_id`. Without such a file both are a record's own, under `answers`.

    Args:
        collection: of the dataset.
        dataset: its name.
        split: `validation` reads what is declared as that.
        limit: keep only the first records; the whole file is checked all the same.

    Raises:
        DataError: names the file and every kind of offending record.
    """
    if split not in ("test", "validation"):
        raise DataError(f"split {split!r}: expected 'test' or 'validation'")
    root, answer = collection.root, collection[dataset].answer
    check_root(root)
    if split == "validation" and not (parquet_at(root) or collection.has_validation(dataset)):
        raise DataError(
            f"{file_in(root, collection.sources(dataset, split)[0].name)}: no such file, as the authors ship no "
            "validation records; benchmark.validation=0.1 holds a tenth of the training records out instead"
        )
    beside = read_references(root, collection.references(dataset, split), answer.kind)
    if split == "validation" and collection[dataset].held_out:
        return _load_held_out(collection, dataset, beside)[:limit]
    records: list[Record] = []
    for source in collection.sources(dataset, split):
        items = read_items(root, source.name, most_mb=collection.max_table_mb)
        place = collection.place(dataset, source.images, [source.name])
        shape = collection.shape(dataset, source.name, asked=True)
        path = file_in(root, source.name)
        shape.check(path, items)
        found, faults = parse_test(place, source.name, items, answer, beside, shape)
        refuse(path, faults, len(items))
        records += found
    _refuse_twice(records)
    return records[:limit]


def _load_held_out(collection: Collection, dataset: str, beside: Captions | Votes | None) -> list[Record]:
    """The training records that are held out, as questions."""
    records: list[Record] = []
    for number, source in enumerate(collection.sources(dataset, "train")):
        everything = read_items(collection.root, source.name, most_mb=collection.max_table_mb)
        away = set(held_out_of(collection, dataset, number, source.name, everything))
        items = [(index, item) for index, item in everything if index in away]
        faults = []
        shape, given = collection.shape(dataset, source.name, asked=False), dict(items)
        for record in _trained(collection, dataset, source, items):
            try:
                item = shape(record.index, given[record.index])
                records.append(
                    as_question(
                        collection.root, record, item, collection[dataset].answer.kind, beside, collection.opener
                    )
                )
            except DataError as error:
                faults.append(Fault(record.index, record.id, str(error)))
        refuse(file_in(collection.root, source.name), faults, len(items))
    if not records:
        share = collection[dataset].held_out
        raise DataError(
            f"dataset {dataset!r}: benchmark.datasets.{dataset}.validation={share} holds no record out: expected files "
            "of two training records at least"
        )
    return with_own_ids(records)


def _refuse_twice(records: Sequence[Record]) -> None:
    """Several test files may not name a record alike: predictions are matched by id."""
    first: dict[str, Record] = {}
    for record in records:
        if (other := first.setdefault(record.id, record)) is not record:
            raise DataError(
                f"{record.where}: has the id of record {other.index} of {other.source}; expected ids to differ within "
                "a dataset's test files"
            )


def check_images(root: Path | str, records: Iterable[Record], opener: OpenImage = open_image) -> None:
    """Look at every image the records name, once: it exists, its header reads, its file ends where it should.

    Costs about a tenth of a millisecond an image on a warm local disk: only a file that does not end where it should is
    decoded, and is sound if that succeeds. What only decoding finds is a `DataError` of the sample encoder. Images
    embedded in Parquet were looked at when they were embedded; of them only the presence is checked.

    Raises:
        DataError: names the first records that use an unusable image, and how many images are unusable.
    """
    user: dict[str, Record] = {}
    for record in records:
        for image in record.images:
            user.setdefault(image, record)
    faults = image_faults(str(root), list(user), opener=opener)
    lines = [f"{user[image].where}: image {image}: {fault}" for image, fault in faults.items()]
    refuse(str(root), lines, len(user), what="images")
