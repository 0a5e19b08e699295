"""What the names of files and folders say: which hold training records, which belong together, which are clients'."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Split = Literal["train", "test", "validation"]
_WORDS: dict[str, Split] = {
    "train": "train", "training": "train", "trn": "train",
    "test": "test", "testing": "test", "tst": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation", "eval": "validation",
}  # fmt: skip
_CLIENT = frozenset(("client", "clients", "site", "sites", "silo", "silos", "hospital", "hospitals", "party", "parties",
                     "worker", "workers", "node", "nodes", "device", "devices", "user", "users", "partition",
                     "partitions", "shards"))  # fmt: skip
_SAYS_NOTHING = frozenset((
    "instructions", "instruction", "annotations", "annotation", "data", "dataset", "datasets", "records", "json",
    "jsonl", "csv", "parquet", "questions", "full", "all", "brief", "final", "clean", "v1", "v2", "hf", "split",
    "splits", "of",
))  # fmt: skip
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
"""How the datasets library names several files of one table."""


def words_of(name: str) -> list[str]:
    """The words of a name: `train_brief_4w` are three, `trainSet` are two."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[^0-9A-Za-z]+", parted) if word]


def split_of(path: Path, root: Path) -> Split | None:
    """The split that a file is named for, or else a folder that it lies in.

    Args:
        path: of the file.
        root: the folder that the user named: what lies above it says nothing, nor does its own name.
    """
    for word in words_of(path.stem):
        if word.casefold() in _WORDS:
            return _WORDS[word.casefold()]
    for folder in path.parents:
        if folder == root or root not in folder.parents:
            break
        if split := folder_split(folder):
            return split
    return None


def folder_split(folder: Path) -> Split | None:
    """The split that a folder is named for: `train`, `train_data`, `train2014`; not `train_stations`."""
    words = [re.sub(r"\d+$", "", word.casefold()) for word in words_of(folder.name)]
    splits = [_WORDS[word] for word in words if word in _WORDS]
    if splits and all(word in _WORDS or word in _SAYS_NOTHING or not word for word in words):
        return splits[0]
    return None


def bare(name: str) -> str:
    """A name without the words that say which split it is, how large, or nothing."""
    name = _SHARD.sub("", name)
    left = [
        word
        for word in words_of(name)
        if word.casefold() not in _WORDS
        and word.casefold() not in _SAYS_NOTHING
        and not re.fullmatch(r"\d+[kwm]?", word, re.IGNORECASE)
    ]
    if len(left) == len(words_of(name)):
        return name.strip(". ")
    return "_".join(left)


def without_clients(name: str) -> str:
    """A name without the words for clients: `shapes_sites` is `shapes`."""
    return "_".join(word for word in words_of(name) if not _means_client(word))


def numbered(paths: Sequence[Path]) -> bool:
    """Whether the names of several files differ in their numbers alone."""
    return len(paths) > 1 and len({re.sub(r"\d+", "#", path.stem) for path in paths}) == 1


def named_for_parts(paths: Sequence[Path]) -> bool:
    """Whether several files are named as pieces of one table: `part-0`, `00001`, `train-00000-of-00002`."""
    words = {word.casefold() for path in paths for word in words_of(re.sub(r"\d+", " ", path.stem))}
    return numbered(paths) and words <= {"part", "shard", "chunk", "of", *_WORDS}


def named_for_clients(paths: Sequence[Path]) -> bool:
    """Whether every file is named for a client, or the folder that they lie in for clients."""
    return len(paths) > 1 and all(
        any(map(_means_client, (*words_of(path.stem), *words_of(path.parent.name)))) for path in paths
    )


def _means_client(word: str) -> bool:
    return re.sub(r"\d+$", "", word).casefold() in _CLIENT
