"""The folder of several runs that a command writes into: on a disk, or in a store."""

from pathlib import Path

from fcit_ray.errors import RunFolderError
from fcit_ray.storage.location import child_of, is_uri


class Out:
    """Where run folders and what is made of them go.

    Args:
        place: a path, or a URI.

    Attributes:
        path: the folder; of one in a store, this process's working copy of what is beside the runs.
        name: the last part of the place.

    Raises:
        RunFolderError: no such kind of place, or none that answers.
    """

    def __init__(self, place: str):
        self.name = Path(place.rstrip("/")).name
        self._place = place
        self._mirror = None
        if is_uri(place):
            from fcit_ray.storage.mirror import mirror_of

            self._mirror = mirror_of(place)
            self._mirror.list()
        self.path = self._mirror.path if self._mirror else Path(place)

    def child(self, name: str) -> str:
        """Path or URI of what lies in the folder."""
        return child_of(self._mirror.uri, name) if self._mirror else str(self.path / name)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return name in self._mirror.index if self._mirror else (self.path / name).is_file()

    def bring(self) -> None:
        """Bring the files at its top, and logs, to the store.

        Raises:
            RunFolderError: the store does not take them.
        """
        if self._mirror:
            files = [child for pattern in ("*", "logs/*.log") for child in self.path.glob(pattern) if child.is_file()]
            try:
                self._mirror.bring_changed(str(file.relative_to(self.path)) for file in sorted(files))
            except OSError as error:
                raise RunFolderError(f"{self._mirror.uri}: {error}") from error
