"""A run's records as numbers that a monitoring system collects: which there are, and what each record adds to them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fcit_ray.config.schema import Config

RUN_TAGS = ("run", "method", "stage")
"""Of every metric: `<name>-seed<seed>`, the method's name, and the stage from 0 (-1: zero-shot)."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Ray exports it with `ray_` in front, a counter with `_total` behind.
        kind: a counter adds up over the rounds of a stage; a gauge is the last value.
        about: what it is, with its unit.
        tag: that it has beside those of every metric; empty if none.
    """

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    tag: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        return (*RUN_TAGS, self.tag) if self.tag else RUN_TAGS

    @property
    def exported(self) -> str:
        """Its name as Prometheus sees it."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("fcit_ray_rounds", "counter", "rounds closed"),
        Metric("fcit_ray_clients_trained", "counter", "clients whose update was combined"),
        Metric("fcit_ray_records_trained", "counter", "records of those clients, each once a round"),
        Metric("fcit_ray_retries", "counter", "times that a client was tried again"),
        Metric("fcit_ray_drops", "counter", "clients that a round was closed without"),
        Metric("fcit_ray_bytes", "counter", "bytes to and from the clients", "direction"),
        Metric("fcit_ray_worker_seconds", "counter", "where the workers' time went, seconds", "cause"),
        Metric("fcit_ray_workers", "gauge", "workers `there` as a round closes, and those `wanted`", "state"),
        Metric("fcit_ray_phase_seconds", "counter", "wall clock of rounds and evaluations, seconds", "phase"),
        Metric("fcit_ray_questions_answered", "counter", "test records answered"),
        Metric("fcit_ray_answer_tokens", "counter", "tokens generated in answers"),
        Metric("fcit_ray_loss", "gauge", "training loss of the last round, mean over its clients"),
        Metric("fcit_ray_delta_norm", "gauge", "norm of the last round's change of the global parameters"),
        Metric("fcit_ray_epsilon", "gauge", "privacy spent so far (only where it is counted)"),
        Metric("fcit_ray_score", "gauge", "score of a task after the stage, percent", "task"),
        Metric("fcit_ray_score_mean", "gauge", "mean score over the tasks seen after the stage, percent"),
        Metric("fcit_ray_transfer_score", "gauge", "score on a data set nobody trained on, percent", "dataset"),
    )
}
"""All of them, by name; docs/how-to/watch.md has the same table."""


@dataclass(frozen=True)
class Reading:
    """What a record says of one metric.

    Attributes:
        name: of the metric.
        value: what a counter grows by, above 0, or a gauge becomes; finite.
        tags: all but those of the run.
    """

    name: str
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)


def readings(record: Mapping[str, Any]) -> list[Reading]:
    """What one record of metrics.jsonl adds; nothing for a kind of record that is not known.

    A number that is not finite says nothing, nor does a counter that does not grow.
    """
    make = {"round": _of_round, "evaluation": _of_evaluation}.get(str(record.get("kind")))
    if make is None:
        return []
    stage = {"stage": str(record["stage"])}
    found = [Reading(name, value, {**stage, **tags}) for name, value, tags in make(record) if _is_finite(value)]
    return [reading for reading in found if METRICS[reading.name].kind == "gauge" or reading.value > 0]


def run_tags(config: Config) -> dict[str, str]:
    """The tags that all metrics of a run have."""
    return {"run": f"{config.name}-seed{config.seed}", "method": str(config.method["name"])}


_Found = Iterator[tuple[str, Any, dict[str, str]]]


def _of_round(record: Mapping[str, Any]) -> _Found:
    clients = record.get("clients", [])
    failures = record.get("failures", [])
    dropped = sum(bool(failure.get("dropped")) for failure in failures)
    yield "fcit_ray_rounds", 1, {}
    yield "fcit_ray_clients_trained", len(clients), {}
    yield "fcit_ray_records_trained", sum(client.get("num_examples", 0) for client in clients), {}
    # The last failed attempt of a client that was dropped was not tried again.
    yield "fcit_ray_retries", sum(len(failure.get("attempts", [])) for failure in failures) - dropped, {}
    yield "fcit_ray_drops", dropped, {}
    for direction in ("down", "up"):
        yield "fcit_ray_bytes", record.get(f"bytes_{direction}"), {"direction": direction}
    yield from _worker_seconds(record.get("workers", []))
    for state in ("there", "wanted"):
        yield "fcit_ray_workers", record.get(f"workers_{state}"), {"state": state}
    yield from _phases(record, "train")
    yield "fcit_ray_loss", record.get("loss"), {}
    yield "fcit_ray_delta_norm", record.get("global_delta_norm"), {}
    yield "fcit_ray_epsilon", record.get("epsilon"), {}


def _of_evaluation(record: Mapping[str, Any]) -> _Found:
    yield "fcit_ray_questions_answered", record.get("num_records"), {}
    yield "fcit_ray_answer_tokens", record.get("answer_tokens"), {}
    yield from _phases(record, "evaluate")
    scores = record.get("scores", {})
    for task, score in scores.items():
        yield "fcit_ray_score", score, {"task": task}
    known = [score for score in scores.values() if _is_finite(score)]
    if known:
        yield "fcit_ray_score_mean", math.fsum(known) / len(known), {}
    for dataset, score in record.get("transfer", {}).items():
        yield "fcit_ray_transfer_score", score, {"dataset": dataset}


def _worker_seconds(workers: Iterable[Mapping[str, Any]]) -> _Found:
    sums: dict[str, float] = {}
    for worker in workers:
        for key, seconds in worker.items():
            if key != "worker" and _is_finite(seconds):
                sums[key] = sums.get(key, 0.0) + seconds
    for key, seconds in sums.items():
        yield "fcit_ray_worker_seconds", seconds, {"cause": key.removesuffix("_s")}


def _phases(record: Mapping[str, Any], kind: str) -> _Found:
    for phase, seconds in record.get("seconds", {}).items():
        yield "fcit_ray_phase_seconds", seconds, {"phase": phase if phase != "prepare" else f"prepare to {kind}"}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
