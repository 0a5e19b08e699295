"""Which folders below some paths are runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fcit_ray.results.run_folder import RunFolder


@dataclass(frozen=True)
class Found:
    """Run folders below some paths: those of finished runs and the others; and the paths that have none."""

    finished: list[RunFolder]
    unfinished: list[RunFolder]
    without: list[Path]


def find_runs(paths: Iterable[Path]) -> Found:
    """The run folders among these paths, or up to two levels below them (`runs/*` has `runs/demo/<method>`), each once.

    In the order of the paths; below one by name.
    """
    found = Found([], [], [])
    seen: set[Path] = set()
    for path in paths:
        places = [path] if RunFolder(path).is_run() else [
            place for place in sorted([*path.glob("*"), *path.glob("*/*")]) if RunFolder(place).is_run()
        ]  # fmt: skip
        if not places:
            found.without.append(path)
        for place in places:
            if place.resolve() not in seen:
                seen.add(place.resolve())
                folder = RunFolder(place)
                (found.finished if folder.finished else found.unfinished).append(folder)
    return found
