"""The page that `run`, `compare` and `sweep` leave beside what they have made."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fcit_ray.cli.common import tell
from fcit_ray.storage.location import redact


def leave_report(
    runs: Iterable[Path | str],
    folder: Path,
    *,
    references: Iterable[Mapping[str, Any]] = (),
    failed: Mapping[str, str] | None = None,
) -> Path | None:
    """Write `report.html` into a folder. What was computed does not depend on it: a failure is told, not raised.

    Args:
        runs: run folders, or their URIs, that the page is about.
        folder: of the run, the comparison or the sweep.
        references: further rows of its table.
        failed: why runs failed, by what they are called.

    Returns:
        The page; None if there is none.
    """
    runs = list(runs)
    try:
        from fcit_ray.report.writing import REPORT, write_report

        return write_report(runs, folder / REPORT, references=references, failed=failed)
    except Exception as error:  # whatever it is, hours of training are not to end in a traceback over a page
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        where = " ".join(map(str, runs))
        tell(f"report.html was not written: {redact(said)}; `fcit-ray report {where} --html FILE` tries again")
        return None
