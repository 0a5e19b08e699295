"""A partition used as it is: `Task<k>/client_<i>.json`, the layout of the authors' `partitioned_data`.

Which Task<k> is which task of the stream is no fact of the files: the authors' have been seen in another order than the
one their code trains in. It is found by what the files hold, or said by `benchmark.partition_tasks`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fcit_ray.config.benchmark import Benchmark, Task
from fcit_ray.config.catalog import CATALOG, IMAGE_FOLDERS
from fcit_ray.data.records.layout import Record, read_json, training_records
from fcit_ray.data.records.parsing import Items, holds_box
from fcit_ray.data.records.quarantine import PartitionQuarantine
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn
from fcit_ray.storage.location import spellings

MANIFEST = "manifest.json"
"""Beside the Task<k> folders; written by `fcit-ray prepare partition`, and checked when it is there."""

_TASK = re.compile(r"Task([1-9]\d*)")
_CLIENT = re.compile(r"client_(\d+)\.json")


def load_partition(benchmark: Benchmark) -> list[list[list[Record]]]:
    """Read every client's records of every task, in file order; they are checked as `load_train` checks them.

    Returns:
        The records by task (in the order of the stream), client and position.

    Raises:
        DataError: names the folder, file or record, and what was expected.
    """
    # A root that is no folder of this machine has its partition elsewhere, at an absolute path.
    folder = Path(benchmark.root) / str(benchmark.partition_files)
    if not folder.is_dir():
        raise DataError(f"benchmark.partition_files: {folder}: no such folder; expected Task<k>/client_<i>.json in it")
    found = {
        int(match[1]): path for path in folder.iterdir() if path.is_dir() and (match := _TASK.fullmatch(path.name))
    }
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise DataError(f"benchmark.partition_files: {folder}: holds {there}; expected folders Task1, Task2 ...")
    manifest = _manifest(folder) or {}
    hashes: Mapping[str, str] | None = manifest.get("files")
    made_of = {source: manifest.get("set_aside", {}).get(source, ()) for source in manifest.get("sources", ())}
    away = PartitionQuarantine(folder, benchmark.root, made_of)
    below = _below(folder, Path(benchmark.root))
    numbers = benchmark.partition_tasks or _find_tasks(folder, found, benchmark.tasks, away)
    held = []
    for number, task in zip(numbers, benchmark.tasks, strict=True):
        if number not in found:
            raise DataError(f"benchmark.partition_tasks: {folder}: holds no Task{number}, only {_names(found)}")
        parts = []
        for client, path in enumerate(_client_files(found[number], benchmark.num_clients)):
            name = f"Task{number}/{path.name}"
            if hashes is not None and hashes.get(name) != sha256(path):
                raise DataError(f"{path}: is not the file that {folder / MANIFEST} was written for (SHA-256 differs)")
            items = away.leave_out(path, name, _items(path))
            parts.append(training_records(path, f"{below}/{name}", items, _only(task)))
            if not parts[client]:
                raise DataError(f"{path}: holds no records; a client without data cannot take part")
        datasets = {record.dataset for part in parts for record in part}
        if missing := [dataset for dataset in task.datasets if dataset not in datasets]:
            raise DataError(f"{found[number]}: holds no record of {missing[0]}, which task {task.name!r} has")
        held.append(parts)
    return held


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dataset_of(images: Sequence[str], turns: Sequence[Turn]) -> str:
    """The dataset of a training record, by the folder of its first picture.

    AOKVQA and Grounding share COCO's images; a record of Grounding names a box, in a question or an answer.

    Raises:
        DataError: the folder is no dataset's, or there is no picture.
    """
    if not images:
        raise DataError("has no picture, by whose folder its dataset could be told")
    image = images[0]
    folder = image.split("/")[0]
    datasets = [name for name, images in IMAGE_FOLDERS.items() if images == folder]
    if not datasets:
        known = ", ".join(dict.fromkeys(IMAGE_FOLDERS.values()))
        raise DataError(f"image {image!r} lies in no dataset's folder; known: {known}")
    boxed = any(holds_box(text) for turn in turns for text in (turn.question, turn.answer or ""))
    fitting = [name for name in datasets if (CATALOG[name].kind == "box") == boxed]
    return fitting[0] if len(datasets) > 1 else datasets[0]


def _only(task: Task) -> Callable[[Sequence[str], Sequence[Turn]], str]:
    """`dataset_of`, for records that must be of one task."""

    def check(images: Sequence[str], turns: Sequence[Turn]) -> str:
        if not images and len(task.datasets) == 1:
            return task.datasets[0]
        dataset = dataset_of(images, turns)
        if dataset not in task.datasets:
            raise DataError(f"is of {dataset} (image {images[0]!r}); task {task.name!r} is {', '.join(task.datasets)}")
        return dataset

    return check


def _of_picture(images: Sequence[str], turns: Sequence[Turn]) -> str:
    """`dataset_of`, and nothing of a record without a picture."""
    return dataset_of(images, turns) if images else ""


def _below(folder: Path, root: Path) -> str:
    """A folder's name below the root, however it is spelled; its path if it is elsewhere."""
    for place, above in zip(spellings(folder), spellings(root), strict=True):
        if place.is_relative_to(above):
            return place.relative_to(above).as_posix()
    return str(folder)


