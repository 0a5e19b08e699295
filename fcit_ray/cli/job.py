"""Commands as jobs (`ray job submit --working-dir`): they run in a copy of that directory, which Ray deletes again."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fcit_ray.cli.common import tell
from fcit_ray.errors import UserError
from fcit_ray.storage.location import is_uri, refuse_uri

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config

_COPIES = ("runtime_resources", "working_dir_files")
"""Folders of Ray's session, one in the other, below which each uploaded directory has a folder of its own."""


def copy_of_upload(place: Path | str) -> Path | None:
    """Ray's copy of an uploaded directory in which a place lies; None if it lies elsewhere."""
    if is_uri(place):
        return None
    path = Path(os.path.abspath(place))
    for folder in (path, *path.parents):
        if (folder.parent.parent.name, folder.parent.name) == _COPIES:
            return folder
    return None


def refuse_passing(out: Path | str, given: str = "--out") -> None:
    """Refuse to leave results where Ray deletes them after the job, or in a store, where these are not written.

    Args:
        out: file or folder.
        given: what names it in the command.

    Raises:
        UserError: says what to add to the command.
    """
    refuse_uri(Path(out))
    if said := _passing(out, given):
        raise UserError(said)


def check_job(out: Path | str, configs: "Iterable[Config]") -> None:
    """Before anything else of a run: that a job finds its data and leaves its results somewhere.

    Args:
        out: run folder, or folder of run folders.
        configs: of the runs.

    Raises:
        UserError: the results would be lost, or a data root is relative and not in what was uploaded; both at once.
    """
    faults = [_passing(out, "--out")]
    for root in sorted({config.benchmark.root for config in configs}):
        if (copy := copy_of_upload(root)) is None:
            continue
        if not Path(root).exists():
            faults.append(
                f"benchmark.root: {root} is not in the job's copy of the working directory, {copy}: what .gitignore "
                f"and .rayignore name is not uploaded; give a folder or URI that every machine sees, such as "
                f"benchmark.root=/shared/{root}"
            )
        else:
            tell(
                f"note: benchmark.root={root} was uploaded with the job, and another upload has it elsewhere: --resume "
                "in another job refuses another root. A folder or URI that every machine sees does better"
            )
    if said := "\n".join(filter(None, faults)):
        raise UserError(said)


def _passing(out: Path | str, given: str) -> str:
    """Why a place cannot be written to by a job; empty if it can."""
    if (copy := copy_of_upload(out)) is None:
        return ""
    name = Path(os.path.abspath(out)).relative_to(copy)
    return (
        f"{given}: {name} would lie in the job's copy of the working directory, {copy}, which Ray deletes after the "
        f"job; give an absolute place that stays and that every machine sees, such as {given} /shared/{name}"
    )
