"""Reading the authors' files: every record is checked when it is read, so that nothing fails hours into a run.

The layout is `<root>/instructions/<dataset>/*.json` and images under `<root>/datasets/`. A file is read whole; what is
wrong with it is collected and reported together, with the place of every offender.
"""

import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from fcit_ray.data.catalog import CATALOG, VALIDATION_FILE, Dataset
from fcit_ray.data.prompt import IMAGE_TOKEN, Turn

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as fractions of the side of the square the image is padded to."""

NUM_SHOWN = 5
"""Offenders spelled out in an error; the rest is counted."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOX = re.compile(r"\[\s*" + r"\s*,\s*".join([f"({_NUMBER})"] * 4) + r"\s*\]")

# The last bytes of a whole file, by format. Inside JPEG's scan data 0xFF is always followed by 0x00 or a restart
# marker, so the end marker cannot turn up there by accident. Some writers append bytes after it: hence a tail.
_END_MARKER = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_TAIL_BYTES = 4096


class DataError(ValueError):
    """Data that cannot be used: which file, which record, what was found, what was expected."""


@dataclass(frozen=True)
class Record:
    """One training conversation or one test question.

    Attributes:
        dataset: a key of the catalog.
        id: `question_id` or `id` of the file; for a training record without either, its position.
        image: path relative to `<root>/datasets`.
        turns: the conversation; the single turn of a test record has no answer.
        answer: what a test question is scored against, for captions the first reference; None in training records,
            whose answers are in the turns.
        references: every reference caption, for captions only.
        box: the region asked for, for Grounding's test records only.
        size: width and height of the image in pixels, for Grounding's test records only.
        source: the file, relative to the root.
        index: position in that file, from 0.
    """

    dataset: str
    id: str
    image: str
    turns: tuple[Turn, ...]
    answer: str | None = None
    references: tuple[str, ...] = ()
    box: Box | None = None
    size: tuple[int, int] | None = None
    source: str = ""
    index: int = -1

    @property
    def where(self) -> str:
        """The record's place, for error messages."""
        return f"{self.source or self.dataset}: record {self.index} (id {self.id!r})"


def load_train(root: Path | str, dataset: str) -> list[Record]:
    """Read a dataset's training records, in file order.

    Images are not looked at: see `check_images`.

    Raises:
        DataError: names the file and every kind of offending record.
    """
    source, items = _read_list(root, dataset, _spec(dataset).train)
    return training_records(Path(root) / source, source, items, lambda image, turns: dataset)


def training_records(
    path: Path, source: str, items: Sequence[Any], dataset_of: Callable[[str, Sequence[Turn]], str]
) -> list[Record]:
    """Check and read the items of one file of training records, in file order.

    Args:
        path: the file, for messages.
        source: what the records name as their file.
        items: as `json` has read them.
        dataset_of: the dataset of a record by its image and conversation; a `DataError` of it counts as the record's.

    Raises:
        DataError: names the file and every kind of offending record.
    """
    records: list[Record] = []
    problems: list[str] = []
    for index, item in enumerate(items):
        name = _name(item, default=str(index))
        try:
            image, turns = _image_path(item), _conversation(item)
            records.append(Record(dataset_of(image, turns), name, image, turns, source=source, index=index))
        except DataError as error:
            problems.append(f"record {index} (id {name!r}): {error}")
    _report(path, problems, len(items))
    return records


def field_values(root: Path | str, records: Sequence[Record], field: str) -> list[str]:
    """What the files say under one key of each record; numbers as they print.

    Raises:
        DataError: names the records without the field, or whose value is no text and no number.
    """
    values: list[str] = []
    problems: list[str] = []
    source, items = "", []
    for record in records:  # those of one file follow each other
        if record.source != source:
            source, items = record.source, read_json(Path(root) / record.source)
        try:
            values.append(_text(items[record.index], field))
        except DataError as error:
            problems.append(f"{record.where}: {error}")
    _report(Path(root) / "instructions", problems, len(records))
    return values


