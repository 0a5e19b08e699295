"""What a sweep came to: which trials finished, which were stopped, which failed; what a search chose."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fcit_ray.config.reading import load_config
from fcit_ray.config.space import Space
from fcit_ray.config.trials import Point, Study, Trial

_EDGE = 0.05  # of a space, on its own scale, that counts as its edge


@dataclass(frozen=True)
class Stopped:
    """A trial that ended early.

    Attributes:
        stage: after which it did, from 0.
        score: its mean over the tasks seen by then, in percent.
    """

    stage: int
    score: float


@dataclass(frozen=True)
class Ended:
    """How a sweep ended, trial by trial, in the order in which they began.

    Attributes:
        finished: trials with their results.
        stopped: trials that ended early.
        failed: trials that could not be carried out, and why.
    """

    finished: list[tuple[Trial, dict[str, Any]]]
    stopped: list[tuple[Trial, Stopped]]
    failed: list[tuple[Trial, str]]


@dataclass(frozen=True)
class Choice:
    """What a study's search came to.

    Attributes:
        study: that was searched.
        point: the finished trial of highest Last; None if none finished.
        last: of it, in percent.
        num_finished: trials that ran to their end.
        num_stopped: trials that ended early.
        num_failed: trials that could not be carried out.
        edges: keys of `point` that lie at an end of what was searched: a better value may lie beyond.
    """

    study: Study
    point: Point | None
    last: float
    num_finished: int
    num_stopped: int
    num_failed: int
    edges: tuple[str, ...]


def choices(studies: Iterable[Study], ended: Ended) -> list[Choice]:
    """One for each study that was searched."""
    found = []
    for study in studies:
        if not study.space:
            continue
        finished = [(trial, results) for trial, results in ended.finished if trial.study == study.name]
        point, last = None, math.nan
        for trial, results in finished:
            if point is None or results["last"] > last:  # of equal ones the first
                point, last = trial.point, results["last"]
        found.append(
            Choice(
                study=study,
                point=point,
                last=last,
                num_finished=len(finished),
                num_stopped=sum(trial.study == study.name for trial, _ in ended.stopped),
                num_failed=sum(trial.study == study.name for trial, _ in ended.failed),
                edges=tuple(key for key, value in (point or {}).items() if _at_edge(study.space[key], value)),
            )
        )
    return found


def _at_edge(space: Space, value: Any) -> bool:
    """Whether a value lies at an end of what was searched; of choices the first and last number."""
    if space.choice is not None:
        numbers = [choice for choice in space.choice if isinstance(choice, int | float) and choice is not True]
        return len(numbers) > 1 and len(numbers) == len(space.choice) and value in (min(numbers), max(numbers))
    low, high = map(float, space.ends)
    place = min(max(float(value), low), high)  # a default may lie outside
    if space.loguniform is not None:
        low, high, place = math.log(low), math.log(high), math.log(place)
    if high == low:
        return False
    return min(place - low, high - place) / (high - low) <= _EDGE


def tuned_files(found: Sequence[Choice]) -> dict[str, str]:
    """A `tuned` section with what was chosen, as YAML by group: a configuration that goes on top of a benchmark's.

    Left out are studies at a point of a grid of other keys, which no run is called by.
    """
    files: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for choice in found:
        if choice.point is None or load_config(choice.study.files, choice.study.overrides).name != choice.study.label:
            continue
        lines, tuned = files.setdefault(choice.study.group, ([], {}))
        edge = f"; at the edge of what was searched: {', '.join(choice.edges)}" if choice.edges else ""
        lines.append(f"# {choice.study.label}: Last {choice.last:.1f} among {_trials(choice)}{edge}")
        tree: dict[str, Any] = {}
        for key, value in choice.point.items():
            *above, last = key.split(".")
            place = tree
            for part in above:
                place = place.setdefault(part, {})
            place[last] = value
        tuned[choice.study.label] = tree
    return {
        group: "\n".join(["# What a search chose, by the name of the run.", *lines, ""])
        + yaml.safe_dump({"tuned": tuned}, sort_keys=False, allow_unicode=True)
        for group, (lines, tuned) in files.items()
    }


def choices_markdown(found: Iterable[Choice]) -> str:
    """A table of what was chosen, with how many trials it was chosen among."""
    lines = ["| Method | Last | Chosen | Trials |", "|---|---:|---|---|"]
    for choice in found:
        point = ", ".join(
            f"`{key}={value}`{' (edge)' if key in choice.edges else ''}" for key, value in (choice.point or {}).items()
        )
        last = f"{choice.last:.1f}" if choice.point is not None else "–"  # noqa: RUF001 (as in all tables)
        lines.append(f"| {choice.study.label} | {last} | {point or 'none finished'} | {_trials(choice)} |")
    return "\n".join(lines) + "\n"


def _trials(choice: Choice) -> str:
    parts = {"finished": choice.num_finished, "stopped early": choice.num_stopped, "failed": choice.num_failed}
    return ", ".join(f"{count} {what}" for what, count in parts.items() if count or what == "finished")


def by_group(studies: Iterable[Study], ended: Ended) -> dict[str, list[tuple[Trial, Mapping[str, Any]]]]:
    """The finished trials of each group, in the order of the studies."""
    group_of = {study.name: study.group for study in studies}
    groups: dict[str, list[tuple[Trial, Mapping[str, Any]]]] = {group: [] for group in group_of.values()}
    order = {name: number for number, name in enumerate(group_of)}
    for trial, results in sorted(ended.finished, key=lambda item: order[item[0].study]):
        groups[group_of[trial.study]].append((trial, results))
    return groups
