"""One file of a data root looked at by itself: what a process of `check` does, and what it hands back.

Imports neither torch nor ray: a process that looks at files and images starts in a fraction of a second.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from fcit_ray.config.datasets import Dataset
from fcit_ray.data.checking.answer_formats import odd_answer
from fcit_ray.data.checking.shared import questions_of
from fcit_ray.data.formats.files import natural
from fcit_ray.data.records import layout, quarantine
from fcit_ray.data.records.belonging import place_of, written_shape
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.faults import Fault
from fcit_ray.data.records.parsing import Items, Record, parse_test, parse_train
from fcit_ray.data.records.place import Place
from fcit_ray.data.records.quarantine import Entry
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn
from fcit_ray.storage.location import file_in

_TASK = re.compile(r"Task\d+")
_CLIENT = re.compile(r"client_\d+\.json")

Kind = Literal["file", "conversation", "image", "duplicate", "tokens", "format", "shared"]
"""What is wrong. `file`: all of it; `tokens`: over the limit, or more than the model's processor takes; `shared`: a
test record that is a training record too."""
WARNINGS: tuple[Kind, ...] = ("format", "shared")
"""Kinds of which the record is used all the same."""

Split = Literal["train", "test", "validation", "partition"]


@dataclass(frozen=True)
class Piece:
    """One file to look at, by the row of the table it counts in.

    Attributes:
        group: the dataset; of a partition its folder, relative to the root.
        split: what the file holds.
        source: the file, relative to the root.
        collection: what is declared.
        images: where its pictures' paths start; a partition's file says that by its records.
        dataset: as it is declared; None of a partition's file.
        references: the file of its references (captions, votes), if it has one.
    """

    group: str
    split: Split
    source: str
    collection: Collection = field(compare=False, repr=False)
    images: str = ""
    dataset: Dataset | None = None
    references: str | None = None


@dataclass(frozen=True)
class Offence:
    """Something wrong with a record (index -1: with the whole file)."""

    source: str
    index: int
    id: str
    kind: Kind
    reason: str


@dataclass(frozen=True)
class FileFindings:
    """What one file holds.

    Attributes:
        piece: which file.
        num_records: records in it, those in quarantine included.
        num_set_aside: of these in quarantine already.
        offences: by position.
        images: the images of every sound record, by position.
        ids: of these records.
        questions: a hash of image and question for every turn, to find test questions in the training data.
        answered: the position of the first record of every hash of image, question and answer.
    """

    piece: Piece
    num_records: int = 0
    num_set_aside: int = 0
    offences: tuple[Offence, ...] = ()
    images: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    ids: Mapping[int, str] = field(default_factory=dict)
    questions: tuple[bytes, ...] = ()
    answered: Mapping[bytes, int] = field(default_factory=dict)


def look_at_file(root: str, piece: Piece, honour_quarantine: bool) -> FileFindings:
    """Read a file and check all that needs neither its images nor a model."""
    try:
        everything, items = _items(root, piece, honour_quarantine)
        records, faults = _parse(root, piece, items)
    except DataError as error:
        return FileFindings(piece, offences=(Offence(piece.source, -1, "", "file", str(error)),))
    offences = [Offence(piece.source, fault.index, fault.id, "conversation", fault.reason) for fault in faults]
    first: dict[Any, int] = {}
    questions: list[bytes] = []
    answered: dict[bytes, int] = {}
    for record in records:
        same = first.setdefault((record.images, record.turns, record.answer), record.index)
        if same != record.index:
            reason = f"the same image and conversation as record {same}"
            offences.append(Offence(piece.source, record.index, record.id, "duplicate", reason))
        if piece.split != "partition":
            if odd := odd_answer(record, piece.dataset):
                offences.append(Offence(piece.source, record.index, record.id, "format", odd))
            for question, with_answer in questions_of(record):
                questions.append(question)
                answered.setdefault(with_answer, record.index)
    return FileFindings(
        piece,
        num_records=len(everything),
        num_set_aside=len(everything) - len(items),
        offences=tuple(sorted(offences, key=lambda offence: (offence.index, offence.kind))),
        images={record.index: record.images for record in records},
        ids={record.index: record.id for record in records},
        questions=tuple(questions),
        answered=answered,
    )


def entries_of(items: Items, offences: Sequence[Offence]) -> list[Entry]:
    """Quarantine entries of a file's offending records; a record of several offences has its first as the reason."""
    by_index = dict(items)
    chosen: dict[int, Entry] = {}
    for offence in offences:
        chosen.setdefault(
            offence.index,
            Entry(
                index=offence.index,
                id=offence.id,
                sha256=quarantine.record_sha256(by_index[offence.index]),
                kind=offence.kind,
                reason=offence.reason,
            ),
        )
    return list(chosen.values())