def _items(path: Path) -> Items:
    items = read_json(path)
    if not isinstance(items, list):
        raise DataError(f"{path}: holds a JSON {type(items).__name__}; expected a list of records")
    return list(enumerate(items))


def _client_files(folder: Path, num_clients: int | None) -> list[Path]:
    """The clients' files by client; `num_clients` of them unless it is None."""
    files = {int(match[1]): path for path in folder.iterdir() if (match := _CLIENT.fullmatch(path.name))}
    wanted = range(len(files) if num_clients is None else num_clients)
    if not files or files.keys() != set(wanted):
        raise DataError(
            f"{folder}: holds {len(files)} clients' files; benchmark.num_clients={len(wanted)} wants client_0.json to "
            f"client_{max(len(wanted) - 1, 0)}.json and no others: a partition is used as it is"
        )
    return [files[client] for client in wanted]


def _find_tasks(folder: Path, found: Mapping[int, Path], tasks: Sequence[Task], away: PartitionQuarantine) -> list[int]:
    """The k of each task's folder, by the datasets of its first client's records."""
    holds = {}
    for number, path in sorted(found.items()):
        first = _client_files(path, None)[0]
        items = away.leave_out(first, f"{path.name}/{first.name}", _items(first))
        records = training_records(first, first.name, items, _of_picture)
        holds[number] = {record.dataset for record in records if record.images}
    seen = "; ".join(f"Task{number}: {', '.join(sorted(datasets)) or 'nothing'}" for number, datasets in holds.items())
    numbers = []
    for task in tasks:
        wanted = set(task.datasets)
        fitting = [number for number, datasets in holds.items() if datasets == wanted]
        # A first client with few records may hold only some of a task's datasets.
        fitting = fitting or [number for number, datasets in holds.items() if datasets and datasets <= wanted]
        if not fitting:
            raise DataError(f"{folder}: no folder is task {task.name!r} ({', '.join(task.datasets)}); found {seen}")
        if len(fitting) > 1 or fitting[0] in numbers:
            raise DataError(
                f"{folder}: task {task.name!r} ({', '.join(task.datasets)}) could be {_names(fitting)}, or one of them "
                f"several tasks; say which with benchmark.partition_tasks; found {seen}"
            )
        numbers += fitting
    return numbers


def _names(numbers: Sequence[int] | Mapping[int, Path]) -> str:
    return ", ".join(f"Task{number}" for number in sorted(numbers))


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    """The manifest, if there is one."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, Mapping) or not isinstance(manifest.get("files"), Mapping):
        raise DataError(f"{path}: no manifest of a partition; expected 'files' with a SHA-256 each")
    if not all(isinstance(manifest.get(key, {}), Mapping) for key in ("sources", "set_aside")):
        raise DataError(f"{path}: no manifest of a partition; expected 'sources' and 'set_aside' by file")
    return manifest
