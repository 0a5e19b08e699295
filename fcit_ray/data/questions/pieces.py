"""A block of an input as a value: small, so that it travels to where the block is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from fcit_ray.data.questions.question import Question, ask_about, read_question
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import DataError
from fcit_ray.storage.files import misfit, parse_json
from fcit_ray.storage.tables import SMALLER, Room, parquet_file


@dataclass(frozen=True)
class JsonPiece:
    """Records of a JSON or JSONL file that follow each other.

    Attributes:
        path: the file.
        start: where the first begins, in bytes.
        end: where the last ends.
        first: position of the first in the file, from 0.
        lines: whether it is JSONL.
        images: folder of relative pictures.
    """

    path: str
    start: int
    end: int
    first: int
    lines: bool
    images: str
    kind: Literal["json"] = "json"

    def read(self) -> list[Question]:
        name = Path(self.path).name
        with open(self.path, "rb") as file:
            file.seek(self.start)
            content = file.read(self.end - self.start)
        if not self.lines:
            items = enumerate(parse_json(b"[" + content + b"]"), self.first)
            return [read_question(item, name, index, self.images) for index, item in items]
        questions = []
        for index, line in enumerate((line for line in content.split(b"\n") if line.strip()), self.first):
            try:
                questions.append(read_question(parse_json(line), name, index, self.images))
            except ValueError as error:
                questions.append(Question(_no_record(name, index), fault=str(error)))
        return questions


@dataclass(frozen=True)
class ParquetPiece:
    """Rows of Parquet files that follow each other.

    Attributes:
        parts: file, first row in it and number of rows, for each file that the block touches.
        columns: those that are read.
        images: folder of relative pictures.
    """

    parts: tuple[tuple[str, int, int], ...]
    columns: tuple[str, ...]
    images: str
    kind: Literal["parquet"] = "parquet"

    def read(self) -> list[Question]:
        questions = []
        for path, first, count in self.parts:
            for index, row in enumerate(_rows(path, first, count, self.columns), first):
                questions.append(read_question(row, Path(path).name, index, self.images))
        return questions


@dataclass(frozen=True)
class PicturesPiece:
    """Pictures of a folder that follow each other.

    Attributes:
        folder: that they lie in.
        names: their paths in it.
        first: position of the first among all, from 0.
        ask: the question about each; None reads it from the text file beside the picture.
    """

    folder: str
    names: tuple[str, ...]
    first: int
    ask: str | None
    kind: Literal["pictures"] = "pictures"

    def read(self) -> list[Question]:
        source = Path(self.folder).name
        questions = []
        for index, name in enumerate(self.names, self.first):
            picture = Path(self.folder, name)
            try:
                text = self.ask if self.ask is not None else _text_beside(picture)
            except DataError as error:
                record = Record("", name, (name,), (), source=source, index=index)
                questions.append(Question(record, (str(picture),), str(error)))
            else:
                questions.append(ask_about([picture], text, source, index, [name]))
        return questions


@dataclass(frozen=True)
class RecordsPiece:
    """Records of a benchmark, whose pictures lie in its data root."""

    records: tuple[Record, ...]
    kind: Literal["records"] = "records"

    def read(self) -> list[Question]:
        return [Question(record) for record in self.records]


Piece = Annotated[JsonPiece | ParquetPiece | PicturesPiece | RecordsPiece, Field(discriminator="kind")]
_PIECE: TypeAdapter[Any] = TypeAdapter(Piece)


def piece_to_json(piece: Any) -> str:
    """A piece as text; `piece_from_json` gives an equal one."""
    return _PIECE.dump_json(piece).decode()


def piece_from_json(text: str) -> Any:
    """What `piece_to_json` was given."""
    return _PIECE.validate_json(text)


def _no_record(source: str, index: int) -> Record:
    return Record("", str(index), (), (), source=source, index=index)


def _text_beside(picture: Path) -> str:
    path = picture.with_suffix(".txt")
    try:
        if reason := misfit(path):
            raise DataError(f"its question, {path.name}, {reason}")
        return path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise DataError(f"has no question: no file {path.name} beside it; write one, or ask all with --ask") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"its question, {path.name}, cannot be read as UTF-8 text: {error}") from None


def _rows(path: str, first: int, count: int, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Some rows of a file, of which only the row groups that hold them are read, a few rows at a time."""
    rows: list[dict[str, Any]] = []
    with parquet_file(path) as file:
        groups, start, passed = [], 0, 0
        for number in range(file.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            if start + size <= first:
                passed += size
            elif start < first + count:
                groups.append(number)
            start += size
        skip = first - passed
        room = Room(path, remedy=SMALLER)
        for batch in room.rows(file, columns, groups):
            wanted = batch.slice(min(skip, batch.num_rows), count - len(rows))
            skip = max(0, skip - batch.num_rows)
            rows += room.take(wanted).to_pylist()
            if len(rows) >= count:
                break
    return rows
