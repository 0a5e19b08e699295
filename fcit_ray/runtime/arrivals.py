"""A round's updates as they come in, in whatever order: looked at, folded in the order of the plan, or left to wait."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn

from fcit_ray.federated.federation import Federation
from fcit_ray.params import Lazy, tree_bytes
from fcit_ray.runtime.waiting import WaitingRoom
from fcit_ray.types import ClientJob, ClientUpdate, Params

_BESIDE: Final = ("report", "local", "memory")


def folded(names: Collection[str], whose: str) -> Params:
    """The delta of an update that has been added to the mean: who sent what is known, the values are gone.

    Args:
        names: of what was sent.
        whose: for the error of whoever asks for a value.
    """

    def gone(name: str) -> NoReturn:
        raise LookupError(
            f"{name}: the delta of {whose} is part of the mean and is kept no longer; a method or local rule "
            "whose `absorb` looks at deltas says so by `reads_deltas = True`"
        )

    return Lazy(names, gone)


class Arrivals:
    """Takes the updates of one round; calls may come from several threads, and twice for the same job.

    Args:
        federation: which admits and folds.
        jobs: of the round, in the order of the plan.
        room: where updates wait.

    Attributes:
        bytes_up: of the updates so far.
    """

    def __init__(self, federation: Federation, jobs: Sequence[ClientJob], room: WaitingRoom):
        self._federation = federation
        self._jobs = jobs
        self._position = {job.key: position for position, job in enumerate(jobs)}
        self._room = room
        self._lock = threading.Lock()
        self._light: dict[int, ClientUpdate] = {}
        self._early: dict[int, ClientUpdate] = {}
        self._next = 0
        self._missing: set[int] = set()
        self._fold: Any = None
        self._sent: dict[Any, frozenset[str]] = {}
        self.bytes_up = 0

    def take(self, job: ClientJob, update: ClientUpdate, frozen: frozenset[str]) -> ClientUpdate:
        """Admit an update; returns it with all that is large about it out of the way.

        Args:
            job: which it answers.
            update: as it came.
            frozen: as in `Federation.admit`.

        Raises:
            RunFailed: it cannot be averaged.
            OSError: there is no room on the disk for it to wait.
        """
        self._federation.admit(job, update, frozen)
        position = self._position[job.key]
        bytes_up = self._federation.aggregation.lora.bytes_up(update) + tree_bytes(update.report, update.local)
        with self._lock:
            if position in self._light:
                return self._light[position]  # of a twin, which has the same bits
            if not self._sent:
                self._begin(frozen)
                self._go_on(self._federation.reads_deltas)  # past those that were left out before anybody had come
            whole = tree_bytes(update.delta, update.report, update.local, update.memory)
            keeps = self._fold is None or self._federation.reads_deltas
            rest = self._room.keep({part: getattr(update, part) for part in _BESIDE}, whole)
            # The client of the job: the one that came back holds on to the memory that the update came in.
            update = replace(update, client=job.client, assignment=job.assignment, **rest)
            delta = self._room.keep(update.delta) if keeps else folded(self._names(job), str(job.key))
            light = replace(update, delta=delta)
            self._light[position] = light
            self.bytes_up += bytes_up
            if self._fold is not None:
                if position == self._next:
                    self._add(update)
                else:
                    self._early[position] = light if keeps else replace(light, delta=self._room.keep(update.delta))
                self._go_on(keeps)
            return light

    def leave_out(self, job: ClientJob) -> None:
        """A client's update will not come: those behind it wait for it no more."""
        with self._lock:
            self._missing.add(self._position[job.key])
            if self._fold is not None:
                self._go_on(self._federation.reads_deltas)

    def mean(self) -> Params | None:
        """The mean of the deltas, once all have been taken or left out; None where the rule wants to see them all."""
        return None if self._fold is None else self._fold.mean()

    def _begin(self, frozen: frozenset[str]) -> None:
        # Now that a worker has told what is frozen.
        for job in self._jobs:
            if (key := _key(job)) not in self._sent:
                self._sent[key] = self._federation.sent(job, frozen)
        clients = [job.client for job in self._jobs]
        self._fold = self._federation.aggregation.fold(clients, [self._names(job) for job in self._jobs])

    def _go_on(self, keeps: bool) -> None:
        """Fold what has waited for its turn."""
        while True:
            if self._next in self._missing:
                self._next += 1
            elif early := self._early.pop(self._next, None):
                self._add(early)
                if not keeps:
                    self._room.drop(early.delta)
            else:
                return

    def _names(self, job: ClientJob) -> frozenset[str]:
        return self._sent[_key(job)]

    def _add(self, update: ClientUpdate) -> None:
        self._fold.add(update)
        self._next += 1


def _key(job: ClientJob) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(job.assignment.train), tuple(job.assignment.frozen)
