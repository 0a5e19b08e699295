"""All figures of runs for other programs: a row a run, in full precision."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fcit_ray.report.reading import Told, differing
from fcit_ray.results.tables import row_from_results

_LEAD = ("label", "seed", "scoring", "captions")


def csv_table(runs: Sequence[Told]) -> str:
    """A header and a line a finished run; what a run has not is empty.

    Columns: `folder`, `label`, `seed`, the rules of scoring, every figure of the tables under the name it has in
    results.json, `score.<task>`, `unseen.<dataset>`, and `config.<key>` for the keys in which the runs differ. Where
    updates failed in one of the runs also `failures.updates` that were planned, those `failures.missing` from the
    figures, and those `failures.retried` that came then.
    """
    finished = [run for run in runs if run.results is not None]
    config = {key: values for key, values in differing(finished).items() if key != "name"}
    rows = [
        {
            "folder": run.folder.shown,
            **_figures(run.results or {}),
            **{f"config.{key}": _plain(values[place]) for key, values in config.items() if values[place] is not ...},
        }
        for place, run in enumerate(finished)
    ]
    if any("failures.missing" in row for row in rows):
        for row in rows:
            row.setdefault("failures.missing", 0)
            row.setdefault("failures.retried", 0)
    header = _header(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """A run's row, whatever figures a row has."""
    row = row_from_results(results)
    values: dict[str, Any] = {name: getattr(row, name) for name in ("label", "scoring", "captions")}
    values["seed"] = row.seeds[0]
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        one_each = isinstance(value, tuple) and field.name not in ("tasks", "seeds", "scores")
        if one_each and value and isinstance(value[0], float) and math.isfinite(value[0]):
            values[field.name] = value[0]
    for task in row.tasks:
        if math.isfinite(score := row.score(task)[0]):
            values[f"score.{task}"] = score
    values |= {f"unseen.{name}": scores[0] for name, scores in row.unseen.items() if math.isfinite(scores[0])}
    values |= {f"failures.{name}": count for name, count in row.failures[0].items()}
    if "epsilon" in results:
        values["epsilon"] = results["epsilon"]
    return values


def _header(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every column of any row: who it is, figures, scores, configuration."""
    names = dict.fromkeys(name for row in rows for name in row)
    lead = ["folder", *_LEAD]
    rank = {"score": 1, "unseen": 2, "config": 3}
    return [*lead, *sorted((n for n in names if n not in lead), key=lambda n: rank.get(n.partition(".")[0], 0))]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)
