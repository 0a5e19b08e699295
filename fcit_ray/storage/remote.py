"""What lies behind a URI, by the file systems that pyarrow knows: asked within a bounded time, never for ever.

pyarrow waits as each store's own client does: half a minute for a bucket whose host is not there, a quarter of an hour
for Google's. A run that cannot have its data should say so while whoever started it still looks on.
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from fcit_ray.errors import DataError
from fcit_ray.storage.location import check_uri, redact

ANSWER_S = 30
"""Seconds until a place must have said what is there."""
_CONNECT_S, _REQUEST_S, _ATTEMPTS = 5, 30, 3

_REMEDY = (
    "is the address right, is it reached from here, and are its credentials in the environment "
    "(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS ...)?"
)

_Answer = TypeVar("_Answer")


def file_system(uri: str) -> tuple[Any, str]:
    """The file system that a URI names and the path in it.

    Raises:
        DataError: no such kind of place, or none that answers.
    """
    check_uri(uri)
    parts = urlsplit(uri)
    if parts.scheme in ("s3", "gs", "gcs"):  # thousands of pictures of a bucket share its client
        system, _ = _file_system(f"{parts.scheme}://{parts.netloc}{f'?{parts.query}' if parts.query else ''}")
        return system, f"{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}".rstrip("/")
    return _file_system(uri)


@lru_cache(maxsize=64)
def _file_system(uri: str) -> tuple[Any, str]:
    try:
        if (protocol := _of_fsspec(uri)) is not None:
            return in_time(uri, lambda: (fs.PyFileSystem(fs.FSSpecHandler(protocol())), _bare(uri)))
        found, path = in_time(uri, lambda: fs.FileSystem.from_uri(uri))
        return _impatient(found), path
    except DataError:
        raise
    except Exception as error:  # of whatever client the place has: pyarrow takes others' file systems too
        if uri.partition("://")[0] in ("http", "https"):
            expected = "a web address is not read; download it, or name a bucket"
        else:
            expected = "expected a folder or a URI of s3://, gs://, hdfs:// or file:// that can be reached from here"
        raise DataError(f"{redact(uri)}: {_first_line(error)}; {expected}") from error


_OWN = ("s3", "gs", "gcs", "hdfs", "viewfs", "file", "http", "https")  # pyarrow's, and what no folder lies behind


def _of_fsspec(uri: str) -> Callable[[], Any] | None:
    """What makes the file system of a protocol that fsspec has been given (Azure's `abfs`, say) and pyarrow has not."""
    scheme = uri.partition("://")[0]
    if scheme in _OWN:
        return None
    try:
        from fsspec import available_protocols, filesystem
    except ImportError:
        return None
    return (lambda: filesystem(scheme)) if scheme in available_protocols() else None


def _bare(uri: str) -> str:
    """What a file system of fsspec calls a place."""
    return unquote(uri.partition("://")[2].partition("?")[0]).rstrip("/")


def in_time(uri: str, ask: Callable[[], _Answer], answer_s: float = ANSWER_S) -> _Answer:
    """What a place answers.

    Raises:
        DataError: nothing came for `answer_s` seconds.
        Exception: what `ask` raises.
    """
    answers: list[_Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)  # a client that never returns must not keep the process
    thread.start()
    thread.join(answer_s)
    if errors:
        raise errors[0]
    if not answers:
        raise DataError(f"{redact(uri)}: no answer within {answer_s:.0f} s; {_REMEDY}")
    return answers[0]


def kind_of(uri: str) -> str:
    """What a URI names: `file`, `folder`, or nothing (empty).

    Raises:
        DataError: it does not answer.
    """
    system, path = file_system(uri)
    try:
        kind = in_time(uri, lambda: system.get_file_info(path)).type
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{redact(uri)}: does not answer: {_first_line(error)}; {_REMEDY}") from error
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(kind, "")


def listing(uri: str) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder.

    Raises:
        DataError: it does not answer, or is no folder.
    """
    system, path = file_system(uri)
    try:
        found = in_time(uri, lambda: system.get_file_info(fs.FileSelector(path)))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{redact(uri)}: cannot be listed: {_first_line(error)}; {_REMEDY}") from error
    names = [(PurePosixPath(info.path).name, info.type) for info in found]
    return (
        [name for name, kind in names if kind == fs.FileType.File],
        [name for name, kind in names if kind == fs.FileType.Directory],
    )


def open_uri(uri: str) -> pa.NativeFile:
    """A file behind a URI, open for reading at any position.

    Raises:
        OSError: it cannot be read.
        DataError: no such kind of place, or none that answers.
    """
    system, path = file_system(uri)
    return system.open_input_file(path)


def _first_line(error: Exception) -> str:
    return redact(str(error).strip().partition("\n")[0] or type(error).__name__)


def _impatient(system: Any) -> Any:
    """The same file system, which gives up in good time."""
    if isinstance(system, fs.S3FileSystem):
        retry = fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        limits: dict[str, Any] = {"connect_timeout": _CONNECT_S, "request_timeout": _REQUEST_S, "retry_strategy": retry}
    elif system.type_name == "gcs":
        limits = {"retry_time_limit": timedelta(seconds=_REQUEST_S)}
    else:
        return system
    _, (options,) = system.__reduce__()  # all that it was made with: pyarrow gives no other way to read it
    if "allow_delayed_open" in options:  # of newer releases: a small object is one request instead of three
        limits["allow_delayed_open"] = True
    given = {key: value for key, value in options.items() if value not in ("", None)}
    if (proxy := given.get("proxy_options")) and not proxy.get("host"):
        given.pop("proxy_options")
    return type(system)(**{**given, **limits})
