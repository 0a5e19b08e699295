"""What a run tells of itself while it is under way: where it stands, as values and as plain lines."""

import math
from dataclasses import dataclass
from typing import Literal

Phase = Literal["preparing", "training", "evaluating", "done", "failed"]


@dataclass(frozen=True)
class Line:
    """One line about a run.

    Attributes:
        text: plain.
        lasting: whether it stays in a terminal too, where others are redrawn in place.
    """

    text: str
    lasting: bool = False


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run stands.

    Attributes:
        label: name of the run.
        phase: what it is doing.
        stage: from 0; shown from 1. -1 is the zero-shot evaluation.
        num_stages: 0 if the run has none.
        task: what the stage teaches, or what is being evaluated; may be empty.
        round: from 0; shown from 1, and only while training.
        num_rounds: in a stage.
        done: clients trained in this round, those in hand by their steps; or records answered.
        total: clients of this round, or records to answer; 0 if not known yet.
        steps: of the client in hand, taken and in all, where the round has but one; (0, 0) elsewhere.
        loss: mean training loss of the last finished round.
        seconds_left: estimate until the end of the run.
        answering: the stage whose questions are answered behind the rounds, from 0; None if there are none.
        answered: of these the records answered, and all.
        workers: that are there, and that are wanted; (0, 0) where nobody counts them.
        node: of the driver; empty where it has not told.
        message: anything else, e.g. the reason of a failure.
        lines: what there has been to tell so far, the last of it; every line once it is known, none lost between looks.
        num_lines: how many there have been in all.
    """

    label: str
    phase: Phase
    stage: int = 0
    num_stages: int = 0
    task: str = ""
    round: int = 0
    num_rounds: int = 0
    done: float = 0
    total: int = 0
    steps: tuple[int, int] = (0, 0)
    loss: float | None = None
    seconds_left: float | None = None
    answering: int | None = None
    answered: tuple[int, int] = (0, 0)
    workers: tuple[int, int] = (0, 0)
    node: str = ""
    message: str = ""
    lines: tuple["Line", ...] = ()
    num_lines: int = 0


def describe(status: Status) -> str:
    """The status as one plain line."""
    parts = [printable(status.label), status.phase, *place_of(status)]
    if status.phase == "training" and status.loss is not None and math.isfinite(status.loss):
        parts.append(f"loss {status.loss:.3f}")
    if status.seconds_left is not None and status.phase not in ("done", "failed"):
        parts.append(f"{duration(status.seconds_left)} left")
    if status.message:
        parts.append(printable(status.message))
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Two units at most: `45 s`, `12 min`, `3 h 05 min`, `2 d 04 h`."""
    if not math.isfinite(seconds):
        return "unknown time"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def place_of(status: Status) -> list[str]:
    """Where in the run it is, part by part: stage, task, round."""
    parts = []
    if status.phase in ("training", "evaluating", "failed") and (status.num_stages or status.stage < 0):
        parts.append("zero-shot" if status.stage < 0 else f"stage {status.stage + 1}/{status.num_stages}")
    if status.task and status.phase != "done":
        parts.append(printable(status.task))
    if status.phase in ("training", "failed") and status.num_rounds:
        parts.append(f"round {status.round + 1}/{status.num_rounds}")
    return parts


def figures_of(status: Status) -> list[str]:
    """How far it is, part by part: steps or clients or records, loss, time left."""
    parts = []
    if status.phase == "training" and status.steps[1]:
        parts.append(f"{status.steps[0]}/{status.steps[1]} steps")
    elif status.total:
        unit = {"training": " clients", "evaluating": " records"}.get(status.phase, "")
        parts.append(f"{int(status.done)}/{status.total}{unit}")
    if status.phase == "training" and status.loss is not None and math.isfinite(status.loss):
        parts.append(f"loss {status.loss:.3f}")
    if status.answering is not None and status.phase != "evaluating":
        parts.append(f"answering stage {status.answering + 1}: {status.answered[0]}/{status.answered[1]}")
    if status.phase in ("training", "evaluating") and status.workers[0] < status.workers[1]:
        parts.append(f"{status.workers[0]} of {status.workers[1]} workers")
    if status.seconds_left is not None and status.phase not in ("done", "failed"):
        parts.append(f"{duration(status.seconds_left)} left")
    return parts


def printable(text: str) -> str:
    """Control characters (colours, returns, bells) replaced: names and messages come from elsewhere."""
    return "".join(character if character.isprintable() else " " for character in text)
