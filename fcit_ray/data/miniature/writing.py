"""Writes a miniature benchmark in the authors' on-disk layout (`configs/catalogs/fcit.yaml`), all or nothing."""

import json
import logging
import os
import random
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fcit_ray.data.miniature.benchmarks import BENCHMARKS, Benchmark
from fcit_ray.data.miniature.drawing import draw
from fcit_ray.data.miniature.scenes import SIDE
from fcit_ray.data.miniature.tasks import Example, Task
from fcit_ray.data.records.collection import Collection, Split
from fcit_ray.errors import UserError, disk_reason
from fcit_ray.storage.files import read_json

GENERATOR_VERSION = 2  # raise it whenever the same arguments would write other bytes
MANIFEST = "miniature.json"
_FIRST_NUMBER = {"train": 0, "validation": 100_000, "test": 0}

log = logging.getLogger(__name__)


def write_miniature(
    root: Path,
    *,
    num_train: int = 300,
    num_validation: int = 40,
    num_test: int = 48,
    seed: int = 0,
    benchmark: Benchmark = "fcit",
) -> None:
    """Write the datasets of a benchmark in miniature under `root`, FCIT's twelve or a neighbour's.

    Everything is written into a hidden sibling folder that is renamed at the end: an interrupted run leaves no `root`.
    What a killed one leaves of its sibling the next one on the same machine removes. The bytes of records and pixels
    depend on the arguments alone.

    Args:
        root: where to; must not exist, be empty, or hold the miniature of the same arguments (then nothing is done).
        num_train: training records a dataset.
        num_validation: records a dataset for choosing settings on.
        num_test: test records a dataset.
        seed: chooses pictures and questions.
        benchmark: whose; the name of its catalog.

    Raises:
        UserError: a count is not positive, `root` holds something else, or it cannot be written.
    """
    counts: dict[Split, int] = {"train": num_train, "validation": num_validation, "test": num_test}
    for split, count in counts.items():
        if count < 1:
            raise UserError(f"num_{split}: {count}; must be at least 1")
    root = Path(os.path.realpath(root))
    manifest: dict[str, Any] = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        **{f"num_{split}": n for split, n in counts.items()},
    }
    if benchmark != "fcit":
        manifest["benchmark"] = benchmark
    try:
        if _is_there(root, manifest):
            log.info("%s already holds this miniature", root)
        else:
            _write_whole(root, manifest, counts, seed, benchmark)
            log.info("wrote %d datasets to %s", len(BENCHMARKS[benchmark]), root)
    except OSError as error:
        raise UserError(f"root: {root} cannot be written: {disk_reason(error, root)}") from error


def examples(task: Task, split: str, count: int, seed: int, seen: set[tuple[bytes, str]]) -> list[Example]:
    """A split's examples, labels in equal numbers.

    Args:
        task: which dataset.
        split: "train", "validation" or "test".
        count: how many.
        seed: the benchmark's.
        seen: (pixels, question) of every example so far; none is repeated, the new ones are added.
    """
    rng = random.Random(f"miniature labels {seed} {task.name} {split}")
    labels: list[str] = []
    while len(labels) < count:
        labels += rng.sample(task.labels, len(task.labels))
    labels = labels[:count]
    rng.shuffle(labels)
    found: list[Example] = []
    for number, label in enumerate(labels):
        attempt = 0
        while True:
            source = task.shared_images or task.name
            example = task.build(random.Random(f"miniature {seed} {source} {split} {number} {attempt}"), label)
            keys = {(draw(example.scene).tobytes(), question) for question, _ in example.turns}
            if seen.isdisjoint(keys):
                break
            attempt += 1
            assert attempt < 1000, f"{task.name} has too few pictures for this many records; ask for fewer"
        seen |= keys
        found.append(example)
    return found