def load_test(
    root: Path | str, dataset: str, split: Literal["test", "validation"] = "test", limit: int | None = None
) -> list[Record]:
    """Read a dataset's test records, in file order.

    Reference captions come from the dataset's COCO file: a record's image is found there by file name, or else its
    `question_id`, or else the image's name without suffix, is the COCO image id. The validation split's COCO file is
    the test split's with `validation_` before its name.

    Args:
        root: data root in the authors' layout.
        dataset: a key of the catalog.
        split: `validation` reads `validation.json`, which the miniature has and the authors' data has not.
        limit: keep only the first records; the whole file is checked all the same.

    Raises:
        DataError: names the file and every kind of offending record.
    """
    spec = _spec(dataset)
    if split not in ("test", "validation"):
        raise DataError(f"split {split!r}: expected 'test' or 'validation'")
    source, items = _read_list(root, dataset, spec.test if split == "test" else VALIDATION_FILE)
    prefix = "" if split == "test" else "validation_"
    captions = _Captions((Path(root) / source).with_name(prefix + spec.references)) if spec.references else None
    records: list[Record] = []
    problems: list[str] = []
    first_with: dict[str, int] = {}
    for index, item in enumerate(items):
        name = _name(item, default="")
        try:
            if not name:
                raise DataError("has neither question_id nor id; expected one of them, to match its prediction")
            if first_with.setdefault(name, index) != index:
                raise DataError(f"has the id of record {first_with[name]}; expected ids to differ within a test file")
            image = _image_path(item)
            turns = (Turn(_question(_text(item, "text"))),)
            references = captions.of(name, image) if captions else ()
            box, size = _region(item) if spec.kind == "box" else (None, None)
            answer = references[0] if references else _reference_answer(item, spec.kind)
            records.append(
                Record(dataset, name, image, turns, answer, references, box, size, source=source, index=index)
            )
        except DataError as error:
            problems.append(f"record {index} (id {name!r}): {error}")
    _report(Path(root) / source, problems, len(items))
    return records[:limit]


def check_images(root: Path | str, records: Iterable[Record]) -> None:
    """Look at every image the records name, once: it exists, its header reads, its file ends where it should.

    Costs about a tenth of a millisecond an image on a warm local disk: no pixel is decoded. What only decoding finds
    is a `DataError` of the sample encoder.

    Raises:
        DataError: names the first records that use an unusable image, and how many images are unusable.
    """
    seen: set[str] = set()
    problems: list[str] = []
    for record in records:
        if record.image in seen:
            continue
        seen.add(record.image)
        if problem := _image_problem(Path(root) / "datasets" / record.image):
            problems.append(f"{record.where}: image {record.image}: {problem}")
    _report(Path(root) / "datasets", problems, len(seen), what="images")


def parse_box(text: str) -> Box | None:
    """Read `[x1, y1, x2, y2]`; None unless that, give or take space and a full stop, is the whole text."""
    match = _BOX.fullmatch(text.strip().rstrip("."))
    if not match:
        return None
    left, top, right, bottom = (float(group) for group in match.groups())
    return (left, top, right, bottom) if all(map(math.isfinite, (left, top, right, bottom))) else None


def holds_box(text: str) -> bool:
    """Whether `[x1, y1, x2, y2]` stands anywhere in the text."""
    return _BOX.search(text) is not None


class _Captions:
    """Reference captions of a COCO-format file: `images` (id, file_name) and `annotations` (image_id, caption)."""

    def __init__(self, path: Path):
        self.name = path.name
        data = read_json(path)
        if not isinstance(data, Mapping) or not isinstance(data.get("annotations"), list):
            raise DataError(f"{path}: no list 'annotations'; expected COCO caption format")
        self.by_image: dict[str, list[str]] = {}
        problems = []
        for index, item in enumerate(data["annotations"]):
            try:
                if not isinstance(item, Mapping) or "image_id" not in item:
                    raise DataError("has no image_id; expected image_id and caption")
                self.by_image.setdefault(str(item["image_id"]), []).append(_text(item, "caption"))
            except DataError as error:
                problems.append(f"annotation {index}: {error}")
        _report(path, problems, len(data["annotations"]), what="annotations")
        self.id_of_file = {
            posixpath.basename(str(item["file_name"])): str(item["id"])
            for item in data.get("images") or []
            if isinstance(item, Mapping) and "file_name" in item and "id" in item
        }

    def of(self, name: str, image: str) -> tuple[str, ...]:
        file_name = posixpath.basename(image)
        candidates = [name, posixpath.splitext(file_name)[0]]
        if file_name in self.id_of_file:
            candidates = [self.id_of_file[file_name]]
        for candidate in candidates:
            if candidate in self.by_image:
                return tuple(self.by_image[candidate])
        raise DataError(f"{self.name} has no caption for it; expected image id {' or '.join(map(repr, candidates))}")


