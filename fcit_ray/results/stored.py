"""A run folder in a store: what of it a process works with on its disk, and the order in which it goes there.

At any moment the store holds a run folder that a run can go on from. So objects go there before the checkpoint that
needs them, a checkpoint's manifest after its other files, and nothing is deleted before what refers to it: a checkpoint
is one whose manifest is there.
"""

import logging
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fcit_ray.results.manifest import MANIFEST, OBJECT, read_manifest
from fcit_ray.results.objects import FOLDER as OBJECTS
from fcit_ray.storage import durable
from fcit_ray.storage.claims import FOLDER as CLAIMS
from fcit_ray.storage.mirror import Mirror

CHECKPOINTS: Final = "checkpoints"
UNDER_WAY: Final = "under_way"
_OWN: Final = ("config.yaml", "environment.json", "partition.json", "metrics.jsonl", "results.json")
_TOLD: Final = ("tracking.json",)  # by the process that launches the run, which is the only one to have it
_STATE: Final = "state.json"
_LAST: Final = ("metrics.jsonl", "config.yaml", "environment.json")  # the mark: without it the folder is a stranger's
_TAR: Final = ".tar"

_log = logging.getLogger(__name__)


def refresh(mirror: Mirror) -> None:
    """Have what a run is known by as the store has it now: the files at the top, and what checkpoints say.

    Raises:
        RunFolderError: the store does not answer.
    """
    for folder_name in (CHECKPOINTS, "predictions", "logs"):
        (mirror.path / folder_name).mkdir(exist_ok=True)
    names = set(mirror.list())
    wanted = {name for name in names if name in _OWN or (name in _TOLD and not (mirror.path / name).is_file())}
    vouched = set()
    for name in names:
        at, _, file = name.rpartition("/")
        if at.startswith(f"{CHECKPOINTS}/") and f"{at}/{MANIFEST}" in names and file in (MANIFEST, _STATE):
            wanted.add(name)
            vouched.add(at)
    for name in set(_OWN) - wanted:
        (mirror.path / name).unlink(missing_ok=True)
    for folder in _folders(mirror.path / CHECKPOINTS):
        if f"{CHECKPOINTS}/{folder.name}" not in vouched:
            shutil.rmtree(folder)
    for name in sorted(wanted):
        mirror.fetch(name)


def holds_anything(mirror: Mirror) -> bool:
    """Whether there is anything but claims."""
    return any(name.split("/")[0] != CLAIMS for name in mirror.index)


def fetch_checkpoint(mirror: Mirror, folder: Path) -> None:
    """Have all files that a checkpoint needs; what the store lacks is missing here too.

    Raises:
        CheckpointError: its manifest is missing or damaged.
        RunFolderError: the store does not answer.
    """
    for name, said in read_manifest(folder)["files"].items():
        at = folder.parent if OBJECT.fullmatch(name) else folder
        path = at / name
        if not path.is_file() or path.stat().st_size != said.get("bytes"):
            mirror.fetch(str(path.relative_to(mirror.path)))


def bring_checkpoint(mirror: Mirror, folder: Path) -> None:
    """Bring a checkpoint: what the store lacks of its objects, its own files, its manifest."""
    rest, objects = [], []
    for name, said in read_manifest(folder)["files"].items():
        if not OBJECT.fullmatch(name):
            rest.append(f"{CHECKPOINTS}/{folder.name}/{name}")
        elif mirror.index.get(f"{CHECKPOINTS}/{name}") != said["bytes"]:
            objects.append(f"{CHECKPOINTS}/{name}")
    mirror.bring(*objects, *rest, f"{CHECKPOINTS}/{folder.name}/{MANIFEST}")


