"""The figures of a run, as results.json holds them: made of its records."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fcit_ray.params import params_sha256
from fcit_ray.results import metrics
from fcit_ray.types import Params


def make_results(
    *,
    label: str,
    seed: int,
    tasks: Sequence[str],
    num_stages: int,
    records: Iterable[Mapping[str, Any]],
    num_records: Mapping[str, int],
    params: Params,
    spent: Mapping[str, float] | None = None,
    num_unseen: Mapping[str, int] | None = None,
    scored: Mapping[str, str] | None = None,
    attention: Iterable[str] = (),
) -> dict[str, Any]:
    """What `results.json` holds.

    Args:
        label: row label in tables.
        seed: of the run.
        tasks: names, in the order of the stream.
        num_stages: of the run; 0 for zero-shot.
        records: of metrics.jsonl.
        num_records: test records by task, behind the final scores.
        params: the final global parameters.
        spent: what the run's privacy rule counted, by name.
        num_unseen: test records by dataset that nobody trained on.
        scored: how predictions were scored, as `rules.scored_by` says it; None is strictly, without captions.
        attention: kernels that the workers used.

    Returns:
        `label`, `seed`, `tasks`, `matrix` (S x T, None where not evaluated), `last`, `avg`, `forgetting`, `bwt` (None
        where undefined; a run of at most one stage has no `avg`), `learned` (as `learned_from` says), `num_records`,
        `seconds` (wall clock of all rounds and evaluations, whatever sessions they fell in; without the start of the
        workers), `moved_bytes` (parameters and reports, down and up), `adapters_sha256`, `scoring` and, where there are
        captions, `captions` (which rules were scored by), `diagnostics` (by dataset, the percent and parts of the last
        evaluation that answered it); where an update of a client was tried again or is missing, `failures` (as
        `failures_from` says); with differential privacy also `epsilon` and `dp_delta`; where datasets were kept
        unseen `transfer`: `mean`, `scores` and `num_records` by dataset; where workers told it, `attention`: the kernel
        in use (several, with commas, where their GPUs differ).
    """
    records = list(records)
    kernels = ", ".join(sorted(set(attention)))
    matrix = metrics.accuracy_matrix(records, tasks, num_stages)
    unseen = metrics.transfer_scores(records)
    transfer = {
        "mean": _number(sum(unseen.values()) / max(len(unseen), 1)),
        "scores": unseen,
        "num_records": dict(num_unseen or {}),
    }
    return {
        "label": label,
        "seed": seed,
        "tasks": list(tasks),
        "matrix": [[_number(score) for score in row] for row in matrix.tolist()],
        "last": _number(metrics.last(matrix)),
        "avg": _number(metrics.average(matrix)) if num_stages > 1 else None,
        "forgetting": _number(metrics.forgetting(matrix)),
        "bwt": _number(metrics.backward_transfer(matrix)),
        "learned": learned_from(matrix, tasks),
        "num_records": dict(num_records),
        "seconds": math.fsum(s for record in records for s in record.get("seconds", {}).values()),
        "moved_bytes": sum(record.get("bytes_down", 0) + record.get("bytes_up", 0) for record in records),
        "adapters_sha256": params_sha256(params),
        **({"failures": failed} if (failed := failures_from(records)) else {}),
        **(scored or {"scoring": "strict"}),
        "diagnostics": last_details(records),
        **(spent or {}),
        **({"transfer": transfer} if unseen else {}),
        **({"attention": kernels} if kernels else {}),
    }


def failures_from(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What failed in the rounds: `updates` that were planned, those `missing`, and those `retried` that came then.

    Empty where nothing failed.
    """
    rounds = [record for record in records if record.get("kind") == "round"]
    failed = [failure for record in rounds for failure in record.get("failures", [])]
    if not failed:
        return {}
    missing = sum(failure["dropped"] for failure in failed)
    came = sum(len(record["clients"]) for record in rounds)
    return {"updates": came + missing, "missing": missing, "retried": len(failed) - missing}


def learned_from(matrix: metrics.Matrix, tasks: Sequence[str]) -> dict[str, Any] | None:
    """What each task scored right after the stage that taught it first: `mean`, and `scores` by task, in percent.

    None where it is not known, and for a run of at most one stage: nothing came after, so Last says the same.
    """
    mean = metrics.learned(matrix) if len(matrix) > 1 else math.nan
    if not math.isfinite(mean):
        return None
    return {"mean": mean, "scores": dict(zip(tasks, metrics.learned_scores(matrix).tolist(), strict=True))}


def learned_from_results(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """`learned` of a results.json; of one that an older release wrote, made of its matrix."""
    if "learned" in results:
        return None if results["learned"] is None else dict(results["learned"])
    return learned_from(matrix_from_results(results), results["tasks"])


def last_details(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Percent and parts of every dataset, from the latest stage's evaluation that answered it."""
    details: dict[str, dict[str, float]] = {}
    evaluations = [record for record in records if record.get("kind") == "evaluation"]
    for record in sorted(evaluations, key=lambda record: int(record["stage"])):  # stable: a later record counts
        for name, parts in record.get("datasets", {}).items():
            details[name] = {key: value for key, value in parts.items() if isinstance(value, int | float)}
    return details


def matrix_from_results(results: Mapping[str, Any]) -> metrics.Matrix:
    """The accuracy matrix of a results.json, (S, T), nan for null."""
    return np.array([[math.nan if score is None else score for score in row] for row in results["matrix"]])


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
