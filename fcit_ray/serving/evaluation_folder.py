"""The folder of an evaluation: whole or absent.

evaluation.json    the figures, with what was asked, how it was scored, and the SHA-256 of the adapters
predictions/       <dataset>.jsonl, a line an answer, as a run writes them
logs/ray.log       Ray's own words
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fcit_ray.errors import UserError, disk_reason
from fcit_ray.serving.evaluating import FORMAT
from fcit_ray.storage import durable
from fcit_ray.storage.strict_json import dump_json, finite

_FILE: Final = "evaluation.json"


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything, but for an evaluation that is to be replaced.

    Raises:
        UserError: says what to do.
    """
    if not os.path.lexists(out):
        if not out.absolute().parent.is_dir() and out.absolute().parent.exists():
            raise UserError(f"{out}: {out.parent} is a file, not a folder; give another folder (--out)")
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder (--out)")
    if not any(out.iterdir()):
        return
    if not _is_ours(out):
        raise UserError(f"{out}: holds files, but no evaluation; nothing is deleted, give another folder (--out)")
    if not overwrite:
        raise UserError(f"{out}: holds an evaluation; give --overwrite to replace it, or another folder (--out)")


class EvaluationFolder:
    """An evaluation being written beside its place; a context manager, which tidies up what was not finished.

    Args:
        out: the folder to be.
        overwrite: replace the evaluation in it.

    Raises:
        UserError: it cannot be used.
    """

    def __init__(self, out: Path, overwrite: bool = False):
        check_free(out, overwrite)
        self._out = out.absolute()
        self._partial = durable.partial(self._out)
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            if self._partial.exists():
                shutil.rmtree(self._partial)  # left by a process that was killed
            self._partial.mkdir()
        except OSError as error:
            raise UserError(
                f"{out}: {disk_reason(error, error.filename or out)}; give another folder (--out)"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._partial.exists():
            shutil.rmtree(self._partial)

    @property
    def log_file(self) -> Path:
        """Where Ray's own output goes while it is made."""
        return self._partial / "logs" / "ray.log"

    def finish(self, results: Mapping[str, Any], rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Write everything, and put the folder in its place.

        Args:
            results: what evaluation.json holds.
            rows: lines of predictions by dataset.

        Raises:
            OSError: the disk is full, or the like.
        """
        predictions = self._partial / "predictions"
        if rows:
            predictions.mkdir()
        for name, lines in rows.items():
            text = "".join(json.dumps(finite(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
            durable.write_text(predictions / f"{name}.jsonl", text)
        durable.write_text(self._partial / _FILE, dump_json(finite(results)))
        durable.sync(self._partial)
        old = self._partial.with_name(f"{self._partial.name}-old")
        if old.exists():
            shutil.rmtree(old)
        if self._out.exists():
            os.replace(self._out, old)
        durable.rename(self._partial, self._out)
        if old.exists():
            shutil.rmtree(old)


def _is_ours(out: Path) -> bool:
    try:
        return json.loads((out / _FILE).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