def _write_whole(
    root: Path, manifest: dict[str, Any], counts: Mapping[Split, int], seed: int, benchmark: Benchmark
) -> None:
    _remove_leftovers(root)
    partial = root.with_name(f"{_partial_prefix(root)}{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        collection = Collection.of_catalog(str(partial), benchmark)
        for task in BENCHMARKS[benchmark].values():
            _write_task(collection, task, counts, seed)
        _dump(partial / MANIFEST, manifest)
        try:
            partial.rename(root)
        except OSError:
            # another process may have finished the same one meanwhile; anything else in the way is an error
            if not _is_there(root, manifest):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_there(root: Path, manifest: dict[str, Any]) -> bool:
    if not root.exists():
        return False
    if (root / MANIFEST).is_file():
        try:
            found = read_json(root / MANIFEST)
        except (OSError, ValueError) as error:
            raise UserError(f"root: {root / MANIFEST} {error}; remove {root} or name another") from error
        if found == manifest:
            return True
        raise UserError(f"root: {root} holds a miniature made with {found}, not {manifest}; remove it or name another")
    if not root.is_dir() or any(root.iterdir()):
        raise UserError(f"root: {root} exists and is not a miniature benchmark; name another folder")
    return False


def _partial_prefix(root: Path) -> str:
    """Of what this machine's processes are still writing; a process id follows, which other machines have too."""
    return f".{root.name}.partial-{socket.gethostname()}-"


def _remove_leftovers(root: Path) -> None:
    """Remove what processes of this machine were writing when they were killed; those alive go on."""
    prefix = _partial_prefix(root)
    for path in list(root.parent.iterdir()) if root.parent.is_dir() else []:
        process = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but there
    return True


def _write_task(collection: Collection, task: Task, counts: Mapping[Split, int], seed: int) -> None:
    root, kind = Path(collection.root), collection[task.name].answer.kind
    seen: set[tuple[bytes, str]] = set()
    for split, count in counts.items():
        records = []
        answered: list[tuple[str, str, Example]] = []
        for index, example in enumerate(examples(task, split, count, seed, seen)):
            number = _FIRST_NUMBER[split] + index
            folder_of_label = example.turns[0][1].replace(" ", "_")
            image = task.image.format(
                split=task.held_out if split == "test" else "train", number=number, label=folder_of_label,
                source=example.source,
            )  # fmt: skip
            path = root / collection[task.name].images / image
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(example.scene).save(path, format="PNG")
            else:
                assert task.shared_images, f"{image} is written twice"
            identity = f"{split}-{number}"
            records.append(_record(kind, split, identity, image, example))
            answered.append((identity, image, example))
        [source] = collection.sources(task.name, split)
        _dump(root / source.name, records)
        if name := collection.references(task.name, split):
            _dump(root / name, _votes(answered) if kind == "soft_vote" else coco(answered))


def _record(kind: str, split: str, identity: str, image: str, example: Example) -> dict[str, Any]:
    if split == "train":
        conversations = []
        for index, (question, answer) in enumerate(example.turns):
            conversations.append({"from": "human", "value": f"<image>\n{question}" if index == 0 else question})
            conversations.append({"from": "gpt", "value": answer})
        return {"id": identity, "image": image, "conversations": conversations}
    question, answer = example.turns[0]
    record: dict[str, Any] = {"question_id": identity, "image": image, "text": question}
    if kind == "caption":
        answer = example.references[0]
    record["answer"] = answer
    if kind == "box":
        record["answer_bbox"] = answer
        record["size"] = [SIDE, SIDE]
    return record


def coco(answered: list[tuple[str, str, Example]]) -> dict[str, Any]:
    """Reference captions in COCO's caption format, from (question_id, image path, example); the id is the image's."""
    annotations: list[dict[str, Any]] = []
    for identity, _, example in answered:
        for caption in example.references:
            annotations.append({"image_id": identity, "id": len(annotations), "caption": caption})
    images = [{"id": identity, "file_name": PurePosixPath(image).name} for identity, image, _ in answered]
    return {"images": images, "annotations": annotations}


def _votes(answered: list[tuple[str, str, Example]]) -> dict[str, Any]:
    """What people answered, in TextVQA's format."""
    return {
        "data": [
            {"question_id": identity, "question": example.turns[0][0], "answers": list(example.votes)}
            for identity, _, example in answered
        ]
    }


def _dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
