"""Which files are one data set: its training, test and validation records, told by their names and places."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcit_ray.data.discovery.names import (
    Split,
    bare,
    folder_split,
    named_for_clients,
    named_for_parts,
    split_of,
    without_clients,
)
from fcit_ray.data.discovery.tables import Aside, Table


@dataclass
class Group:
    """The files of one data set.

    Attributes:
        name: what it would be called.
        parts: its tables by split, several where a folder holds a table in pieces or a file a client.
        clients: whether each training table is a client's.
        folder: the folder that its training tables are all of; None where they are files.
        why: what told that they belong so.
    """

    name: str
    parts: dict[Split, list[Table]] = field(default_factory=dict)
    clients: bool = False
    folder: Path | None = None
    why: list[str] = field(default_factory=list)

    def tables(self, split: str) -> list[Table]:
        """Of a split; none if it has none."""
        return next((tables for name, tables in self.parts.items() if name == split), [])


@dataclass(frozen=True)
class _Unit:
    """Tables that are one: a file, or the pieces of a folder."""

    tables: tuple[Table, ...]
    place: Path
    """The folder that its data set has to itself, or shares with others."""
    name: str
    """What the file's name says beside split and size."""
    split: Split | None
    clients: bool = False
    folder: Path | None = None
    why: str = ""


def group_tables(tables: Sequence[Table], root: Path) -> tuple[list[Group], list[Aside]]:
    """Put tables together to data sets, in the order in which they were found.

    Args:
        tables: as they were found.
        root: the folder that all lie in.

    Returns:
        The data sets, and tables that belong to none, with the reason.
    """
    groups: dict[tuple[Path, str], Group] = {}
    aside: list[Aside] = []
    for unit in _units(tables, root):
        name = unit.name or _place_name(unit.place, root)
        group = groups.setdefault((unit.place, unit.name.casefold()), Group(name))
        split = unit.split or "train"
        if split in group.parts:
            there = ", ".join(str(table.path) for table in group.parts[split])
            aside += [
                Aside(table.path, f"{there} was taken for the {split} records of {group.name} already; name the files "
                      "that are meant")
                for table in unit.tables
            ]  # fmt: skip
            continue
        group.parts[split] = list(unit.tables)
        if split == "train":
            group.clients, group.folder = unit.clients, unit.folder
        if unit.why:
            group.why.append(unit.why)
    merged = list(_joined(groups))
    for group in [group for group in merged if "train" not in group.parts]:
        merged.remove(group)
        aside += [
            Aside(table.path, f"named for {split} records, but no training records of {group.name!r} were found; name "
                  "their files alike, or declare them by hand")
            for split, tables in group.parts.items() for table in tables
        ]  # fmt: skip
    return list(_named_apart(merged)), aside


def _place_name(place: Path, root: Path) -> str:
    """The nearest folder's that says something."""
    within = [folder.resolve().name for folder in (place, *place.parents) if root in (folder, *folder.parents)]
    return next(filter(None, map(bare, within)), "mine")


def _units(tables: Sequence[Table], root: Path) -> Iterator[_Unit]:
    """Single files, and the files of a folder that are one table or one partition."""
    folders: dict[Path, list[Table]] = {}
    for table in tables:
        folders.setdefault(table.path.parent, []).append(table)
    done: set[Path] = set()
    for table in tables:
        folder = table.path.parent
        if folder in done:
            continue
        together = folders[folder]
        paths = [each.path for each in together]
        # What a folder's name says of its files, unless they say it themselves.
        split = folder_split(folder) if folder != root else None
        if named_for_parts(paths):
            why = "differ in their numbers alone: parts of one table"
            yield _whole(together, root, split_of(paths[0], root), False, why)
            done.add(folder)
        elif named_for_clients(paths) and all(split_of(path, folder) is None for path in paths):
            yield _whole(together, root, split or "train", True, "are named for clients: a file a client")
            done.add(folder)
        elif split == "train" and len(paths) > 1 and not _tested_by_name(paths, folders, folder):
            yield _whole(together, root, split, True, "lie in one folder of training records: a file a client")
            done.add(folder)
        else:
            place = folder.parent if split else folder
            yield _Unit((table,), place, bare(table.path.stem), split_of(table.path, root))


def _whole(tables: Sequence[Table], root: Path, split: Split | None, clients: bool, why: str) -> _Unit:
    """All files of a folder as one."""
    folder = tables[0].path.parent
    plain = without_clients(bare(folder.name)) if folder != root else ""
    place = folder if folder == root or plain else folder.parent
    return _Unit(
        tuple(tables), place if not plain else folder.parent, plain, split, clients, folder,
        f"the {len(tables)} files of {folder} {why}",
    )  # fmt: skip


def _tested_by_name(paths: Iterable[Path], folders: Mapping[Path, Sequence[Table]], folder: Path) -> bool:
    """Whether a folder of test records beside has files of the same names: then each is a data set."""
    stems = {path.stem for path in paths}
    return any(
        other.parent == folder.parent and folder_split(other) == "test" and stems & {t.path.stem for t in tables}
        for other, tables in folders.items()
    )


def _joined(groups: Mapping[tuple[Path, str], Group]) -> Iterator[Group]:
    """Where a folder has training records of one name and test records of another, and no more, they are one set."""
    places: dict[Path, list[Group]] = {}
    for (place, _), group in groups.items():
        places.setdefault(place, []).append(group)
    for together in places.values():
        trained = [group for group in together if "train" in group.parts]
        others = [group for group in together if "train" not in group.parts]
        splits = [split for group in together for split in group.parts]
        if len(trained) == 1 and others and len(set(splits)) == len(splits):
            for other in others:
                trained[0].parts |= other.parts
                trained[0].why += [
                    *other.why,
                    f"the only training and {', '.join(other.parts)} records of their folder",
                ]
            yield trained[0]
        else:
            yield from together


def _named_apart(groups: Sequence[Group]) -> Iterator[Group]:
    """Names that differ: a second `shapes` becomes `shapes-2`."""
    seen: dict[str, int] = {}
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        if seen[group.name] > 1:
            group.name = f"{group.name}-{seen[group.name]}"
        yield group