def drop_checkpoints(mirror: Mirror, kept: Iterable[Path], needed: set[str] | None) -> None:
    """Delete in the store the checkpoints other than these, and the objects that none of these needs.

    Args:
        mirror: of the run folder.
        kept: their folders in the working copy.
        needed: names of objects; None deletes none.
    """
    names = {folder.name for folder in kept}
    doomed = []
    for name in mirror.index:
        parts = name.split("/")
        if parts[0] != CHECKPOINTS or len(parts) < 3:
            continue
        if parts[1] == OBJECTS:
            if needed is not None and parts[2] not in needed:
                doomed.append(name)
        elif parts[1] not in names:
            doomed.append(name)
    mirror.remove(*sorted(doomed, key=lambda name: (not name.endswith(MANIFEST), f"/{OBJECTS}/" in name, name)))


def keep_update(mirror: Mirror, folder: Path) -> None:
    """Bring an update under way as one object, and delete it here: whoever goes on with it may be another machine."""
    tar = folder.with_name(f"{folder.name}{_TAR}")
    with tarfile.open(durable.partial(tar), "w") as file:
        for path in sorted(folder.iterdir()):
            file.add(path, path.name)
    durable.rename(durable.partial(tar), tar)
    mirror.bring(f"{UNDER_WAY}/{tar.name}")
    tar.unlink()
    shutil.rmtree(folder)


def fetch_update(mirror: Mirror, folder: Path) -> bool:
    """Have an update under way, if one was kept."""
    name = f"{UNDER_WAY}/{folder.name}{_TAR}"
    if not mirror.fetch(name):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with tarfile.open(mirror.path / name) as file:
            file.extractall(folder, filter="data")
    except tarfile.TarError as error:
        _log.warning("%s: cannot be unpacked: %s", mirror.named(name), error)
        shutil.rmtree(folder)
        return False
    finally:
        (mirror.path / name).unlink()
    return True


def fetch_updates(mirror: Mirror) -> None:
    """Have all updates under way."""
    for name in [*mirror.index]:
        folder, _, file = name.partition("/")
        if folder == UNDER_WAY and file.endswith(_TAR):
            fetch_update(mirror, mirror.path / name.removesuffix(_TAR))


def drop_updates(mirror: Mirror) -> None:
    """Delete every update under way: they are part of the state now."""
    mirror.remove(*mirror.list(UNDER_WAY))


def drop_stale_updates(mirror: Mirror, newest: Path) -> None:
    """Delete the updates that a checkpoint already holds: a kill came between the two."""
    starts = f"{UNDER_WAY}/{newest.name}"  # names sort as their positions do
    mirror.remove(*[name for name in mirror.index if name.startswith(f"{UNDER_WAY}/") and name < starts])


def clear(mirror: Mirror, keep_mark: bool = False) -> None:
    """Delete a run in the store: results first, the mark last, and checkpoints before what they vouch for."""

    def rank(name: str) -> tuple[int, bool, int]:
        last = _LAST.index(name) + 1 if name in _LAST else 0
        return (0 if name == "results.json" else 1 + last, not name.endswith(MANIFEST), name.count("/"))

    doomed = [name for name in mirror.index if name.split("/")[0] != CLAIMS]
    if keep_mark:
        doomed = [name for name in doomed if name.split("/")[0] in (CHECKPOINTS, UNDER_WAY, "predictions")]
    mirror.remove(*sorted(doomed, key=lambda name: (rank(name), name)))


def beside(path: Path) -> list[str]:
    """What stands in a working copy beside that which the run's driver and workers bring: pictures, pages, logs."""
    found = [name for name in _top(path) if name not in _OWN and (path / name).is_file() and not name.startswith(".")]
    found += [str(file.relative_to(path)) for file in (path / "logs").glob("*.log")]
    for tracker in ("tensorboard", "wandb"):
        found += [
            str(file.relative_to(path))
            for file in sorted((path / tracker).rglob("*"))
            if file.is_file() and not file.is_symlink()
        ]
    return found


def _top(path: Path) -> list[str]:
    return [child.name for child in path.iterdir() if child.is_file()]


def _folders(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if child.is_dir() and child.name != OBJECTS] if path.is_dir() else []
