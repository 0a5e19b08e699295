"""A partition used as it is: `Task<k>/client_<i>.json`, the layout of the authors' `partitioned_data`.

Which Task<k> is which task of the stream is no fact of the files: the authors' have been seen in another order than the
one their code trains in. It is found by what the files hold, or said by `benchmark.partition_tasks`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fcit_ray.config.benchmark import Benchmark, Task
from fcit_ray.config.datasets import Keys
from fcit_ray.data.records.belonging import MARK, place_of, written_shape
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import Record, held_out_of, load_train_files, read_json, training_records
from fcit_ray.data.records.parsing import Items, PlaceOf
from fcit_ray.data.records.place import Place
from fcit_ray.data.records.quarantine import PartitionQuarantine
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn
from fcit_ray.storage.files import file_sha256
from fcit_ray.storage.location import spellings

MANIFEST = "manifest.json"
"""Beside the Task<k> folders; written by `fcit-ray prepare partition`, and checked when it is there."""

_TASK = re.compile(r"Task([1-9]\d*)")
_CLIENT = re.compile(r"client_(\d+)\.json")


def load_partition(benchmark: Benchmark, collection: Collection) -> list[list[list[Record]]]:
    """Read every client's records of every task, in file order; they are checked as `load_train` checks them.

    Args:
        benchmark: which partition.
        collection: of its datasets.

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
    check_held_out(benchmark, collection, folder, manifest)
    numbers = benchmark.partition_tasks or _find_tasks(folder, found, benchmark.tasks, away, collection, manifest)
    held = []
    for number, task in zip(numbers, benchmark.tasks, strict=True):
        if number not in found:
            raise DataError(f"benchmark.partition_tasks: {folder}: holds no Task{number}, only {_names(found)}")
        parts = []
        for client, path in enumerate(_client_files(found[number], benchmark.num_clients)):
            name = f"Task{number}/{path.name}"
            if hashes is not None and hashes.get(name) != file_sha256(path):
                raise DataError(f"{path}: is not the file that {folder / MANIFEST} was written for (SHA-256 differs)")
            items = away.leave_out(path, name, _items(path))
            keys = collection[task.datasets[0]].keys if len(task.datasets) == 1 else Keys()
            shape = written_shape(f"{below}/{name}", keys)
            parts.append(training_records(path, f"{below}/{name}", items, _only(collection, task), shape))
            if not parts[client]:
                raise DataError(f"{path}: holds no records; a client without data cannot take part")
        datasets = {record.dataset for part in parts for record in part}
        if missing := [dataset for dataset in task.datasets if dataset not in datasets]:
            raise DataError(f"{found[number]}: holds no record of {missing[0]}, which task {task.name!r} has")
        held.append(parts)
    return held


def load_clients(benchmark: Benchmark, collection: Collection) -> list[list[list[Record]]]:
    """Every client's records of every task, where each training file of a dataset is a client's.

    Args:
        benchmark: whose tasks.
        collection: of their datasets.

    Returns:
        As `load_partition`.

    Raises:
        DataError: a file or record cannot be used, or there are more or fewer files than clients.
    """
    held = []
    for task in benchmark.tasks:
        parts: list[list[Record]] = [[] for _ in range(benchmark.num_clients)]
        for name in task.datasets:
            sources = collection.sources(name, "train")
            if len(sources) != benchmark.num_clients:
                first = ", ".join(source.name for source in sources[:3]) + (" ..." if len(sources) > 3 else "")
                raise DataError(
                    f"dataset {name!r} has {len(sources)} training file{'s' if len(sources) > 1 else ''} ({first}), "
                    f"benchmark.num_clients is {benchmark.num_clients}; with benchmark.partition=files each file of "
                    f"benchmark.datasets.{name}.train is a client's: set benchmark.num_clients={len(sources)}, or name "
                    "the files"
                )
            for part, records in zip(parts, load_train_files(collection, name), strict=True):
                part += records
        if (empty := next((client for client, part in enumerate(parts) if not part), None)) is not None:
            raise DataError(f"task {task.name!r}: client {empty} has no records; such a client cannot take part")
        held.append(parts)
    return held


