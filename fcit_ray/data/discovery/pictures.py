"""Where the pictures that records name are: the folder below which most of the names lead to a file."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcit_ray.data.formats.embedded import as_reference
from fcit_ray.data.records.images import picture_size

_MOST_NAMES = 1000
"""Names that are looked for below every folder: evenly from all, so that thousands of folders cost seconds."""
_MOST_SIZES = 50
USUAL = ("images", "datasets", "pictures", "img", "imgs", "photos", "media", "data")
_ABOVE = 3


@dataclass(frozen=True)
class FoundPictures:
    """Where pictures are.

    Attributes:
        folder: below which their names lead to files; None if none was found, or the names do not want one.
        found: how many of the names that were looked for are there.
        looked_for: how many names that is.
        missing: one that is not there.
        embedded: pictures that stand in the table itself.
        sizes: the smallest and the largest, as `width x height`.
        tried: the folders that were looked in.
    """

    folder: Path | None
    found: int = 0
    looked_for: int = 0
    missing: str = ""
    embedded: int = 0
    sizes: str = ""
    tried: tuple[Path, ...] = ()


def find_pictures(names: Iterable[str], file: Path, given: Path | None, roots: Sequence[Path]) -> FoundPictures:
    """Find the folder of some pictures.

    Args:
        names: as the reader has them, files or places in a table.
        file: the records' file.
        given: the folder, if the user named it.
        roots: folders that the user named to look into.
    """
    everything = list(dict.fromkeys(names))
    embedded = [name for name in everything if as_reference(name)]
    different = [name for name in everything if not as_reference(name)]
    if not different:
        return FoundPictures(None, embedded=len(embedded), sizes=_sizes(Path(), embedded))
    step = -(-len(different) // _MOST_NAMES)
    sample = different[::step]
    tried = [given] if given else list(dict.fromkeys(_candidates(file, roots)))
    best: FoundPictures | None = None
    for folder in tried:
        missing = [name for name in sample if not _is_file(folder, name)]
        found = len(sample) - len(missing)
        if best is None or found > best.found:
            best = FoundPictures(folder, found, len(sample), missing[0] if missing else "", len(embedded))
        if not missing:
            break
    assert best is not None
    if not best.found:
        return FoundPictures(None, 0, len(sample), sample[0], len(embedded), tried=tuple(tried))
    there = [name for name in sample if _is_file(best.folder or Path(), name)]
    sizes = _sizes(best.folder or Path(), there)
    return FoundPictures(best.folder, best.found, best.looked_for, best.missing, len(embedded), sizes, tuple(tried))


def _candidates(file: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """Beside the file, in folders of usual names there, then the same a folder higher, and in what the user named."""
    beside = file.parent
    for folder in (beside, *_above(beside), *roots):
        yield folder
        for name in USUAL:
            if (folder / name).is_dir():
                yield folder / name
    for folder in roots:
        yield from sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _above(folder: Path) -> Iterator[Path]:
    here = folder
    for _ in range(_ABOVE):
        here = here / ".." if here.name in ("", "..") else here.parent
        if here.is_dir() and os.access(here, os.R_OK):
            yield here


def leaves_its_folder(name: str) -> bool:
    """Whether a picture's name leads out of any folder: the loaders take none that does."""
    return os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == ".."


def _is_file(folder: Path, name: str) -> bool:
    if leaves_its_folder(name):
        return False
    try:
        return os.path.isfile(folder / name)
    except ValueError:  # a path that the system takes for none
        return False


def _sizes(folder: Path, names: Sequence[str]) -> str:
    sizes = []
    for name in names[:: max(1, len(names) // _MOST_SIZES)]:
        try:
            sizes.append(picture_size(str(folder), name))
        except (OSError, ValueError):
            continue  # a check says what is wrong with it
    if not sizes:
        return ""
    least, most = (f"{width} x {height}" for width, height in (min(sizes), max(sizes)))
    return f"{least} pixels" if least == most else f"{least} to {most} pixels"
