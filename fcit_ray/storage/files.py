"""Files that are not what their names say: seen by their kind and first bytes, before anything reads them.

What stands in the place of a file is nearly always one of a few things: nothing, because a copy broke off; the pointer
that Git LFS leaves where it fetched nothing; the web page that a server sent instead. Reading one of them fails in
words about something else, and reading a named pipe never ends.
"""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

NUM_BYTES = 1024
"""Of a file's start: enough to tell what it is."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LFS = b"version https://git-lfs.github.com/"
_PAGE = (b"<!doctype html", b"<html", b"<head")


def misfit(path: Path | str) -> str:
    """Why a file cannot be what it should, in words that follow its name; empty if nothing speaks against it.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    mode = stat.S_IFMT(os.stat(path).st_mode)
    if mode != stat.S_IFREG:
        return f"is {_KINDS.get(mode, 'no file')}; expected a file"
    with open(path, "rb") as file:
        return misfit_content(file.read(NUM_BYTES))


def misfit_content(start: bytes) -> str:
    """As `misfit`, of a file's first `NUM_BYTES` bytes."""
    if not start:
        return "is empty, as a copy or download that broke off leaves it; fetch it again"
    if start.startswith(_LFS):
        return "is a Git LFS pointer in the place of the file, which was never fetched; run `git lfs pull` there"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE):
        return "is a web page (HTML), as a failed download leaves it; fetch the file again"
    return ""


def read_json(path: Path | str) -> Any:
    """What a JSON file of any encoding of Unicode holds.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it holds no JSON, in words that follow its name.
    """
    if reason := misfit(path):
        raise ValueError(reason)
    return parse_json(Path(path).read_bytes())


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is none, or nested too deeply to be read, in words that follow its name.
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not JSON: byte {error.start} is no UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is not JSON: {place}: {error.msg[:1].lower()}{error.msg[1:]}") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise ValueError(f"is not JSON that can be read: {error}") from None
    except RecursionError:
        raise ValueError("is JSON that is nested too deeply to be read; expected a few levels") from None


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
