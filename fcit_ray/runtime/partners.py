"""The other workers of a run as one of them sees them: who helps with its client, and whose client it helps with."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from fcit_ray.federated.micro_batch import Part
from fcit_ray.federated.sharing import Step, Turn
from fcit_ray.runtime.messages import Store, TrainWork, ValueLost
from fcit_ray.runtime.shared_steps import PartNote, TurnNote

_WAIT_S = 5.0


class Line(Protocol):
    """A worker's way to its driver's `share`."""

    def ask(self, what: str, *args: Any) -> Any:
        """The answer."""
        ...

    def later(self, what: str, *args: Any) -> Callable[[], Any]:
        """Called until it is no longer None: the answer, when it has come."""
        ...


class Partners:
    """A `Team` by way of the driver, for one lease.

    Args:
        line: to the driver.
        token: of the lease.
        worker: the rank of this worker.
        store: for values and gradients.
        ask_s: seconds between two questions whether somebody wants to help.

    Attributes:
        exchange_s: see `Team`.
    """

    def __init__(self, line: Line, token: int, worker: int, store: Store, ask_s: float = 0.2):
        self._line = line
        self._token = token
        self._worker = worker
        self._store = store
        self._ask_s = ask_s
        self._post: int | None = None
        self._missing: list[int] = []
        self._wanted = False
        self._asked = float("-inf")
        self._answer: Callable[[], Any] | None = None
        self.exchange_s = 0.0

    def wanted(self) -> bool:
        """Asks the driver a few times a second and goes on meanwhile: who is alone waits for nothing."""
        if self._answer is None and time.monotonic() - self._asked >= self._ask_s:
            self._asked = time.monotonic()
            self._answer = self._line.later("wants", self._token, self._worker)
        if self._answer is not None and (answer := self._answer()) is not None:
            self._wanted, self._answer = answer, None
        return self._wanted

    def post(self, step: Step) -> None:
        began = time.perf_counter()
        state = self._store.put((step.values, step.local))
        bare = replace(step, values={}, local={})
        self._post = self._line.ask("post", self._token, self._worker, bare, state)
        self._missing = []
        self.exchange_s += time.perf_counter() - began

    def turn(self, done: int | None) -> Turn:
        began = time.perf_counter()
        try:
            return self._turn(done)
        finally:
            self.exchange_s += time.perf_counter() - began

    def work_of(self, token: int) -> TrainWork | None:
        """The work of another's client; None if that is done."""
        work: TrainWork | None = self._line.ask("work_of", token)
        return work

    def _turn(self, done: int | None) -> Turn:
        while True:
            if self._missing:
                return Turn(self._missing.pop(), {})
            note = TurnNote(None, {}, over=True)
            if self._post is not None:
                note = self._line.ask("turn", self._post, done, _WAIT_S)
            done = None
            parts = {}
            for number, part in note.parts.items():
                if (here := self._fetch(part)) is None:
                    self._missing.append(number)
                else:
                    parts[number] = here
            if note.number is not None or parts or (note.over and not self._missing):
                return Turn(note.number, parts)

    def _fetch(self, note: PartNote) -> Part | None:
        """None if the helper has taken its gradients with it."""
        try:
            [gradients] = self._store.get([note.gradients])
        except ValueLost:
            return None
        return Part(note.loss, gradients)
