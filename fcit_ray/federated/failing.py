"""What becomes of a piece of work whose attempts fail: it is tried again, left out, or it ends the run.

The one place where that is decided, for a client of a round, for questions and for identity features; the keys are
`fcit_ray.config.failures.Failures`. Pure functions: whoever runs the work counts the attempts and asks.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fcit_ray.config.failures import Failures

Verdict = Literal["retry", "drop", "stop"]

_NAMED = 3  # of many clients that are missing
DIED = "its worker died (killed, or out of memory?)"


@dataclass(frozen=True)
class Attempt:
    """A failed attempt at a piece of work.

    Attributes:
        worker: rank of who had it in hand.
        node: where that worker is; empty if it has not said.
        reason: why it failed, in words that need no place.
        died: the worker's process ended with it.
    """

    worker: int
    node: str
    reason: str
    died: bool = False

    @property
    def where(self) -> str:
        """The worker, in words."""
        return f"worker {self.worker} on {self.node}" if self.node else f"worker {self.worker}"


def verdict(failures: Failures, attempts: Sequence[Attempt]) -> Verdict:
    """What happens after these attempts, all of which have failed.

    A worker's death is laid to its client's charge only where clients may be left out: a machine that is taken away is
    no fault of the client, and where the run would stop, `runtime.max_worker_failures` counts deaths anyway.
    """
    if failures.then == "drop":
        return "retry" if len(attempts) <= failures.retries else "drop"
    return "retry" if sum(not attempt.died for attempt in attempts) <= failures.retries else "stop"


def overdue(
    failures: Failures,
    *,
    spent_s: float,
    unheard_s: float,
    lease_s: float,
    size: float,
    rates: Sequence[float],
    planned: int,
) -> str | None:
    """Why an attempt that is under way is given up; None if it is not.

    Args:
        failures: of its round.
        spent_s: seconds since it began.
        unheard_s: seconds since something was heard of it.
        lease_s: after which silence counts as a failure.
        size: records of the client.
        rates: seconds a record of those of the round that are done.
        planned: clients of the round.
    """
    if unheard_s >= lease_s:
        return f"nothing was heard of it for {lease_s:g} s (runtime.lease_s)"
    if failures.deadline_s is not None and spent_s >= failures.deadline_s:
        return f"it was not done after {failures.deadline_s:g} s (failures.deadline_s)"
    if failures.deadline_factor is not None and rates and 2 * len(rates) >= planned:
        limit = failures.deadline_factor * statistics.median(rates) * size
        if spent_s >= limit:
            return (
                f"it was not done after {limit:.3g} s, {failures.deadline_factor:g} times as long as the round's "
                "median client takes for as many records (failures.deadline_factor)"
            )
    return None


def quorum(failures: Failures, planned: int) -> int:
    """Updates that a round of so many clients needs at least."""
    return max(1, math.ceil(failures.quorum * planned - 1e-9))


def tried(attempts: Sequence[Attempt]) -> str:
    """How often, and by whom; attempts of which none is named as the first."""
    if len(attempts) == 1:
        return f"tried once, by {attempts[0].where}"
    return f"tried {len(attempts)} times: by {', '.join(attempt.where for attempt in attempts)}"


def shortfall(
    failures: Failures, planned: int, missing: Mapping[int, Sequence[Attempt]], fewest: int = 1, needs: str = ""
) -> str | None:
    """Why a round cannot go on without these clients; None if it can.

    Args:
        failures: of the round.
        planned: clients of the round.
        missing: those that were left out, with their attempts.
        fewest: updates that the rule over clients needs.
        needs: its hyper-parameters that say so.
    """
    came, least = planned - len(missing), quorum(failures, planned)
    if not missing or came >= max(least, fewest):
        return None
    why = f"failures.quorum={failures.quorum:g} wants {least}"
    if came >= least:
        why = f"the rule over clients needs {fewest}{f' with robust.{needs}' if needs else ''}"
    told = [f"client {index} ({of[-1].reason}; {tried(of)})" for index, of in missing.items()]
    more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return (
        f"{len(missing)} of {planned} updates are missing, and {why}: {', '.join(told[:_NAMED])}{more}; "
        "--resume trains the round again from the last checkpoint"
    )
