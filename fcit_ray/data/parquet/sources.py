"""What of a data root is converted: the files of its datasets, the pictures of their records, and under which names."""

import hashlib
import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from fcit_ray.config.datasets import Dataset
from fcit_ray.data.parquet.manifest import FILES, Below
from fcit_ray.data.records import layout
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.parsing import Record
from fcit_ray.errors import DataError
from fcit_ray.storage.location import is_complete


@dataclass(frozen=True)
class Sources:
    """What is converted.

    Attributes:
        sources: the files, as declarations name them.
        references: those of them that hold reference captions.
        images: every picture, with a record that uses it.
        parts: the files that a path of a declaration means, by split and path, where it is not the one file's name.
        names_root: some record names the root itself, so that complete names of pictures need to know where it was.
    """

    sources: list[str]
    references: frozenset[str]
    images: dict[str, Record]
    parts: dict[str, list[str]]
    names_root: bool


def datasets_in(collection: Collection) -> list[str]:
    """The datasets that are there.

    Raises:
        DataError: there is none.
    """
    there = [name for name in collection.datasets if collection.is_there(name)]
    if not there:
        raise DataError(f"{collection.root}: none of the datasets that are known here; {collection.remedy}")
    return there


def look_through(collection: Collection, datasets: Sequence[str]) -> Sources:
    """The files to convert, all checked, and their pictures.

    Args:
        collection: what is declared, below a folder.
        datasets: which.

    Raises:
        DataError: a file or record cannot be used.
    """
    # Which records are held out depends on a run's seed: here all of them are looked at as what they are.
    whole = {name: _without_share(collection, name) for name in collection.datasets}
    everything = replace(collection, datasets=whole)
    sources: list[str] = []
    references: list[str] = []
    users: dict[str, Record] = {}
    parts: dict[str, list[str]] = {}
    names_root = False
    for dataset in datasets:
        records: list[Record] = []
        for split in everything.splits(dataset):
            if split == "train":
                records += layout.load_train(everything, dataset)
            else:
                records += layout.load_test(everything, dataset, split)
            found = [source.name for source in everything.sources(dataset, split)]
            sources += found
            parts |= everything.expanded(dataset, split)
            if dataset in collection.own:
                names_root |= any(_mentions(collection, source) for source in found)
            captions = everything.references(dataset, split)
            references += [captions] if captions else []
        if collection[dataset].held_out and (captions := collection.references(dataset, "validation")):
            references.append(captions)
        for record in records:
            for image in record.images:
                users.setdefault(image, record)
    ordered = list(dict.fromkeys([*sources, *references]))
    return Sources(ordered, frozenset(references), users, parts, names_root)


def folder_of(source: str) -> str:
    """The folder of a file's tables: of its own name where that is one below the root, else of a made one."""
    name = source.removesuffix(".json")
    if source.startswith("instructions/"):
        return name
    try:
        below = not is_complete(source) and _BELOW.validate_python(name)
    except ValidationError:
        below = False
    if below:
        return f"{FILES}/{name}"
    base = re.sub(r"[^\w.-]", "_", posixpath.basename(source.partition("?")[0]))[-60:]
    return f"{FILES}/outside/{hashlib.sha256(source.encode()).hexdigest()[:12]}-{base}"


_BELOW: TypeAdapter[str] = TypeAdapter(Below)


def _without_share(collection: Collection, name: str) -> Dataset:
    dataset = collection[name]
    return dataset.model_copy(update={"validation": None}) if dataset.held_out else dataset


def _mentions(collection: Collection, source: str) -> bool:
    start = f"{collection.root.rstrip('/')}/"
    items = layout.read_items(collection.root, source, most_mb=collection.max_table_mb)
    return any(start in json.dumps(item, ensure_ascii=False) for _, item in items)
