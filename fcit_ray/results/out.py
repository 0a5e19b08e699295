"""The folder of several runs that a command writes into: on a disk, or in a store."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fcit_ray.errors import RunFolderError
from fcit_ray.results import lock
from fcit_ray.results.records import append_record, rewind
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.storage.location import child_of, is_uri, quoted
from fcit_ray.storage.mirror import mirror_of

_LOCK: Final = ".sweep.lock"
_POLL_S, _STORE_POLL_S = 1.0, 5.0


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

    def __init__(self, place: Path | str):
        self.name = Path(str(place).partition("?")[0].rstrip("/")).name
        self._mirror = None
        if is_uri(place):
            self._mirror = mirror_of(str(place))
            self._mirror.list()
        self.path = self._mirror.path if self._mirror else Path(place)

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune keeps a copy of what it calls; in another process a folder in a store has another working copy."""
        return (Out, (self.place,))

    @property
    def place(self) -> str:
        """The folder's path from any working directory, or its URI."""
        return self._mirror.uri if self._mirror else str(self.path.absolute())

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at what has become of the runs; in a store each look is a request a run."""
        return _STORE_POLL_S if self._mirror else _POLL_S

    def child(self, name: str) -> str:
        """Path or URI of what lies in the folder."""
        return child_of(self._mirror.uri, quoted(name)) if self._mirror else str(self.path / name)

    def run(self, name: str) -> RunFolder:
        """A run folder in it, as it is now.

        Raises:
            RunFolderError: the store does not answer.
        """
        return RunFolder.at(self.child(name))

    def has(self, name: str) -> bool:
        """Whether a file is there; in a store, as far as is known."""
        return name in self._mirror.index if self._mirror else (self.path / name).is_file()

    def has_now(self, name: str) -> bool:
        """As `has`, but the store is asked.

        Raises:
            RunFolderError: it does not answer.
        """
        return self._mirror.exists(name) if self._mirror else self.has(name)

    def record_file(self, name: str) -> Path:
        """A file of records at the folder's top, as it is now, without a last line that a kill cut short.

        Raises:
            RunFolderError: the store does not answer; a line that is no record.
        """
        file = self.path / name
        if self._mirror:
            self._mirror.fetch(name)
        rewind(file, math.inf, 0)
        return file

    def append(self, file: Path, record: Mapping[str, Any]) -> None:
        """Append a record to such a file; on return it is on the disk, or in the store.

        Raises:
            RunFolderError: the store does not take it.
            OSError: the disk is full, or the like.
        """
        append_record(file, record)
        if self._mirror:
            self._mirror.bring(file.name)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it no other process may work in the folder in this way.

        Raises:
            RunFolderError: one does.
        """
        file = self.path / _LOCK
        try:
            taken = lock.acquire(file, mirror=self._mirror)
        except lock.Locked as holder:
            raise RunFolderError(
                f"{self.place}: another process works in it ({holder}); wait for it, end it, or give another "
                "folder (--out)"
            ) from None
        try:
            yield
        finally:
            if taken:
                lock.release(file, self._mirror)

    def bring(self) -> None:
        """Bring the files at its top, and logs, to the store.

        Raises:
            RunFolderError: the store does not take them.
        """
        if self._mirror:
            files = [child for pattern in ("*", "logs/*.log") for child in self.path.glob(pattern) if child.is_file()]
            names = [str(file.relative_to(self.path)) for file in sorted(files) if not file.name.startswith(".")]
            try:
                self._mirror.bring_changed(names)
            except OSError as error:
                raise RunFolderError(f"{self._mirror.uri}: {error}") from error
