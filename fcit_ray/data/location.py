"""Where a data root is: a folder of this machine, or a URI of an object store (`s3://bucket/fcit`, `gs://…`)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pyarrow takes a while to load, and a root in the authors' layout needs none of it
    from fcit_ray.data.parquet_read import ParquetRoot

MANIFEST = "parquet.json"
"""Written last by `prepare.py parquet`: its presence makes a folder a Parquet root."""


def is_uri(root: Path | str) -> bool:
    """Whether a root is a URI rather than a path."""
    return "://" in str(root)


def absolute(root: str) -> str:
    """The same root from any working directory."""
    return root if is_uri(root) else str(Path(root).resolve())


def spellings(path: Path) -> tuple[Path, Path]:
    """A path from any working directory and without `..`: with its links as they are, and followed."""
    return Path(os.path.abspath(path)), path.resolve()


def is_folder(root: Path | str) -> bool:
    """Whether a root is a folder of this machine that exists."""
    return not is_uri(root) and Path(root).is_dir()


def file_in(root: Path | str, name: str) -> str:
    """A file's path or URI, for messages."""
    return f"{str(root).rstrip('/')}/{name}"


def parquet_at(root: Path | str) -> "ParquetRoot | None":
    """The Parquet root at a place; None if this is a folder in the authors' layout, or no folder.

    Raises:
        DataError: a URI without Parquet of ours, or Parquet that cannot be read.
    """
    if not is_uri(root) and not (Path(root) / MANIFEST).is_file():
        return None
    from fcit_ray.data.parquet_read import open_parquet

    return open_parquet(absolute(str(root)))
