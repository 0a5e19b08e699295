"""From paths to data sets that can be declared."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fcit_ray.config.catalogs import catalog, catalog_names
from fcit_ray.config.datasets import check_name
from fcit_ray.data.discovery.answers import AnswerGuess, guess_kind
from fcit_ray.data.discovery.found import Found, FoundDataset
from fcit_ray.data.discovery.grouping import Group, group_tables
from fcit_ray.data.discovery.names import bare, split_of
from fcit_ray.data.discovery.pictures import find_pictures, leaves_its_folder
from fcit_ray.data.discovery.tables import Aside, Table, find_tables
from fcit_ray.data.formats.kinds import EXPECTED
from fcit_ray.errors import DataError

HELD_OUT = 0.2
"""The share of the training records that is held out where nothing else could be answered."""


@dataclass(frozen=True)
class Wishes:
    """What the user says instead of having it told.

    Attributes:
        name: of the run, and of the data set if there is one alone.
        answer: the kind of all answers.
        images: the folder of all pictures.
        validation: a share to hold out, or a file of validation records.
        keys: names of keys, by role.
    """

    name: str | None = None
    answer: str | None = None
    images: Path | None = None
    validation: float | Path | None = None
    keys: Mapping[str, str] = field(default_factory=dict)


def discover(paths: Sequence[Path], wishes: Wishes | None = None) -> Found:
    """Look at files and folders, and say what they are.

    Args:
        paths: at least one.
        wishes: what need not be told.

    Raises:
        DataError: nothing below the paths can be declared; says what was seen and what to declare by hand.
    """
    wishes = wishes or Wishes()
    if wishes.images and not wishes.images.is_dir():
        raise DataError(f"--images {wishes.images}: no such folder; expected where relative paths of pictures start")
    held_apart = wishes.validation if isinstance(wishes.validation, Path) else None
    found = find_tables([*paths, *([held_apart] if held_apart else [])], wishes.keys)
    kept = [table for table in found.tables if table.path == held_apart]
    tables = [table for table in found.tables if table.path != held_apart]
    groups, aside = group_tables(tables, _above([table.path for table in tables] or paths))
    aside = [*found.aside, *aside]
    if held_apart:
        _give_validation(groups, kept, held_apart)
    if wishes.name and len(groups) == 1:
        groups[0].name = wishes.name
    datasets: list[FoundDataset] = []
    for group in groups:
        try:
            datasets.append(_dataset(group, found.captions, paths, wishes))
        except DataError as error:
            aside.append(Aside(group.parts["train"][0].path, str(error)))
    if not datasets:
        raise DataError(_nothing(paths, aside))
    for dataset in datasets:
        order = ("train", "test", "validation")
        dataset.group.parts = dict(sorted(dataset.group.parts.items(), key=lambda part: order.index(part[0])))
    split = "test"
    if not all({"test", "validation"} & dataset.group.parts.keys() for dataset in datasets):
        split = "validation"
    for dataset in datasets:
        parts = dataset.group.parts
        if split == "test" and "test" not in parts:
            parts["test"] = parts.pop("validation")
            dataset.group.why.append("there are no other test records: its validation records are answered as test")
    share = wishes.validation if isinstance(wishes.validation, float) else HELD_OUT if split == "validation" else 0.0
    datasets = [
        dataset if "validation" in dataset.group.parts else replace(dataset, held_out=share) for dataset in datasets
    ]
    everything = [*(t.declared for d in datasets for ts in d.group.parts.values() for t in ts),
                  *(d.pictures.folder for d in datasets if d.pictures.folder),
                  *(path for d in datasets for path in d.references.values())]  # fmt: skip
    root = _above(everything)
    name = wishes.name or (datasets[0].name if len(datasets) == 1 else bare(root.resolve().name) or root.resolve().name)
    name = name or "mine"
    return Found(tuple(paths), name, root, tuple(datasets), split, tuple(aside), _known(paths))


def _known(paths: Sequence[Path]) -> dict[str, int]:
    """The benchmarks whose layout a folder has, with how many of their datasets it holds."""
    found: dict[str, int] = {}
    for path in (path for path in paths if path.is_dir()):
        for name, datasets in ((name, catalog(name)) for name in catalog_names()):
            there = sum(all((path / part.path).is_file() for part in each.train or ()) for each in datasets.values())
            if there:
                found[name] = max(there, found.get(name, 0))
    return found


def _dataset(group: Group, captions: Sequence[Path], paths: Sequence[Path], wishes: Wishes) -> FoundDataset:
    try:
        check_name(group.name)
    except ValueError as error:
        raise DataError(f"cannot name a task: {error}; rename the file, or give --name") from None
    tables = [table for tables in group.parts.values() for table in tables]
    references = _references(group, captions)
    pairs = [pair for table in tables for pair in table.pairs]
    answer = guess_kind(pairs, str(next(iter(references.values()))) if references else None)
    if group.parts["train"][0].votes:
        raise DataError(
            "its training records list what several people answered under 'answers', and none is the one to teach; put "
            "it under a key of its own, and say which by --key answer=NAME"
        )
    if votes := next((table.votes for table in tables if table.votes), ""):
        answer = AnswerGuess("soft_vote", False, votes)
    if wishes.answer:
        answer = AnswerGuess(wishes.answer, answer.counts and wishes.answer == "number", "as --answer says")
    if answer.kind is None:
        raise DataError(f"what kind its answers are cannot be told: {answer.why}; say it by --answer")
    if answer.kind == "box":
        _check_boxes(group)
    roots = [path for path in paths if path.is_dir()]
    train = group.parts["train"]
    names = [image for table in tables for record in table.seen for image in record.images]
    pictures = find_pictures(names, train[0].path, wishes.images, roots)
    if pictures.looked_for and pictures.folder is None:
        if leaves_its_folder(pictures.missing):
            raise DataError(
                f"its pictures have absolute paths or such that lead upwards ({pictures.missing!r} ...); expected"
                " paths relative to a folder below which all of them lie"
            )
        tried = ", ".join(str(folder) for folder in pictures.tried[:8])
        raise DataError(
            f"its pictures were not found: {pictures.missing!r} and {pictures.looked_for - 1} others are in none of "
            f"{tried}; name the folder below which they lie by --images"
        )
    return FoundDataset(group, answer, pictures, _keys(tables), references, in_both=_in_both(group))


def _check_boxes(group: Group) -> None:
    """Refuse test records of which a box could not be scored: those of a file say the size of their picture.

    Raises:
        DataError: how many do not, and what else could be done.
    """
    for split in ("test", "validation"):
        for table in group.tables(split):
            lacking = sum(
                not (isinstance(row, Mapping) and {"answer_bbox", "size"} <= row.keys()) for row in table.rows
            )
            if lacking:
                raise DataError(
                    f"its answers are boxes, and {lacking} of {len(table.rows)} records of {table.path} lack what "
                    "scoring them takes: 'answer_bbox' ([x1, y1, x2, y2]) and 'size' ([width, height] in pixels); "
                    "without this file a share of the training records is held out, whose pictures say their sizes"
                )


def _keys(tables: Sequence[Table]) -> Mapping[str, str]:
    """The keys to declare: those of all tables that have one of an unusual name.

    Raises:
        DataError: two tables name the same thing differently.
    """
    declared: dict[str, str] = {}
    for table in tables:
        for role, key in table.found.unusual.items():
            if declared.setdefault(role, key) != key:
                raise DataError(
                    f"{table.path}: its {role} stands under {key!r}, in another file of the data set under "
                    f"{declared[role]!r}; declare them as two data sets, or rename one of the keys"
                )
    return declared


def _references(group: Group, captions: Sequence[Path]) -> dict[str, Path]:
    """COCO files beside the test records, or the validation records."""
    found: dict[str, Path] = {}
    for split in ("test", "validation"):
        for table in group.tables(split):
            beside = [path for path in captions if path.parent == table.path.parent]
            own = [path for path in beside if (split_of(path, path.parent) or "test") == split]
            if chosen := own or (beside if split == "test" else []):
                found[split] = chosen[0]
    return found


def _in_both(group: Group) -> int:
    """Test records that are training records too."""

    def hold(split: str) -> list[object]:
        seen = [record for table in group.tables(split) for record in table.seen]
        return [(record.images, pair) for record in seen for pair in record.pairs]

    trained = set(hold("train"))
    return sum(record in trained for split in ("test", "validation") for record in hold(split))


def _give_validation(groups: Sequence[Group], kept: Sequence[Table], path: Path) -> None:
    if len(groups) != 1:
        names = ", ".join(group.name for group in groups)
        raise DataError(
            f"--validation {path}: there are {len(groups)} data sets, {names}; give a share, or declare each one's file"
        )
    if not kept:
        raise DataError(f"--validation {path}: holds no records that can be told")
    groups[0].parts["validation"] = list(kept)


def _above(paths: Sequence[Path]) -> Path:
    """The folder that all of these lie in, or are; spelled from the working directory where it lies below that."""
    folders = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
    common = Path(os.path.commonpath(folders))
    here = Path.cwd()
    return common.relative_to(here) if here in (common, *common.parents) else common


def _nothing(paths: Sequence[Path], aside: Sequence[Aside]) -> str:
    where = ", ".join(map(str, paths))
    if not aside:
        return f"{where}: no file of records in it; expected {EXPECTED}"
    lines = "".join(f"\n  {each.path}: {each.why}" for each in aside[:10])
    more = f"\n  and {len(aside) - 10} more" if len(aside) > 10 else ""
    return f"{where}: nothing here can be declared as it is:{lines}{more}"
