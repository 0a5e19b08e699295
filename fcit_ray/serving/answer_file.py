"""A file of answers, made block by block: killed anywhere it goes on, to the same bytes, no line twice and none lost.

    OUT              the lines in the order of the input; there only when all of them are
    OUT.about.json   what gave them: the model, the input, how many failed, the SHA-256 of OUT
    OUT.parts/       while they are being made: about.json, and part-000007.jsonl with the lines of block 7

A part is written whole or not at all. When all are there they are joined beside OUT, and renamed to it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fcit_ray.data.loading.by_length import WINDOW, window_of
from fcit_ray.errors import UserError, disk_reason
from fcit_ray.results import lock
from fcit_ray.storage import durable
from fcit_ray.storage.strict_json import dump_json

FORMAT: Final = "fcit_ray answers"
MOST_PARTS: Final = 10_000
_LEAST: Final = 64
"""Questions of a block: so few are lost when a process is killed, and so many share the cost of a task."""
_LOCK: Final = ".lock"
_ABOUT: Final = "about.json"
_SAME: Final = {
    "model_sha256": "the model, its base, or how it is asked (--batch-size, --max-new-tokens, --gpu, --client)",
    "input_sha256": "the input",
    "ask": "--ask",
    "images": "--images",
    "count": "the number of questions",
}
"""What a resumed prediction must have in common with the one that was begun, and what each is called."""


def block_size(count: int, batch_size: int) -> int:
    """Questions of a block: a multiple of a window's (`by_length`), such that there are at most `MOST_PARTS` blocks."""
    window = window_of(batch_size)
    return window * max(-(-_LEAST // window), -(-count // (MOST_PARTS * window)))


@dataclass(frozen=True)
class Summary:
    """What a finished file holds.

    Attributes:
        count: lines.
        failed: those that hold an `error`.
    """

    count: int
    failed: int


class AnswerFile:
    """The file of answers under way. `close` lets other processes work on it.

    Args:
        out: the file to be.
        about: the values of `_SAME`, and whatever else is to be said of the answers.
        size: questions of a block.
        resume: go on with what is there.
        overwrite: delete what is there, if fcit_ray wrote it.

    Raises:
        UserError: `out` exists and neither flag is given, or is not ours, or what was begun is of another model or
            input; another process works on it; it cannot be written.
    """

    def __init__(
        self, out: Path, about: Mapping[str, Any], size: int, *, resume: bool = False, overwrite: bool = False
    ) -> None:
        if resume and overwrite:
            raise UserError("--resume keeps what is there, --overwrite deletes it: give one of them")
        self.out = out
        self.parts = out.with_name(f"{out.name}.parts")
        self.about_file = out.with_name(f"{out.name}.about.json")
        self._about = {"format": FORMAT, **about, "block": size, "window": WINDOW}
        self._sizes = [min(size, about["count"] - start) for start in range(0, about["count"], size)]
        self._summary: Summary | None = None
        try:
            self._begin(resume, overwrite)
        except OSError as error:
            self.close()
            where = error.filename or out
            raise UserError(f"{where}: cannot be written: {disk_reason(error, where)}; give another OUT") from error
        except BaseException:
            self.close()
            raise

    def missing(self) -> list[int]:
        """Numbers of the blocks that are still to be answered."""
        if self._summary:
            return []
        return [number for number in range(len(self._sizes)) if not self._is_whole(number)]

    def write(self, number: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Keep the lines of a block; on return they are on the disk.

        Raises:
            OSError: the disk is full, or the like.
        """
        assert len(lines) == self._sizes[number], f"block {number}: {len(lines)} lines of {self._sizes[number]}"
        with self._writing():
            durable.write_text(
                self._part(number), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            )

    def finish(self) -> Summary:
        """Join the parts to the file, unless it was there already.

        Raises:
            OSError: the disk is full, or the like; the parts are kept.
        """
        if self._summary:
            return self._summary
        assert not self.missing(), "blocks are missing"
        with self._writing():
            failed = self._join()
        self._drop_parts()
        return Summary(self._about["count"], failed)

    def _join(self) -> int:
        """Make the file of its parts; how many lines failed."""
        digest, failed = hashlib.sha256(), 0
        temporary = durable.partial(self.out)
        with temporary.open("wb") as joined:
            for number in range(len(self._sizes)):
                content = self._part(number).read_bytes()
                digest.update(content)
                failed += sum("error" in json.loads(line) for line in content.splitlines())
                joined.write(content)
            joined.flush()
            os.fsync(joined.fileno())
        about = {**self._about, "failed": failed, "sha256": digest.hexdigest()}
        durable.write_text(self.about_file, dump_json(about))
        durable.rename(temporary, self.out)
        return failed

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A disk that is full says nothing of the file."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or str(self.out)) from error

    def close(self) -> None:
        """Let other processes work on the file."""
        lock.release(self.parts / _LOCK)

    def _begin(self, resume: bool, overwrite: bool) -> None:
        if self.out.is_dir():
            raise UserError(f"{self.out}: is a folder; OUT is a file of answers, a JSON line each")
        if not self.out.parent.is_dir():
            raise UserError(f"{self.out}: there is no folder {self.out.parent}; make it, or give another OUT")
        there, begun = self.out.exists() or self.out.is_symlink(), any(self.parts.glob("part-*"))
        if (there or begun) and not (resume or overwrite):
            if there:
                raise UserError(f"{self.out}: exists; give another OUT, or --overwrite to answer anew")
            raise UserError(
                f"{self.parts}: holds the answers of a prediction that did not come to its end; give --resume to go on "
                "with it, --overwrite to begin anew, or another OUT"
            )
        if self.parts.exists() and not self._is_ours():
            raise UserError(f"{self.parts}: holds files that fcit_ray did not write; give another OUT")
        if there and not self.about_file.is_file():
            raise UserError(
                f"{self.out}: is no file of answers that fcit_ray wrote; nothing is deleted, give another OUT"
            )
        if there and resume:
            self._check_same(self._read(self.about_file))
            self._summary = self._finished()
        self.parts.mkdir(exist_ok=True)
        try:
            lock.acquire(self.parts / _LOCK)
        except lock.Locked as holder:
            raise UserError(
                f"{self.out}: another process answers into it ({holder}); wait for it, or give another OUT"
            ) from None
        if self._summary:
            self._drop_parts()
            return
        if overwrite:
            for old in (*self.parts.glob("part-*"), self.about_file, self.out):
                old.unlink(missing_ok=True)
        elif begun:
            self._check_same(self._read(self.parts / _ABOUT))
        durable.write_text(self.parts / _ABOUT, dump_json(self._about))

    def _finished(self) -> Summary:
        """What the whole file holds that is there already."""
        about = self._read(self.about_file)
        with self.out.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about.get("sha256"):
                raise UserError(
                    f"{self.out}: edited since it was written (its SHA-256 is another); --overwrite answers anew"
                )
        return Summary(about["count"], about["failed"])

    def _check_same(self, before: Mapping[str, Any]) -> None:
        for key, what in _SAME.items():
            if before.get(key) != self._about[key]:
                raise UserError(
                    f"{self.out}: {what} has changed since it was begun ({key} {str(before.get(key))[:12]}, now "
                    f"{str(self._about[key])[:12]}), so the lines would not belong together: put it back, or give "
                    "--overwrite or another OUT"
                )
        if any(before.get(key) != self._about[key] for key in ("block", "window")):
            raise UserError(f"{self.out}: was begun by a release of fcit_ray that cuts other blocks; give --overwrite")

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise UserError(f"{path}: damaged, not what fcit_ray wrote; --overwrite answers anew, or give another OUT")
        return about

    def _is_ours(self) -> bool:
        if not self.parts.is_dir():
            return False
        names = {child.name for child in self.parts.iterdir() if not child.name.endswith(durable.PARTIAL)}
        return _ABOUT in names or names <= {_LOCK}

    def _is_whole(self, number: int) -> bool:
        """Whether a block's part is there; one that lost lines, which no kill does, is answered anew."""
        try:
            return self._part(number).read_bytes().count(b"\n") == self._sizes[number]
        except FileNotFoundError:
            return False

    def _part(self, number: int) -> Path:
        return self.parts / f"part-{number:06d}.jsonl"

    def _drop_parts(self) -> None:
        self.close()
        doomed = durable.partial(self.parts)
        if doomed.exists():
            shutil.rmtree(doomed)
        durable.rename(self.parts, doomed)  # a folder half deleted must not pass for one that lacks answers
        shutil.rmtree(doomed)
