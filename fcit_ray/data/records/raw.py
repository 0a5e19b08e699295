"""The files of a data root as plain values: records with their positions, reference captions, what is set aside."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fcit_ray.config.catalogs import catalog_names
from fcit_ray.data.formats.kinds import content_of, first_bytes
from fcit_ray.data.formats.reading import not_there, read_file
from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.records import quarantine
from fcit_ray.data.records.parsing import Items
from fcit_ray.data.records.references import Captions, Votes
from fcit_ray.errors import DataError
from fcit_ray.storage.files import parse_json
from fcit_ray.storage.location import file_in, is_complete, is_folder, redact
from fcit_ray.storage.tables import MOST_MB


def read_items(root: Path | str, source: str, honour_quarantine: bool = True, most_mb: int = MOST_MB) -> Items:
    """A file's records as JSON would hold them, with their positions.

    Args:
        root: data root.
        source: the file of any format: relative to the root, absolute, or a URI.
        honour_quarantine: leave out what `quarantine.json` sets aside.
        most_mb: megabytes that the rows of a table may take in memory (`benchmark.max_table_mb`).

    Raises:
        DataError: no such file, not of a format that is read, no record in it, or a quarantine that does not fit it.
    """
    if parquet := parquet_at(root):
        return parquet.items(source, most_mb)
    if not is_complete(source):
        check_root(root)
    numbered = list(enumerate(read_file(file_in(root, source), source, most_mb)))
    return quarantine.keep(root, source, numbered) if honour_quarantine else numbered


def check_root(root: Path | str) -> None:
    """Refuse a data root that is neither a folder nor Parquet.

    Raises:
        DataError: it is none.
    """
    if not parquet_at(root) and not is_folder(root):
        raise DataError(f"benchmark.root={str(root)!r}: no such folder; {_remedy(root)}")


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


def positions_set_aside(root: Path | str, source: str, most_mb: int = MOST_MB) -> list[int]:
    """Where a file's records in quarantine are, in order.

    Raises:
        DataError: the quarantine, or the Parquet root, cannot be read.
    """
    if not (parquet := parquet_at(root)):
        return sorted(entry.index for entry in quarantine.read_quarantine(root).get(source, ()))
    if not (count := parquet.manifest.plan.set_aside.get(source, 0)):
        return []
    there = {index for index, _ in parquet.items(source, most_mb)}
    return sorted(set(range(len(there) + count)) - there)


def read_captions(root: Path | str, source: str) -> Captions:
    """Reference captions of a COCO-format file.

    Raises:
        DataError: no such file, or not one of that format.
    """
    parquet = parquet_at(root)
    place = file_in(root, source)
    return Captions(place, parquet.json(source) if parquet else read_json(place))


def read_references(root: Path | str, source: str | None, kind: str) -> Captions | Votes | None:
    """What a dataset's file of references holds: captions, or for soft votes what people answered; None without one.

    Raises:
        DataError: no such file, or not one of the format of that kind.
    """
    if source is None:
        return None
    if kind != "soft_vote":
        return read_captions(root, source)
    parquet = parquet_at(root)
    place = file_in(root, source)
    return Votes(place, parquet.json(source) if parquet else read_json(place))


def read_json(path: Path | str) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: names the file, and what lies beside it if it is not there.
    """
    place = str(path)
    try:
        first_bytes(place)
        return parse_json(content_of(place))
    except FileNotFoundError:
        raise DataError(not_there(place)) from None
    except OSError as error:
        raise DataError(f"{redact(place)}: cannot be read: {error}") from error
    except ValueError as error:
        raise DataError(f"{redact(place)}: {error}") from None


def _remedy(root: Path | str) -> str:
    """What to do about a root that is not there."""
    name = Path(root).name
    _, prefix, benchmark = name.rpartition("miniature_")
    if name == "miniature" or (prefix and benchmark in catalog_names()):
        whose = "" if name == "miniature" else f" --benchmark {benchmark}"
        out = "" if Path(root) == Path("data") / name else f" --out {root}"
        return f"`fcit-ray prepare miniature{whose}{out}` draws it, in seconds"
    return "expected the folder from which the paths of its datasets lead to their files"
