"""From run folders to a report's file."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fcit_ray.errors import UserError, disk_reason
from fcit_ray.report.page import make_page
from fcit_ray.report.reading import read_runs
from fcit_ray.results.finding import find_runs
from fcit_ray.storage.durable import write_text
from fcit_ray.storage.location import is_uri, refuse_uri

REPORT = "report.html"
"""What the commands call the page that they leave in their folder."""


def write_report(
    runs: str | Path | Iterable[str | Path],
    file: str | Path,
    *,
    references: Iterable[Mapping[str, Any]] = (),
    failed: Mapping[str, str] | None = None,
) -> Path:
    """Write one HTML page about runs, for a browser: figures, curves, answers with their pictures, configuration.

    The page holds all that it shows and fetches nothing. A run that is not finished is shown as far as it is.

    Args:
        runs: a run folder or its URI, a folder of them (of a sweep, of a comparison), or several of either.
        file: to write or replace.
        references: results that no run folder holds, as further rows of the table.
        failed: why runs failed, by what they are called.

    Returns:
        The file.

    Raises:
        UserError: there is no run, a run's files were edited, or the file cannot be written.
    """
    refuse_uri(Path(file))
    given = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    places = [str(place) if is_uri(str(place)) else Path(place) for place in given]
    found = find_runs(places)
    if not (folders := [*found.finished, *found.unfinished]):
        raise UserError(f"no run in {', '.join(map(str, places))}: there is nothing to report on")
    page = make_page(read_runs(folders), references, failed)
    file = Path(file)
    try:
        write_text(file, page)
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {disk_reason(error, file)}") from None
    return file
