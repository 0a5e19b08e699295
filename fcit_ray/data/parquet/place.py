"""Whether a data root is Parquet; asked of every root, so pyarrow is imported only where the answer is yes."""

from pathlib import Path
from typing import TYPE_CHECKING

from fcit_ray.data.parquet.manifest import MANIFEST
from fcit_ray.storage.location import absolute, is_uri

if TYPE_CHECKING:
    from fcit_ray.data.parquet.reading import ParquetRoot


def parquet_at(root: Path | str) -> "ParquetRoot | None":
    """The Parquet root at a place; None if this is a folder in the authors' layout, or no folder.

    Raises:
        DataError: a URI without Parquet of ours, or Parquet that cannot be read.
    """
    if not is_uri(root) and not (Path(root) / MANIFEST).is_file():
        return None
    from fcit_ray.data.parquet.reading import open_parquet

    return open_parquet(absolute(str(root)))
