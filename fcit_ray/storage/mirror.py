"""A folder in a store (S3, Google's, whatever `remote` opens), and the copy of it that a process works in.

The store is the truth. A process has a working copy of its own on the local disk, of what it needs: it writes there as
in any folder, and brings each file to the store whole, in an order that the caller decides. Nothing is ever read from
the working copy of another process, or of an earlier one: those go when the process ends, or when the next one begins.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from pyarrow import fs

from fcit_ray.errors import DataError, RunFolderError
from fcit_ray.storage import durable
from fcit_ray.storage.location import child_of, redact
from fcit_ray.storage.remote import file_system, in_time
from fcit_ray.storage.working_copies import working_copy

GIVE_UP_S: Final = 120.0
"""Seconds for which a store that fails is asked again."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_HANGS_S, _BYTES_A_S = 120.0, 2**20  # a transfer that takes longer, and a second more for so many bytes, hangs
_CHUNK: Final = 4 * 2**20
_FINAL: Final = re.compile(
    r"ACCESS_DENIED|AccessDenied|Forbidden|\b40[013]\b|NO_SUCH_BUCKET|NoSuchBucket|INVALID_ACCESS_KEY|"
    r"SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH|Unauthorized|INVALID_CLIENT_TOKEN|permission denied",
    re.IGNORECASE,
)
_WHOLE: Final = ("s3", "gcs", "abfs")  # an object appears when all of it is there; elsewhere a file is renamed
_REMEDY: Final = (
    "see to it that the store answers and that the credentials in the environment may read, write, list and delete "
    "there; what was brought there is kept, and --resume goes on from it"
)
_Answer = TypeVar("_Answer")


