"""Which folders below some paths are runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fcit_ray.results.run_folder import RunFolder
from fcit_ray.storage.location import child_of, is_uri, quoted
from fcit_ray.storage.mirror import mirror_of

_MARKS = ("environment.json", "results.json")  # one of which every run folder in a store has


@dataclass(frozen=True)
class Found:
    """Run folders below some paths: those of finished runs and the others; and the paths that have none."""

    finished: list[RunFolder]
    unfinished: list[RunFolder]
    without: list[Path | str]


def find_runs(paths: Iterable[Path | str]) -> Found:
    """The run folders among these paths and URIs, or up to two levels below (`runs/*` has `runs/demo/<method>`), once.

    In the order of the paths; below one by name.
    """
    found = Found([], [], [])
    seen: set[Path] = set()
    for path in paths:
        folders = [folder for place in _places(path) if (folder := RunFolder.at(place)).is_run()]
        if not folders:
            found.without.append(path)
        for folder in folders:
            if folder.path.resolve() not in seen:
                seen.add(folder.path.resolve())
                (found.finished if folder.finished else found.unfinished).append(folder)
    return found


def _places(path: Path | str) -> list[Path | str]:
    """The place itself, if it is a run folder, or else what lies up to two levels below it."""
    if is_uri(path):
        marks = [name.split("/") for name in mirror_of(str(path)).list() if Path(name).name in _MARKS]
        below = sorted({"/".join(parts[:-1]) for parts in marks if len(parts) <= 3})
        return [path] if "" in below else [child_of(str(path), quoted(name)) for name in below]
    path = Path(path)
    return [path] if RunFolder(path).is_run() else sorted([*path.glob("*"), *path.glob("*/*")])
