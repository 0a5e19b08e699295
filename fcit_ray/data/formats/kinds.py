"""What kind of file one is: by the end of its name and by its first bytes, which must agree."""

import os
from pathlib import Path
from typing import Literal

from fcit_ray.errors import DataError
from fcit_ray.storage.files import NUM_BYTES, misfit, misfit_content
from fcit_ray.storage.location import is_uri, redact
from fcit_ray.storage.remote import open_uri

Kind = Literal["json", "lines", "csv", "tsv", "parquet", "arrow"]

KINDS: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""By the end of a file's name."""

EXPECTED = ".json, .jsonl, .csv, .tsv, .parquet or .arrow"
TABLES = (".parquet", ".arrow")
"""Files that may hold pictures."""

_BOM = b"\xef\xbb\xbf"
_MAGIC: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_WORDS = {"parquet": "Parquet", "arrow": "an Arrow table", "json": "JSON", "": "text"}


def ending(place: str) -> str:
    """The end of a file's name, of a URI before its options."""
    name = place.partition("?")[0] if is_uri(place) else place
    return os.path.splitext(name)[1].lower()


def kind_of_file(place: str, start: bytes) -> Kind:
    """What a file is.

    Args:
        place: its path or URI.
        start: its first bytes.

    Raises:
        DataError: its name says nothing, or its content something else.
    """
    suffix = ending(place)
    if suffix not in KINDS:
        raise DataError(f"{redact(place)}: its name ends in {suffix or 'nothing'}; expected {EXPECTED}")
    named = KINDS[suffix]
    content = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    text = start.removeprefix(_BOM).lstrip()
    if content is None and text[:1] in (b"[", b"{") and named not in ("json", "lines"):
        content = "json"
    if named in _MAGIC.values() and content != named:
        raise DataError(f"{redact(place)}: is named {suffix} and holds {_WORDS[content or '']}; give it its own name")
    if content is not None and content != named and not (content == "json" and named == "lines"):
        raise DataError(f"{redact(place)}: is named {suffix} and holds {_WORDS[content]}; give it its own name")
    return named


def first_bytes(place: str) -> bytes:
    """Of a file, to tell its kind by.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DataError: it obviously is not what it should be.
    """
    if is_uri(place):
        with open_uri(place) as file:
            start = bytes(file.read(NUM_BYTES))
        reason = misfit_content(start)
    else:
        reason = misfit(place)
        start = b""
        if not reason:
            with Path(place).open("rb") as local:
                start = local.read(NUM_BYTES)
    if reason:
        raise DataError(f"{redact(place)}: {reason}")
    return start


def content_of(place: str) -> bytes:
    """All of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    if is_uri(place):
        with open_uri(place) as file:
            return bytes(file.read())
    return Path(place).read_bytes()