@lru_cache(maxsize=1)
def sound_records(root: str, piece: Piece, honour_quarantine: bool) -> list[Record]:
    """The records of a file that are none of `look_at_file`'s broken conversations; the last file's are kept."""
    return _parse(root, piece, _items(root, piece, honour_quarantine)[1])[0]


def _items(root: str, piece: Piece, honour_quarantine: bool) -> tuple[Items, Items]:
    """All records of a file, and those that are not in quarantine."""
    source = piece.source
    everything = layout.read_items(root, source, False, piece.collection.max_table_mb)
    if not honour_quarantine:
        return everything, everything
    away = quarantine.set_aside(source, everything, quarantine.read_quarantine(root).get(source, ()))
    return everything, [(index, item) for index, item in everything if index not in away]


def _parse(root: str, piece: Piece, items: Items) -> tuple[list[Record], list[Fault]]:
    collection = piece.collection
    if piece.dataset is None:
        shape = written_shape(piece.source)
        return parse_train(partial(_of_partition, collection), piece.source, items, shape)
    place = collection.place(piece.group, piece.images, [piece.source])
    shape = collection.shape(piece.group, piece.source, asked=piece.split != "train")
    shape.check(file_in(root, piece.source), items)
    if piece.split == "train":
        return parse_train(lambda *_: place, piece.source, items, shape)
    beside = layout.read_references(root, piece.references, piece.dataset.answer.kind)
    return parse_test(place, piece.source, items, piece.dataset.answer, beside, shape)


def _of_partition(collection: Collection, images: Sequence[str], turns: Sequence[Turn], item: Any) -> Place:
    """Of a record of a partition's file, whose task is not known."""
    return place_of(collection, images, turns, item)


def pieces_in(
    collection: Collection, datasets: Sequence[str], partition: Path | None = None
) -> tuple[list[Piece], list[str]]:
    """The files to look at, and the datasets that are absent.

    Args:
        collection: what may be there.
        datasets: those asked for: absent ones are looked at all the same, and found missing. None means all that
            are declared, whose absent ones are only named, and every partition below the root, the authors' or ours.
        partition: the folder of one that is meant, relative to the root or absolute.

    Raises:
        DataError: no such dataset, or no dataset at all.
    """
    pieces: list[Piece] = []
    absent: list[str] = []
    root = collection.root
    for name in dict.fromkeys(datasets) or collection.datasets:
        if not datasets and not collection.is_there(name):
            absent.append(name)
            continue
        for split in collection.splits(name):
            references = collection.references(name, split)
            for source in collection.sources(name, split):
                pieces.append(Piece(name, split, source.name, collection, source.images, collection[name], references))
    above = Path(root) / partition if partition else Path(root)
    if partition or not datasets:
        for file in sorted(_client_files(above), key=lambda path: natural(str(path))):
            pieces.append(Piece(_named_from(root, file.parents[1]), "partition", _named_from(root, file), collection))
    if partition and not (pieces and pieces[-1].split == "partition"):
        raise DataError(f"benchmark.partition_files: {above}: holds no Task<k>/client_<i>.json")
    if not pieces:
        raise DataError(f"{collection.root}: none of the datasets that are known here; {collection.remedy}")
    return pieces, absent


def _named_from(root: str, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _client_files(root: Path) -> Iterator[Path]:
    """Of the partitions below a root, the authors' or ours."""
    for folder, below, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in map(os.path.realpath, Path(folder).parents):
            below.clear()  # a link that leads in a circle
            continue
        # Neither what is being written nor the images, of which there are hundreds of thousands.
        skipped = ("datasets", "instructions") if Path(folder) == root else ()
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in skipped)
        if _TASK.fullmatch(Path(folder).name):
            yield from (Path(folder) / name for name in names if _CLIENT.fullmatch(name))
