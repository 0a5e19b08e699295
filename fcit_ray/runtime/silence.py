"""Waits for other processes of a run that end: with what was waited for, or with a sentence about who is silent."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from fcit_ray.errors import RunFailed
from fcit_ray.runtime.status import Status, duration, place_of

ANSWER_S = 120.0
"""For an answer that takes a moment, where the process is well."""
SAY_S = 60.0
"""After which, and every so often again, the display says that the driver is silent."""
GIVE_UP_S = 600.0
"""After which a silent driver is given up."""


def answer(reference: Any, whose: str, wait_s: float = ANSWER_S) -> Any:
    """What a call returns.

    Args:
        reference: of the call.
        whose: who is asked, as the sentence begins.
        wait_s: for the answer.

    Raises:
        RunFailed: there is none in time.
    """
    try:
        return ray.get(reference, timeout=wait_s)
    except ray.exceptions.GetTimeoutError:
        raise RunFailed(
            f"{whose} has not answered for {duration(wait_s)} (stopped, or its machine overloaded); what is finished "
            "is kept"
        ) from None


class DriverSilence:
    """How long a run's driver has not answered.

    Args:
        label: name of the run.
        clock: seconds, monotonic.
    """

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._heard = clock()
        self._last = Status(label=label, phase="preparing")

    def heard(self, status: Status) -> None:
        """It has answered."""
        self._heard, self._last = self._clock(), status

    @property
    def driver(self) -> str:
        """Who it is, and where, if it has told."""
        return f"the driver on node {self._last.node}" if self._last.node else "the driver"

    def status(self) -> Status | None:
        """What to show of a driver that did not answer in time; None as long as that may be chance.

        Raises:
            RunFailed: it has been silent for too long.
        """
        silent = self._clock() - self._heard
        at = f" ({', '.join(place_of(self._last))})" if place_of(self._last) else ""
        if silent >= GIVE_UP_S:
            raise RunFailed(
                f"{self.driver} has not answered for {duration(silent)}{at}: stopped, or its machine "
                "overloaded; --resume goes on from the last checkpoint"
            )
        if silent < SAY_S:
            return None
        whole = silent - silent % SAY_S
        return replace(self._last, message=f"{self.driver} has not answered for {duration(whole)}")
