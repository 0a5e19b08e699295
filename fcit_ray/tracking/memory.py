"""tracking.json: what each tracker of a run keeps between sessions, so that none is told twice or begun twice."""

import json
import logging
import threading
from pathlib import Path
from typing import Any, Final

from fcit_ray.storage import durable
from fcit_ray.storage.strict_json import dump_json

FILE: Final = "tracking.json"
_lock = threading.Lock()  # the trackers of a run have a thread each, and one file
_log = logging.getLogger(__name__)


class Memory:
    """One tracker's part of tracking.json, written whenever it changes.

    Args:
        folder: the run folder.
        name: of the tracker, as in `tracking.report_to`.
    """

    def __init__(self, folder: Path, name: str):
        self._file, self._name = folder / FILE, name

    @property
    def values(self) -> dict[str, Any]:
        """What the tracker kept of its own, such as the id of its run."""
        return dict(self._mine().get("values", {}))

    @property
    def done(self) -> int:
        """How many points it was told."""
        return int(self._mine().get("done", 0))

    @property
    def finished(self) -> bool:
        """Whether it has the end too."""
        return bool(self._mine().get("finished", False))

    @property
    def missing(self) -> str:
        """What was not handed over in the last session, in words; empty if all was."""
        return str(self._mine().get("missing", ""))

    def keep(self, **values: Any) -> None:
        """Keep values of the tracker's own (JSON); others of its stay.

        Raises:
            OSError: the disk is full, or the like.
        """
        self._write(values={**self.values, **values})

    def tell(self, *, done: int | None = None, finished: bool | None = None, missing: str | None = None) -> None:
        """Keep how far it is; what is None stays.

        Raises:
            OSError: the disk is full, or the like.
        """
        said = {"done": done, "finished": finished, "missing": missing}
        self._write(**{key: value for key, value in said.items() if value is not None})

    def forget(self) -> None:
        """Begin anew: what it kept is of no use any more."""
        self._write(values={}, done=0, finished=False)

    def _mine(self) -> dict[str, Any]:
        mine = _read(self._file).get(self._name, {})
        return mine if isinstance(mine, dict) else {}

    def _write(self, **changes: Any) -> None:
        with _lock:
            content = _read(self._file)
            mine = {**self._mine(), **changes}
            if content.get(self._name) != mine:
                durable.write_text(self._file, dump_json({**content, self._name: mine}))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s: cannot be read (%s): trackers are told everything anew", file, error)
        return {}
    return content if isinstance(content, dict) else {}
