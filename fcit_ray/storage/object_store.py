"""A folder of files, on this machine or in an object store that pyarrow knows; files appear whole or not at all."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from fcit_ray.errors import DataError, disk_reason
from fcit_ray.storage import durable
from fcit_ray.storage.location import check_uri, file_in, is_uri
from fcit_ray.storage.remote import file_system, open_uri

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Written:
    """What a file came to: size in bytes and SHA-256."""

    bytes: int
    sha256: str


class Store:
    """Files under one path or URI.

    On this machine a file is written beside its name and renamed. Object stores show an object when it is complete;
    should one be cut short all the same, its hash gives it away, as nothing is read that no manifest names.

    Args:
        location: a path, or a URI that `pyarrow.fs.FileSystem.from_uri` takes.

    Raises:
        DataError: no such kind of place.
    """

    def __init__(self, location: str):
        check_uri(location)
        self.location = location
        self._fs: Any
        if is_uri(location):
            self._fs, self._base = file_system(location)
        else:
            self._fs, self._base = fs.LocalFileSystem(), os.path.realpath(location)

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that the files are in; None in an object store."""
        return Path(os.path.realpath(self._base)) if isinstance(self._fs, fs.LocalFileSystem) else None

    def path(self, name: str) -> str:
        """A file's name within the file system."""
        return f"{self._base.rstrip('/')}/{name}"

    def open(self, name: str) -> pa.NativeFile:
        """Open for reading at any position.

        Raises:
            OSError: cannot be read.
        """
        return self._fs.open_input_file(self.path(name))

    def read(self, name: str) -> bytes | None:
        """A whole file; None if there is none.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with self._fs.open_input_stream(self.path(name)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = disk_reason(error, self.path(name)) if self.folder else error
            raise DataError(f"{file_in(self.location, name)}: cannot be read: {reason}") from error

    def look(self, name: str) -> Written | None:
        """Size and hash of a file that is there; None if there is none."""
        try:
            stream = self._fs.open_input_stream(self.path(name))
        except FileNotFoundError:
            return None
        digest, size = hashlib.sha256(), 0
        with stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return Written(size, digest.hexdigest())

    def write(self, name: str, fill: Callable[["HashingFile"], None]) -> Written:
        """Write or replace a file by what `fill` writes into it.

        Raises:
            OSError: cannot be written.
        """
        if isinstance(self._fs, fs.LocalFileSystem):
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = durable.partial(target)
            with temporary.open("wb") as local:
                sink = HashingFile(local)
                fill(sink)
                local.flush()
                os.fsync(local.fileno())
            durable.rename(temporary, target)
            return sink.written
        target_name = self.path(name)
        self._fs.create_dir(target_name.rpartition("/")[0], recursive=True)
        with self._fs.open_output_stream(target_name) as remote:
            sink = HashingFile(remote)
            fill(sink)
        return sink.written

    def write_bytes(self, name: str, content: bytes) -> Written:
        """Write or replace a file."""

        def fill(sink: HashingFile) -> None:
            sink.write(content)

        return self.write(name, fill)

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        if self._fs.get_file_info(self.path(name)).type == fs.FileType.File:
            self._fs.delete_file(self.path(name))


def sha256_at(place: str) -> str:
    """Of a file's bytes, in hexadecimal.

    Args:
        place: its path, or its URI.

    Raises:
        OSError: it cannot be read.
    """
    with open_uri(place) if is_uri(place) else open(place, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class HashingFile:
    """A file to write to that keeps the hash of what went through; pyarrow takes it for a Python file."""

    def __init__(self, sink: Any):
        self._sink = sink
        self._digest = hashlib.sha256()
        self._size = 0
        self.closed = False

    @property
    def written(self) -> Written:
        return Written(self._size, self._digest.hexdigest())

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._sink.write(view)
        self._digest.update(view)
        self._size += len(view)
        return len(view)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        """Leave the sink open: whoever opened it closes it, once its bytes are on the disk."""
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
