"""A picture that lies in a table: how records name it, and its bytes.

train.parquet#12/image          of row 12, counted from 0, the column `image`
train.parquet#12/images/1       of a column of several the second
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

_REFERENCE = re.compile(r"(.+\.(?:parquet|arrow)(?:\?[^#]*)?)#(\d+)/([^#]+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """A picture of a table.

    Attributes:
        table: the file, as records name it.
        row: in the file, from 0.
        at: the column, and the way from there to the picture.
    """

    table: str
    row: int
    at: tuple[str, ...]


def reference(name: str, row: int, column: str) -> str:
    """How a record names a picture of a table's column; what is in it goes on behind a slash."""
    return f"{name}#{row}/{quote(column, safe=' ')}"


def as_reference(image: str) -> Reference | None:
    """What a record's picture refers to; None where it is a file of its own."""
    if "#" not in image or not (match := _REFERENCE.fullmatch(image)):
        return None
    return Reference(match[1], int(match[2]), tuple(map(unquote, match[3].split("/"))))
