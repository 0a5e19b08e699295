"""Where a record belongs, and what its pictures are called from the data root on."""

import posixpath
from dataclasses import dataclass

from fcit_ray.data.formats.embedded import as_reference
from fcit_ray.errors import DataError
from fcit_ray.storage.location import child_of, is_below, is_complete, is_uri, redact

MARK = "fcit_ray"
"""Key of a record that `prepare partition` wrote under which stands what nothing else tells: its `dataset`, where its
pictures' paths start (`images`), and the `sha256` of the record that it was made of."""


@dataclass(frozen=True)
class Place:
    """Where a record belongs.

    Attributes:
        dataset: its name.
        images: where its pictures' paths start: a folder relative to the root, an absolute one, or a URI.
        homes: the same as complete paths or URIs, however it is spelled: a complete name of a picture is taken if it
            lies below one of them.
        tables: files whose rows its pictures may lie in.
    """

    dataset: str
    images: str = ""
    homes: tuple[str, ...] = ()
    tables: frozenset[str] = frozenset()

    def at(self, path: str) -> str:
        """A picture's path from the root on.

        Args:
            path: as a record has it, through `picture_name`.

        Raises:
            DataError: it lies elsewhere than the dataset's pictures may.
        """
        if found := as_reference(path):
            if found.table not in self.tables:
                raise DataError(f"image {redact(path)!r} is of a table that its dataset does not have")
            return path
        if not is_complete(path):
            return child_of(self.images, path)
        for home in self.homes:
            if is_below(path, home):
                return child_of(self.images, _within(path, home))
        where = redact(self.homes[0]) if self.homes else "the folder of pictures"
        raise DataError(
            f"image {redact(path)!r} leaves the folder of pictures; expected a path inside it: {where}; "
            f"`images` of the dataset says where it is"
        )


def picture_name(given: str) -> str:
    """A picture's path as a record has it, spelled plainly.

    Raises:
        DataError: it can be none, or leads out of the folder of pictures.
    """
    if "\0" in given:
        raise DataError(f"image {given!r} holds a NUL character; expected a path")
    if is_uri(given) or as_reference(given):
        return given
    path = posixpath.normpath(given)
    if path.split("/")[0] == "..":
        raise DataError(f"image {given!r} leaves the folder of pictures; expected a path inside it")
    return path


def _within(path: str, home: str) -> str:
    if is_uri(path):
        path, home = (name.partition("?")[0] for name in (path, home))
    else:
        path, home = posixpath.normpath(path), posixpath.normpath(home)
    return path[len(home.rstrip("/")) + 1 :]
