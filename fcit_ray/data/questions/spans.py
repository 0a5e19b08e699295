"""Where in a JSON or JSONL file each record lies, found in one pass that holds a few megabytes of it."""

import codecs
import hashlib
import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fcit_ray.errors import DataError
from fcit_ray.storage.files import misfit

_CHUNK = 2**20
_LARGEST = 2**26
"""Bytes of one record: what is longer is no record, and would be scanned again and again."""
_OF_NUMBERS = 32
"""Characters behind a value in which one shows that no number goes on; more of them than these are no number's."""
_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Spans:
    """Of a file's records.

    Attributes:
        starts: where each record begins, in bytes.
        ends: where each ends.
        sha256: of the whole file.
    """

    starts: "array[int]"
    ends: "array[int]"
    sha256: str


def find_spans(path: Path, *, lines: bool) -> Spans:
    """Find the records of a file.

    Args:
        path: UTF-8, with or without its mark.
        lines: JSONL, a record a line, blank lines apart; else a JSON list of records.

    Raises:
        DataError: no such file, not UTF-8, or no list of JSON values. What a JSONL line holds is not looked at.
    """
    try:
        if reason := misfit(path):
            raise DataError(f"{path}: {reason}")
        starts, ends = array("Q"), array("Q")  # eight bytes each, where a list takes five times as much
        for start, end in _lines(path) if lines else _elements(path):
            starts.append(start)
            ends.append(end)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Spans(starts, ends, digest)


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    position = 0
    with path.open("rb") as file:
        while line := file.readline(_LARGEST):
            if len(line) == _LARGEST:
                raise DataError(f"{path}: a line of more than {_LARGEST:,} bytes; expected a record a line")
            start = len(_BOM) if not position and line.startswith(_BOM) else 0
            if line[start:].strip():
                yield position + start, position + len(line)
            position += len(line)


class _Text:
    """A file's text, a window of it in memory, with the place of the window in bytes."""

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("rb")
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.window, self.at = "", 0  # what is in memory, and where the next character is in it
        self.byte = 0  # of that character
        if self._file.read(len(_BOM)) == _BOM:
            self.byte = len(_BOM)
        else:
            self._file.seek(0)

    def more(self) -> bool:
        """Read on; false at the end."""
        chunk = self._file.read(_CHUNK)
        try:
            text = self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError:
            raise DataError(f"{self._path}: is not JSON in UTF-8; expected UTF-8") from None
        self.window, self.at = self.window[self.at :] + text, 0
        return bool(chunk)

    def go_to(self, place: int) -> None:
        """Pass what lies before a place of the window."""
        passed = self.window[self.at : place]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self.at = place

    def next(self) -> str:
        """The next character that is no space, not passed; empty at the end."""
        while True:
            match = _SPACE.match(self.window, self.at)
            assert match is not None, "the pattern matches nothing, too"
            self.go_to(match.end())
            if self.at < len(self.window):
                return self.window[self.at]
            if not self.more():
                return ""

    def fault(self, what: str) -> DataError:
        return DataError(f"{self._path}: is not a JSON list of records: byte {self.byte}: {what}")

    def close(self) -> None:
        self._file.close()


def _elements(path: Path) -> Iterator[tuple[int, int]]:
    text = _Text(path)
    try:
        if (first := text.next()) != "[":
            raise text.fault(f"begins with {first!r}; expected a list, or a record a line in a file named .jsonl")
        text.go_to(text.at + 1)
        if text.next() == "]":
            return
        while True:
            if not text.next():
                raise text.fault("the file ends within the list, as a copy that broke off does")
            start = text.byte
            text.go_to(_end_of_value(text))
            yield start, text.byte
            mark = text.next()
            if mark not in (",", "]"):
                raise text.fault(f"{mark!r} behind a record; expected a comma or the end of the list")
            text.go_to(text.at + 1)
            if mark == "]":
                break
        if text.next():
            raise text.fault("something behind the end of the list; expected nothing")
    finally:
        text.close()


def _end_of_value(text: _Text) -> int:
    """Where in the window the value ends that begins at its next character; as much is read as it takes."""
    read, ended = _CHUNK, False
    while True:
        try:
            _, end = _DECODER.raw_decode(text.window, text.at)
            if text.window[end : end + _OF_NUMBERS].strip("0123456789.eE+-"):  # else a number may go on
                return end
            fault = "the file ends within the list"
        except json.JSONDecodeError as error:
            fault = error.msg
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested too deeply
            raise text.fault(str(error)) from None
        if ended:
            raise text.fault(fault[:1].lower() + fault[1:])
        begun = len(text.window) - text.at
        if begun > _LARGEST:
            raise text.fault(f"a record of more than {_LARGEST:,} characters")
        read = 2 * max(read, begun)  # or a long record would be scanned once for every piece
        while len(text.window) - text.at < read and not ended:
            ended = not text.more()