class Mirror:
    """A folder in a store, and this process's working copy of it; `mirror_of` makes them, one a folder.

    Args:
        uri: of the folder, without credentials.

    Attributes:
        uri: of the folder.
        path: the working copy, empty at first.
        index: names of the files that the store holds, as far as is known, with their bytes.
        seconds: spent on bringing and removing so far.
        guards: called before anything is brought or removed; they raise if this process may not any more.

    Raises:
        DataError: no such kind of place, credentials in the URI, or none that answers.
    """

    def __init__(self, uri: str):
        self.uri = uri
        self._system, self._base = file_system(uri)
        self.path = working_copy(uri)
        self.index: dict[str, int] = {}
        self.seconds, self._told_s = 0.0, 0.0
        self.guards: list[Callable[[], None]] = []
        self._brought: dict[str, tuple[int, int]] = {}
        self._seen: dict[str, tuple[int, Any]] = {}  # what of the store's versions the local file is
        self._lock = threading.RLock()

    def named(self, name: str) -> str:
        """The URI of a file of the folder."""
        return child_of(self.uri, name)

    def list(self, below: str = "") -> dict[str, int]:
        """What the store holds in a folder of this one, or in all of it; bytes by name. The index learns of it.

        Raises:
            RunFolderError: it does not answer.
        """
        found = {name: info.size for name, info in self.infos(below).items()}
        for name in [name for name in self.index if name.startswith(f"{below}/" if below else "")]:
            del self.index[name]
        self.index |= found
        return found

    def infos(self, below: str = "") -> dict[str, Any]:
        """What pyarrow tells of every file in a folder, by name."""
        base = self._at(below) if below else self._base
        selector = fs.FileSelector(base, allow_not_found=True, recursive=True)
        infos = self._ask("be listed", below, lambda: self._system.get_file_info(selector))
        start = len(self._base.strip("/")) + 1
        return {info.path.lstrip("/")[start:]: info for info in infos if info.is_file}

    def exists(self, name: str) -> bool:
        """Whether the store holds a file now.

        Raises:
            RunFolderError: it does not answer.
        """
        return bool(self._ask("be read", name, lambda: self._system.get_file_info(self._at(name)).is_file))

    def bring(self, *names: str) -> None:
        """Bring files of the working copy to the store, one after another; each appears there whole or not at all.

        Raises:
            RunFolderError: the store does not take it; names the object.
            OSError: the working copy cannot be read.
        """
        began = time.monotonic()
        with self._lock:
            self._check()
            for name in names:
                self._bring(name)
        self.seconds += time.monotonic() - began

    def bring_changed(self, names: Iterable[str]) -> None:
        """As `bring`, of those files that are others than when they were brought last."""
        changed = []
        for name in names:
            found = (self.path / name).stat()
            if self._brought.get(name) != (found.st_mtime_ns, found.st_size):
                changed.append(name)
        if changed:
            self.bring(*changed)

    def remove(self, *names: str) -> None:
        """Delete files in the store, one after another; those that are not there are no error.

        Raises:
            RunFolderError: the store does not do it; names the object.
        """
        if not names:
            return
        began = time.monotonic()
        with self._lock:
            self._check()
            for name in names:
                self._ask("be deleted", name, lambda name=name: self._delete(self._at(name)))  # type: ignore[misc]
                self.index.pop(name, None)
                self._brought.pop(name, None)
                self._seen.pop(name, None)
        self.seconds += time.monotonic() - began

    def fetch(self, name: str) -> bool:
        """Fetch a file into the working copy as it is in the store now; false if there is none there.

        Raises:
            RunFolderError: the store does not answer.
            OSError: the disk is full, or the like.
        """
        target = self.path / name
        with self._lock:
            info = self._ask("be read", name, lambda: self._system.get_file_info(self._at(name)))
            if not info.is_file:
                target.unlink(missing_ok=True)
                self.index.pop(name, None)
                return False
            version = (info.size, info.mtime_ns)
            if not target.is_file() or self._seen.get(name) != version:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = durable.partial(target)
                try:
                    self._ask("be read", name, lambda: self._download(self._at(name), temporary), info.size)
                except FileNotFoundError:  # deleted meanwhile, by who works there
                    temporary.unlink(missing_ok=True)
                    return False
                os.replace(temporary, target)
                self._seen[name] = version
            self.index[name] = info.size
            return True

    def lap(self) -> float:
        """Seconds spent on bringing and removing since this was asked last."""
        seconds, self._told_s = self.seconds - self._told_s, self.seconds
        return seconds

    def write_text(self, name: str, text: str) -> None:
        """Write an object that has no copy here, unguarded: of who holds the folder.

        Raises:
            RunFolderError: the store does not take it.
        """
        content = text.encode()
        self._ask("be written", name, lambda: self._upload(self._at(name), iter([content])), len(content), writes=True)

    def drop(self, name: str) -> None:
        """Delete such an object again."""
        self._ask("be deleted", name, lambda: self._delete(self._at(name)))

    def read_text(self, name: str) -> str | None:
        """What an object says; None if there is none."""

        def read() -> str | None:
            try:
                with self._system.open_input_stream(self._at(name)) as stream:
                    return bytes(stream.read()).decode()
            except FileNotFoundError:
                return None

        return self._ask("be read", name, read)

    def _check(self) -> None:
        for guard in self.guards:
            guard()

    def _at(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def _bring(self, name: str) -> None:
        path = self.path / name
        found = path.stat()

        def upload() -> None:
            with path.open("rb") as file:
                self._upload(self._at(name), iter(lambda: file.read(_CHUNK), b""))

        self._ask("be written", name, upload, found.st_size, writes=True)
        self.index[name] = found.st_size
        self._brought[name] = (found.st_mtime_ns, found.st_size)
        self._seen.pop(name, None)

    def _upload(self, target: str, chunks: Iterable[bytes]) -> None:
        kind = str(self._system.type_name)
        if kind.removeprefix("py::fsspec+") in _WHOLE:
            self._write(target, chunks)
            return
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}{durable.PARTIAL}"
        self._system.create_dir(folder, recursive=True)
        self._write(temporary, chunks)
        self._system.move(temporary, target)

    def _write(self, target: str, chunks: Iterable[bytes]) -> None:
        stream = self._system.open_output_stream(target)
        try:
            for chunk in chunks:
                stream.write(chunk)
        except BaseException:
            stream.close()  # which makes an object of what was written: there is no other way to let go of it
            self._delete(target)
            raise
        stream.close()

    def _delete(self, target: str) -> None:
        try:
            self._system.delete_file(target)
        except FileNotFoundError:
            return

    def _download(self, source: str, target: Path) -> None:
        with self._system.open_input_stream(source) as stream, target.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                file.write(chunk)

    def _ask(
        self, what: str, name: str, call: Callable[[], _Answer], num_bytes: int = 0, writes: bool = False
    ) -> _Answer:
        """Ask the store, and again while it fails; one that hangs in a write is not, as it might come through later."""
        began, wait_s = time.monotonic(), _FIRST_WAIT_S
        place = redact(self.named(name) if name else self.uri)
        while True:
            try:
                return in_time(place, call, _HANGS_S + num_bytes / _BYTES_A_S)
            except DataError as error:
                raise RunFolderError(f"{place}: cannot {what}: {error}") from None
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno is not None and error.filename is not None:
                    raise  # of the working copy
                why = redact(str(error).strip().partition("\n")[0] or type(error).__name__)
                spent = time.monotonic() - began
                if _FINAL.search(why) or spent + wait_s > GIVE_UP_S:
                    tried = "" if spent < 1 else f" for {spent:.0f} s"
                    raise RunFolderError(f"{place}: cannot {what}{tried}: {why}; {_REMEDY}") from error
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


_mirrors: dict[str, Mirror] = {}
_making = threading.Lock()


def mirror_of(uri: str) -> Mirror:
    """This process's mirror of a folder in a store; always the same one.

    Raises:
        RunFolderError: as `Mirror`.
    """
    uri = uri.rstrip("/")
    with _making:
        if uri not in _mirrors:
            try:
                _mirrors[uri] = Mirror(uri)
            except DataError as error:
                raise RunFolderError(str(error)) from None
        return _mirrors[uri]