def _only(collection: Collection, task: Task) -> PlaceOf:
    """`place_of`, for records that must be of one task."""

    def check(images: tuple[str, ...], turns: Sequence[Turn], item: Any) -> Place:
        place = place_of(collection, images, turns, item, among=task.datasets)
        if place.dataset not in task.datasets:
            shown = f"image {images[0]!r}" if images else "no picture"
            raise DataError(f"is of {place.dataset} ({shown}); task {task.name!r} is {', '.join(task.datasets)}")
        return place

    return check


def check_held_out(benchmark: Benchmark, collection: Collection, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse files of which nobody can tell whether they train on what this run holds out.

    Raises:
        DataError: the partition was made without it, or with another share or seed, or of other files.
    """
    known = manifest.get("held_out") or {}
    for name in dict.fromkeys(name for task in benchmark.tasks for name in task.datasets):
        if not (share := collection[name].held_out):
            continue
        key = f"benchmark.datasets.{name}.validation" if name in collection.own else "benchmark.validation"
        if not isinstance(found := known.get(name), Mapping):
            raise DataError(
                f"{folder}: does not say what was held out of {name}, and {key}={share} must not be trained on; write "
                "the partition with `fcit-ray prepare partition` and this key, or name a file of validation records"
            )
        for what, ours in (("share", share), ("seed", collection.seed)):
            if found.get(what) != ours:
                said = f"{key}={share}" if what == "share" else f"seed={ours}"
                raise DataError(
                    f"{folder}: was made with the {what} {found.get(what)} for what is held out of {name}; this run "
                    f"has {said}, and would train on records that it holds out: use that {what}, or write the "
                    "partition again"
                )
        if benchmark.split == "validation":
            sources = collection.sources(name, "train")
            now = {s.name: held_out_of(collection, name, number, s.name) for number, s in enumerate(sources)}
            if now != found.get("positions"):
                raise DataError(f"{folder}: the training files of {name} have changed since; write the partition again")


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


def _of_picture(collection: Collection, images: tuple[str, ...], turns: Sequence[Turn], item: Any) -> Place:
    """`place_of`; a record without a picture tells nothing of its task."""
    return place_of(collection, images, turns, item) if images or MARK in item else Place("")


def _find_tasks(
    folder: Path,
    found: Mapping[int, Path],
    tasks: Sequence[Task],
    away: PartitionQuarantine,
    collection: Collection,
    manifest: Mapping[str, Any],
) -> list[int]:
    """The k of each task's folder, by the datasets of its first client's records."""
    if untold := [name for task in tasks for name in task.datasets if collection[name].image_folder is None]:
        return _told_tasks(folder, found, tasks, manifest, untold[0])
    holds = {}
    for number, path in sorted(found.items()):
        first = _client_files(path, None)[0]
        items = away.leave_out(first, f"{path.name}/{first.name}", _items(first))
        told = partial(_of_picture, collection)
        records = training_records(first, first.name, items, told, written_shape(first.name))
        holds[number] = {record.dataset for record in records} - {""}
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


def _told_tasks(
    folder: Path, found: Mapping[int, Path], tasks: Sequence[Task], manifest: Mapping[str, Any], untold: str
) -> list[int]:
    """The k of each task's folder where pictures do not tell datasets: by a manifest of ours, or the only one."""
    if len(found) == len(tasks) == 1:
        return list(found)
    by_name = {
        str(task.get("name")): str(task.get("folder"))
        for task in manifest.get("tasks", ())
        if isinstance(task, Mapping)
    }
    folders = [_TASK.fullmatch(by_name.get(task.name, "")) for task in tasks]
    if all(folders):
        return [int(match[1]) for match in folders if match]
    raise DataError(
        f"{folder}: which Task<k> is which task cannot be told, as benchmark.datasets.{untold} declares no "
        f"image_folder; say it with benchmark.partition_tasks, one of {_names(found)} a task"
    )


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
    if not isinstance(manifest.get("held_out", {}), Mapping):
        raise DataError(f"{path}: no manifest of a partition; expected 'held_out' by dataset")
    return manifest
