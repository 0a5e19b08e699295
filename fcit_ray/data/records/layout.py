"""Reading the files of datasets: every record is checked when it is read, so that nothing fails hours into a run.

They lie where their declarations say, or in the Parquet that `fcit-ray prepare parquet` makes of them, in a folder or
an object store, with the same records. A file is read whole; what is wrong with it is collected and reported together,
with the place of every offender.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.records import quarantine
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.faults import refuse
from fcit_ray.data.records.fields import text_of
from fcit_ray.data.records.images import image_faults
from fcit_ray.data.records.parsing import Box, Items, Place, Record, parse_box, parse_test, parse_train
from fcit_ray.data.records.references import Captions
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn
from fcit_ray.storage import files
from fcit_ray.storage.location import file_in, is_folder

__all__ = [
    "Box",
    "DataError",
    "Record",
    "check_images",
    "load_test",
    "load_train",
    "num_set_aside",
    "parse_box",
    "positions_set_aside",
    "read_captions",
    "read_items",
    "read_json",
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
    records: list[Record] = []
    for source in collection.sources(dataset, "train"):
        items = read_items(collection.root, source.name)
        place = Place(dataset, source.images)
        records += training_records(file_in(collection.root, source.name), source.name, items, lambda *_, p=place: p)
    return records


def training_records(
    path: Path | str, source: str, items: Items, place_of: Callable[[tuple[str, ...], Sequence[Turn]], Place]
) -> list[Record]:
    """Check and read the items of one file of training records, in file order.

    Args:
        path: the file, for messages.
        source: what the records name as their file.
        items: as `read_items` gives them.
        place_of: where a record belongs, by its pictures and conversation; a `DataError` of it counts as the record's.

    Raises:
        DataError: names the file and every kind of offending record.
    """
    records, faults = parse_train(place_of, source, items)
    refuse(str(path), faults, len(items))
    return records


def field_values(root: Path | str, records: Sequence[Record], field: str) -> list[str]:
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
            items = dict(read_items(root, source, honour_quarantine=False))
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
    `question_id`, or else the image's name without suffix, is the COCO image id.

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
    root, references = collection.root, collection.references(dataset, split)
    captions = read_captions(root, references) if references else None
    records: list[Record] = []
    for source in collection.sources(dataset, split):
        items = read_items(root, source.name)
        place = Place(dataset, source.images)
        found, faults = parse_test(place, source.name, items, collection[dataset].answer, captions)
        refuse(file_in(root, source.name), faults, len(items))
        records += found
    return records[:limit]


def check_images(root: Path | str, records: Iterable[Record]) -> None:
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
    faults = image_faults(str(root), list(user))
    lines = [f"{user[image].where}: image {image}: {fault}" for image, fault in faults.items()]
    refuse(str(root), lines, len(user), what="images")


def read_items(root: Path | str, source: str, honour_quarantine: bool = True) -> Items:
    """A file's records as JSON, with their positions.

    Args:
        root: data root.
        source: the file, relative to the root.
        honour_quarantine: leave out what `quarantine.json` sets aside.

    Raises:
        DataError: no such file, not JSON, not a list, no record in it, or a quarantine that does not fit it.
    """
    if parquet := parquet_at(root):
        return parquet.items(source)
    if not is_folder(root):
        raise DataError(f"benchmark.root={str(root)!r}: no such folder; {_remedy(root)}")
    file = file_in(root, source)
    items = read_json(Path(root) / source)
    if not isinstance(items, list):
        raise DataError(f"{file}: holds a JSON {type(items).__name__}; expected a list of records")
    if not items:
        raise DataError(f"{file}: holds no records")
    numbered = list(enumerate(items))
    return quarantine.keep(root, source, numbered) if honour_quarantine else numbered


def num_set_aside(root: Path | str, sources: Iterable[str]) -> dict[str, int]:
    """How many records of which of these files are in quarantine; files without any are left out.

    Raises:
        DataError: the quarantine, or the Parquet root, cannot be read.
    """
    parquet = parquet_at(root)
    counts = (
        parquet.manifest.plan.set_aside
        if parquet
        else {source: len(entries) for source, entries in quarantine.read_quarantine(root).items()}
    )
    return {source: counts[source] for source in sorted(set(sources)) if counts.get(source)}


def positions_set_aside(root: Path | str, source: str) -> list[int]:
    """Where a file's records in quarantine are, in order.

    Raises:
        DataError: the quarantine, or the Parquet root, cannot be read.
    """
    if not (parquet := parquet_at(root)):
        return sorted(entry.index for entry in quarantine.read_quarantine(root).get(source, ()))
    if not (count := parquet.manifest.plan.set_aside.get(source, 0)):
        return []
    there = {index for index, _ in parquet.items(source)}
    return sorted(set(range(len(there) + count)) - there)


def read_captions(root: Path | str, source: str) -> Captions:
    """Reference captions of a COCO-format file.

    Raises:
        DataError: no such file, or not one of that format.
    """
    parquet = parquet_at(root)
    return Captions(file_in(root, source), parquet.json(source) if parquet else read_json(Path(root) / source))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: names the file, and what lies beside it if it is not there.
    """
    try:
        return files.read_json(path)
    except FileNotFoundError:
        folder = path.parent
        there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
        found = f"the folder holds {', '.join(there) or 'nothing'}" if there is not None else "nor is its folder there"
        raise DataError(f"{path}: no such file; {found}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _remedy(root: Path | str) -> str:
    """What to do about a root that is not there."""
    if Path(root).name == "miniature":
        out = "" if Path(root) == Path("data/miniature") else f" --out {root}"
        return f"`fcit-ray prepare miniature{out}` draws it, in seconds"
    return "expected instructions/ and datasets/ in it"
