"""An input of questions: told by its kind, looked through once without being held, and cut into blocks."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fcit_ray.data.questions.pieces import JsonPiece, ParquetPiece, PicturesPiece
from fcit_ray.data.questions.question import IDS, TEXTS, Question
from fcit_ray.data.questions.spans import find_spans
from fcit_ray.data.records.faults import NUM_SHOWN
from fcit_ray.data.records.fields import printable
from fcit_ray.data.records.images import fault_of, opened
from fcit_ray.data.records.pictures import KEYS, MISSPELT
from fcit_ray.errors import DataError, disk_reason

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Ends of names by which pictures are found in a folder."""
_KINDS = "a .json, .jsonl or .parquet file, a folder of .parquet files, or a folder of pictures"
_LOOKED_AT = 16
"""Questions whose text and picture are looked at before anything expensive starts."""


@dataclass(frozen=True)
class Input:
    """Questions to answer, on disk.

    Attributes:
        path: as given.
        count: how many there are.
        digest: equal exactly for the same input, as far as that is told without reading its pictures: JSON and JSONL by
            their bytes, Parquet and folders by name, size and time of change of every file.
        cut: gives the piece of `count` questions from `start` on.
    """

    path: Path
    count: int
    digest: str
    cut: Callable[[int, int], Any]

    def pieces(self, size: int) -> list[Any]:
        """All questions in pieces of `size`, the last perhaps short."""
        return [self.cut(start, min(size, self.count - start)) for start in range(0, self.count, size)]


def open_input(path: Path, *, images: Path | None = None, ask: str | None = None) -> Input:
    """Open questions of any kind, and look at the first of them.

    Args:
        path: of the input.
        images: folder of relative pictures; by default `datasets/` of the benchmark that the file belongs to, if it
            lies in `instructions/<dataset>/`, or else the folder of the file.
        ask: what is asked about every picture of a folder.

    Raises:
        DataError: it cannot be read, holds nothing, or none of the first questions can be asked.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {_KINDS}")
    if images is not None and not images.is_dir():
        raise DataError(f"--images {images}: no such folder; expected where relative paths of pictures start")
    if ask is not None and (not path.is_dir() or _tables(path)):
        raise DataError(f"--ask goes with a folder of pictures, or with --image; {path} brings its own questions")
    base = str(images or _images_of(path))
    try:
        if path.is_dir() and not (tables := _tables(path)):
            if images is not None:
                raise DataError(f"--images goes with a file of questions; {path} is a folder of pictures")
            found = _of_pictures(path, ask)
        elif path.is_dir():
            found = _of_parquet(path, tables, base)
        elif path.suffix.lower() == ".parquet":
            found = _of_parquet(path, [path], base)
        elif path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
            found = _of_json(path, base)
        else:
            raise DataError(f"{path}: is of no kind that is known by its name; expected {_KINDS}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {disk_reason(error, error.filename or path)}") from error
    if not found.count:
        raise DataError(f"{path}: holds no questions")
    _look(found)
    return found


def _of_json(path: Path, images: str) -> Input:
    lines = path.suffix.lower() != ".json"
    spans = find_spans(path, lines=lines)
    where = str(path.resolve())

    def cut(start: int, count: int) -> JsonPiece:
        return JsonPiece(where, spans.starts[start], spans.ends[start + count - 1], start, lines, images)

    return Input(path, len(spans.starts), spans.sha256, cut)


def _of_parquet(path: Path, files: Sequence[Path], images: str) -> Input:
    sizes: list[tuple[str, int]] = []
    columns: tuple[str, ...] = ()
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                sizes.append((str(file.resolve()), table.metadata.num_rows))
                columns = _columns(file, table.schema_arrow.names)
        except pa.ArrowException as error:
            raise DataError(f"{file}: is no Parquet file that can be read: {error}") from None

    def cut(start: int, count: int) -> ParquetPiece:
        parts, begin = [], 0
        for name, rows in sizes:
            first, last = max(start, begin), min(start + count, begin + rows)
            if first < last:
                parts.append((name, first - begin, last - first))
            begin += rows
        return ParquetPiece(tuple(parts), columns, images)

    return Input(path, sum(rows for _, rows in sizes), _digest(path, files), cut)


def _columns(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    misspelt = not any(name in names for name in KEYS) and any(name in names for name in MISSPELT)
    if misspelt or not any(name in names for name in TEXTS):
        raise DataError(
            f"{file}: its columns are {', '.join(names)}; expected one of {', '.join(TEXTS)}, and for pictures `image` "
            f"(bytes, paths, or both as the datasets library has them)"
        )
    return tuple(name for name in (*KEYS, *TEXTS, *IDS) if name in names)


def _of_pictures(path: Path, ask: str | None) -> Input:
    folder = path.resolve()
    names = sorted(
        Path(above, name).relative_to(folder).as_posix()
        for above, _, files in os.walk(folder)
        for name in files
        if Path(name).suffix.lower() in PICTURES and not name.startswith(".")
    )
    if not names:
        raise DataError(f"{path}: no picture in this folder; expected {_KINDS}")
    if odd := next((name for name in names if printable(name) != name), None):
        raise DataError(f"{path}: the name {printable(odd)!r} is not UTF-8, and no line could say it; rename the file")
    files = [folder / name for name in names]
    if ask is None:
        files += [text for text in (file.with_suffix(".txt") for file in files) if text.is_file()]

    def cut(start: int, count: int) -> PicturesPiece:
        return PicturesPiece(str(folder), tuple(names[start : start + count]), start, ask)

    return Input(path, len(names), _digest(folder, files), cut)


def _tables(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet"))


def _images_of(path: Path) -> Path:
    """Where the relative pictures of a file lie: LLaVA's records lie in `instructions/<dataset>/` of a data root."""
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    datasets = folder.parent.parent / "datasets"
    return datasets if folder.parent.name == "instructions" and datasets.is_dir() else folder


def _digest(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(json.dumps([os.path.relpath(file, root), stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()


def _look(found: Input) -> None:
    """Refuse an input of whose first questions none can be asked: it is not what was meant.

    Raises:
        DataError: says what is wrong with them.
    """
    first: list[Question] = list(islice(found.cut(0, min(_LOOKED_AT, found.count)).read(), _LOOKED_AT))
    faults = [(question, _fault(question)) for question in first]
    wrong = [f"{question.record.where}: {fault}" for question, fault in faults if fault]
    if len(wrong) == len(first):
        more = f"\n  and {len(wrong) - NUM_SHOWN} more" if len(wrong) > NUM_SHOWN else ""
        which = "the question" if found.count == 1 else f"the first {len(first)} of {found.count} questions"
        lines = "\n  ".join(wrong[:NUM_SHOWN])
        raise DataError(f"{found.path}: {which} cannot be asked:\n  {lines}{more}")


def _fault(question: Question) -> str:
    if question.fault:
        return question.fault
    for number, image in enumerate(question.record.images):
        try:
            with question.open(number) as file, opened(file):
                pass
        except Exception as error:  # Pillow's readers raise nearly anything on broken files
            return f"image {image}: {fault_of(error)}"
    return ""