def _spec(dataset: str) -> Dataset:
    if dataset not in CATALOG:
        raise DataError(f"unknown dataset {dataset!r}; known: {', '.join(CATALOG)}")
    return CATALOG[dataset]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: names the file, and what lies beside it if it is not there.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        folder = path.parent
        there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
        found = f"the folder holds {', '.join(there) or 'nothing'}" if there is not None else "nor is its folder there"
        raise DataError(f"{path}: no such file; {found}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError both are
        raise DataError(f"{path}: not JSON: {error}") from error


def _read_list(root: Path | str, dataset: str, file: str) -> tuple[str, list[Any]]:
    if not Path(root).is_dir():
        raise DataError(f"benchmark.root={str(root)!r}: no such folder; expected instructions/ and datasets/ in it")
    source = f"instructions/{dataset}/{file}"
    items = read_json(Path(root) / source)
    if not isinstance(items, list):
        raise DataError(f"{Path(root) / source}: holds a JSON {type(items).__name__}; expected a list of records")
    if not items:
        raise DataError(f"{Path(root) / source}: holds no records")
    return source, items


def _report(path: Path, problems: Sequence[str], total: int, what: str = "records") -> None:
    if not problems:
        return
    more = f"\n  and {len(problems) - NUM_SHOWN} more" if len(problems) > NUM_SHOWN else ""
    raise DataError(
        f"{path}: {len(problems)} of {total} {what} cannot be used:\n  " + "\n  ".join(problems[:NUM_SHOWN]) + more
    )


def _name(item: Any, default: str) -> str:
    if isinstance(item, Mapping):
        for key in ("question_id", "id"):
            if item.get(key) not in (None, ""):
                return str(item[key])
    return default


def _text(item: Any, key: str) -> str:
    """A non-blank text field. Numbers are taken as they print, since some files hold `3` where others hold `"3"`."""
    if not isinstance(item, Mapping):
        raise DataError(f"is a JSON {type(item).__name__}; expected an object")
    if key not in item:
        raise DataError(f"has no {key!r} (only {', '.join(map(str, item)) or 'nothing'})")
    value = item[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{key!r} is {value!r:.80}; expected text")
    if not value.strip():
        raise DataError(f"{key!r} is empty; expected text")
    return value


def _image_path(item: Any) -> str:
    given = _text(item, "image")
    path = posixpath.normpath(given)
    if posixpath.isabs(path) or path.split("/")[0] == "..":
        raise DataError(f"image {given!r} leaves the data root; expected a path inside datasets/")
    return path


def _question(text: str) -> str:
    if not text.replace(IMAGE_TOKEN, "").strip():
        raise DataError(f"empty question ({text!r}); expected words beside {IMAGE_TOKEN}")
    if text.count(IMAGE_TOKEN) > 1:
        raise DataError(f"{text.count(IMAGE_TOKEN)} {IMAGE_TOKEN} in one question; expected one image a record")
    return text


def _answer(text: str) -> str:
    if not text.strip():
        raise DataError("empty answer; expected text")
    if IMAGE_TOKEN in text:
        raise DataError(f"{IMAGE_TOKEN} in an answer ({text!r:.80}); expected it in the question only")
    return text.strip()


def _conversation(item: Any) -> tuple[Turn, ...]:
    if not isinstance(item, Mapping):
        raise DataError(f"is a JSON {type(item).__name__}; expected an object")
    messages = item.get("conversations")
    if not isinstance(messages, list) or not messages:
        raise DataError("has no conversations; expected a list of human and gpt messages")
    roles = [message.get("from") if isinstance(message, Mapping) else None for message in messages]
    if roles != ["human", "gpt"] * (len(roles) // 2):
        if roles == [*(["human", "gpt"] * (len(roles) // 2)), "human"]:
            raise DataError(f"message {len(roles) - 1}: a human turn without an answer")
        raise DataError(f"roles are {', '.join(map(str, roles))}; expected human, gpt in turn")
    values = []
    for position, message in enumerate(messages):
        value = message.get("value")
        if not isinstance(value, str):
            raise DataError(f"message {position}: value is {value!r:.80}; expected text")
        try:
            values.append(_answer(value) if position % 2 else _question(value))
        except DataError as error:
            raise DataError(f"message {position}: {error}") from None
    if sum(value.count(IMAGE_TOKEN) for value in values) > 1:
        raise DataError(f"several {IMAGE_TOKEN} in the conversation; expected one image a record")
    return tuple(Turn(question, answer) for question, answer in zip(values[::2], values[1::2], strict=True))


def _reference_answer(item: Any, kind: str) -> str:
    key = "answer_bbox" if kind == "box" and "answer" not in item else "answer"
    if kind == "box" and isinstance(item[key], list):
        return str(item[key])
    return _answer(_text(item, key))


def _region(item: Any) -> tuple[Box, tuple[int, int]]:
    if "answer_bbox" not in item:
        raise DataError("has no 'answer_bbox'; expected [x1, y1, x2, y2]")
    box = parse_box(str(item["answer_bbox"]))
    if box is None or not (box[0] < box[2] and box[1] < box[3]):
        raise DataError(f"answer_bbox is {item['answer_bbox']!r:.80}; expected [x1, y1, x2, y2], x1 < x2, y1 < y2")
    size = item.get("size")
    if not (
        isinstance(size, list) and len(size) == 2 and all(isinstance(side, int | float) and side > 0 for side in size)
    ):
        raise DataError(f"size is {size!r:.80}; expected [width, height] in pixels")
    return box, (int(size[0]), int(size[1]))


def _image_problem(path: Path) -> str | None:
    """What is wrong with an image file, or None."""
    try:
        with Image.open(path) as image:
            kind = image.format
        if marker := _END_MARKER.get(kind or ""):
            with path.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                if marker not in file.read():
                    return f"truncated: no end marker in this {kind} file"
    except FileNotFoundError:
        return "no such file"
    except Exception as error:  # Pillow's readers raise nearly anything on broken headers, so every kind is reported
        return f"unreadable: {error}"
    return None
