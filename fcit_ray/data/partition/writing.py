"""A partition written once: the clients' files in the authors' layout, a manifest that proves it whole, a picture.

Legend: K clients, N records of a task.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcit_ray.config.schema import Config
from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.partition.files import MANIFEST
from fcit_ray.data.partition.stream import Stream, open_stream
from fcit_ray.data.records.belonging import marked
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import held_out_of, positions_set_aside, read_items, read_json
from fcit_ray.data.records.quarantine import record_sha256
from fcit_ray.errors import ConfigError, DataError, UserError, disk_reason
from fcit_ray.storage import durable
from fcit_ray.storage.files import file_sha256
from fcit_ray.storage.location import file_in
from fcit_ray.storage.object_store import sha256_at

FORMAT = "fcit_ray partition"

Draw = Callable[[Mapping[str, Any], Path], None]
"""Makes a picture of `partition_counts`."""


def partition_counts(config: Config, stream: Stream) -> dict[str, Any]:
    """Who holds how much of what, and what decided it; a JSON value.

    Returns:
        `kind` and its parameters, `seed`, and for each task of the stream its `name`, `num_records`, the records of
        each client (`counts`, K) and of each client by dataset (`datasets`).
    """
    benchmark = config.benchmark
    if config.regime == "centralised":
        decided: dict[str, Any] = {"kind": "centralised"}
    else:
        matters = {
            "dirichlet": ("beta", "min_samples"),
            "labels": ("beta", "min_samples"),
            "equal": ("min_samples",),
            "field": ("partition_field", "min_samples"),
            "files": ("partition_files", "partition_tasks"),
        }[benchmark.partition]
        values = benchmark.model_dump(mode="json")
        decided = {"kind": benchmark.partition, **{key: values[key] for key in matters}, "seed": config.seed}
    tasks = []
    for task, records, shards in zip(stream.tasks, stream.records, stream.shards, strict=True):
        owned = [[records[index].dataset for index in shard] for shard in shards]
        tasks.append(
            {
                "name": task.name,
                "num_records": len(records),
                "counts": [len(shard) for shard in shards],
                "datasets": {name: [datasets.count(name) for datasets in owned] for name in task.datasets},
            }
        )
    return {**decided, "num_clients": len(stream.shards[0]) if stream.shards else 0, "tasks": tasks}


def write_partition(config: Config, out: Path, draw: Draw | None = None) -> dict[str, Any]:
    """Split the training data as the configuration says and write `<out>/Task<k>/client_<i>.json`.

    `benchmark.partition=files` with `benchmark.partition_files=<out>` reads the same records back for every client, in
    the same order. Items are written as they stand in the source files, a line each; those of other formats than
    LLaVA's in LLaVA's. Everything is written into a
    folder beside `out` that is renamed at the end: an interrupted call leaves no `out`, and another one completes it.

    Args:
        config: how to split what.
        out: the folder to write.
        draw: makes `partition.png` of what `partition_counts` says; None draws nothing.

    Returns:
        The manifest: what `partition_counts` says; per task the `folder`; `checked`, how many records there are, how
        many are held twice and how many by nobody; the SHA-256 of every client's file and of every source file;
        where records of these are in quarantine, `set_aside`, their positions by file.

    Raises:
        ConfigError: the regime has no clients, the partition is one of files already, or `out` holds something else.
        DataError: a file or record cannot be used.
        UserError: `out` cannot be written.
    """
    if config.regime != "federated" or config.benchmark.partition == "files":
        raise ConfigError(
            f"regime={config.regime}, benchmark.partition={config.benchmark.partition}: there is nothing to split; "
            "expected a federated run and another partition than files"
        )
    stream = open_stream(config)
    out = Path(os.path.realpath(out))  # `.` has no name to put a folder beside
    try:
        if _is_taken(out) and not (out / MANIFEST).is_file():
            raise ConfigError(f"{out}: is there and holds no {MANIFEST}; nothing is overwritten, name another folder")
        return _write_whole(config, stream, out, draw)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {disk_reason(error, out)}") from error


def _is_taken(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _write_whole(config: Config, stream: Stream, out: Path, draw: Draw | None) -> dict[str, Any]:
    partial = durable.partial(out)
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
    partial.mkdir(parents=True)
    try:
        manifest = _write(config, stream, partial, draw)
        if _is_taken(out):
            _check_same(out, manifest)
        else:
            durable.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _write(config: Config, stream: Stream, folder: Path, draw: Draw | None) -> dict[str, Any]:
    counts = partition_counts(config, stream)
    files: dict[str, str] = {}
    sources: dict[str, str] = {}
    held_twice = missing = 0
    collection = Collection.of(config.benchmark, config.seed)
    for number, (records, shards) in enumerate(zip(stream.records, stream.shards, strict=True), start=1):
        holders = np.bincount(np.concatenate(shards), minlength=len(records))  # (N,)
        held_twice += int((holders > 1).sum())
        missing += int((holders == 0).sum())
        assert holders.shape == (len(records),), "a shard names a record that is not there"
        items: dict[tuple[str, str], dict[int, Any]] = {}
        for dataset, source in dict.fromkeys((record.dataset, record.source) for record in records):
            items[dataset, source] = _written(collection, dataset, source)
            sources[source] = _source_sha256(config.benchmark.root, source)
        (folder / f"Task{number}").mkdir()
        for client, shard in enumerate(shards):
            chosen = [records[index] for index in shard]
            path = folder / f"Task{number}" / f"client_{client}.json"
            lines = ",\n".join(json.dumps(items[record.dataset, record.source][record.index]) for record in chosen)
            durable.write_text(path, f"[\n{lines}\n]\n")
            files[f"Task{number}/{path.name}"] = file_sha256(path)
        counts["tasks"][number - 1]["folder"] = f"Task{number}"
    assert held_twice == missing == 0, "a split gave a record to two clients or to none"
    checked = {
        "records": sum(map(len, stream.records)),
        "held_twice": held_twice,
        "missing": missing,
    }
    manifest = {"format": FORMAT, **counts, "checked": checked, "files": files, "sources": sources}
    if away := {
        source: at
        for source in sources
        if (at := positions_set_aside(config.benchmark.root, source, config.benchmark.max_table_mb))
    }:
        manifest["set_aside"] = away
    if held_out := _held_out(config, collection):
        manifest["held_out"] = held_out
    if draw:
        draw(counts, folder / "partition.png")
    durable.write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _written(collection: Collection, dataset: str, source: str) -> dict[int, Any]:
    """A file's records by position as a client's file has them: as they stand there, if that says all.

    Records of other keys or formats are written in LLaVA's; those whose dataset or pictures' place nothing else would
    tell say it.
    """
    shape = collection.shape(dataset, source, asked=False)
    declared = collection[dataset]
    images = {each.name: each.images for each in collection.sources(dataset, "train")}[source]
    told = declared.image_folder is not None and images == declared.images
    written = {}
    for index, item in read_items(collection.root, source, most_mb=collection.max_table_mb):
        shaped = shape(index, item)
        as_it_stands = told and shaped is item
        written[index] = shaped if as_it_stands else marked(shaped, dataset, images, record_sha256(item))
    return written


def _held_out(config: Config, collection: Collection) -> dict[str, Any]:
    """What is in no client's file, as it is validation's: share, seed, and positions by file, of each dataset."""
    found: dict[str, Any] = {}
    for name in (name for task in config.benchmark.tasks for name in task.datasets):
        if share := collection[name].held_out:
            sources = collection.sources(name, "train")
            positions = {s.name: held_out_of(collection, name, number, s.name) for number, s in enumerate(sources)}
            found[name] = {"share": share, "seed": config.seed, "positions": positions}
    return found


def _source_sha256(root: str, source: str) -> str:
    """Of a source file; of one that was converted to Parquet, as it was before."""
    if parquet := parquet_at(root):
        return parquet.manifest.plan.sources[source]
    return sha256_at(file_in(root, source))


def _check_same(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything else than what would be written."""
    path = out / MANIFEST
    old = read_json(path)
    # As JSON has it: the new one still has tuples and the like.
    new = json.loads(json.dumps(manifest))
    if not isinstance(old, Mapping) or old != new:
        differing = [key for key in new if not isinstance(old, Mapping) or old.get(key) != new[key]]
        raise ConfigError(
            f"{out}: holds another partition ({', '.join(differing)} differ); nothing is overwritten, "
            "name another folder or delete this one"
        )
    for name, digest in manifest["files"].items():
        if not (out / name).is_file() or file_sha256(out / name) != digest:
            raise DataError(f"{out / name}: is not the file that {path} was written for; delete the folder")
