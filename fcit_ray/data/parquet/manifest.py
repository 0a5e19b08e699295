"""The manifest of a Parquet root: what it was made of and which files it came to."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from fcit_ray.errors import DataError

MANIFEST = "parquet.json"
"""Written last by `fcit-ray prepare parquet`: its presence makes a folder a Parquet root."""

IMAGES = "images"
"""Key of the image tables in the manifest."""


def _below(name: str) -> str:
    """A manifest comes from anywhere: what it names is read, and deleted where it is no longer wanted."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise ValueError(f"{name!r} is no name of a file below the folder")
    return name


def _table(name: str) -> str:
    if not name.endswith(".parquet"):
        raise ValueError(f"{name!r} is no name of a table")
    return name


Below = Annotated[str, AfterValidator(_below)]
FILES = "records"
"""Folder of the tables of files that do not lie in `instructions/`."""


class TableFile(BaseModel):
    """One file: its name under the root, rows, size, hash; of image tables the last path in it too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[Below, AfterValidator(_table)]
    rows: int
    bytes: int
    sha256: str
    last: str | None = None


class Plan(BaseModel):
    """What a conversion is made of; two of equal plans make the same tables.

    Attributes:
        version: of the layout; in the first, paths of images start at `datasets/`.
        images: within the tables, or left where they are.
        image_root: the data root that holds referenced images.
        rows_per_file: rows of a table's file at most.
        sources: SHA-256 of each file converted, by its name: under the root, absolute, or a URI.
        set_aside: how many of a file's records are in quarantine, and hence not here.
        quarantine: SHA-256 of the quarantine file, if there was one.
        parts: the files that a path of a declaration meant, by split and path, where it is not the one file's name.
        read_from: the root that complete names of pictures lay below, where records have such names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1, 2] = 2
    images: Literal["embed", "reference"]
    image_root: str | None
    rows_per_file: int
    sources: dict[str, str]
    set_aside: dict[str, int]
    quarantine: str | None
    parts: dict[str, list[str]] = {}
    read_from: str | None = None


class Manifest(BaseModel):
    """The plan, and the files that it came to by source; under `images` the image tables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Plan
    tables: dict[str, list[TableFile]]


def parse_manifest(text: bytes, place: str) -> Manifest:
    """Read a manifest.

    Raises:
        DataError: it is none of ours.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        told = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{place}: {where}: {told}; expected what `fcit-ray prepare parquet` writes") from None
