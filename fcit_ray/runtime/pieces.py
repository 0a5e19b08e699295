"""Pieces of work as the queue keeps them, and what it says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fcit_ray.config.failures import Failures
from fcit_ray.federated.failing import Attempt, Verdict

Admit = Callable[[Any, Any], Any]
"""Called with a piece of work and its result as that arrives; returns what is kept of the result."""


@dataclass(frozen=True)
class Lease:
    """One piece of work in one worker's hands.

    Attributes:
        token: names this attempt at it; what is said under the token of an attempt that was given up counts for
            nothing.
        work: what to do.
    """

    token: int
    work: Any


@dataclass(frozen=True)
class Progress:
    """How far a batch of work is.

    Attributes:
        pieces: done, those in hand by their part.
        num_pieces: in all.
        size: sum of the sizes of those done.
        total_size: of all.
        part: of the only piece, done and in all in its own units; (0, 0) where there are more.
    """

    pieces: float
    num_pieces: int
    size: float
    total_size: float
    part: tuple[int, int]


@dataclass(frozen=True)
class Failed:
    """An attempt has failed.

    Attributes:
        work: at which.
        attempts: all at it so far, this one last.
        verdict: what happens now.
        message: the sentence that says what happened, with its place.
    """

    work: Any
    attempts: tuple[Attempt, ...]
    verdict: Verdict
    message: str


@dataclass(eq=False)
class Item:
    """A piece of work.

    Attributes:
        token: of the attempt that is under way, or of the next one.
        result: once it is done; None if it was left out.
        dropped: it was left out.
        arrives: a result is there and is being looked at: neither silence nor a death spoils the attempt any more.
        part: how far a worker is, done and in all.
        worker: who has it in hand.
        began: when that worker took it.
        heard: when it was last heard of.
        attempts: that have failed.
    """

    work: Any
    size: float
    batch: "Batch"
    token: int
    result: Any = None
    done: bool = False
    dropped: bool = False
    arrives: bool = False
    part: tuple[int, int] = (0, 0)
    worker: int | None = None
    began: float = 0.0
    heard: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def failed(self) -> set[int]:
        """Workers that it has failed on, but for those that died: who takes their place is another."""
        return {attempt.worker for attempt in self.attempts if not attempt.died}


class Keeps(Protocol):
    """What a batch asks of the queue that it lies in."""

    def wait(self, batch: "Batch") -> list[Any]: ...

    def is_done(self, batch: "Batch") -> bool: ...

    def progress(self, batch: "Batch") -> Progress: ...


class Batch:
    """Pieces of work that were handed in together (`WorkQueue.open`).

    Attributes:
        urgency: of two pieces that wait, one of the more urgent batch goes first, whatever their sizes.
        admit: see `WorkQueue.open`.
        rule: what becomes of pieces whose attempts fail.
        items: the pieces, in the order of the works.
        rates: seconds by size of those that are done.
    """

    def __init__(self, queue: Keeps, urgency: int, admit: Admit, rule: Failures):
        self._queue = queue
        self.urgency = urgency
        self.admit = admit
        self.rule = rule
        self.items: list[Item] = []
        self.rates: list[float] = []

    def wait(self) -> list[Any]:
        """The results, in the order of the works, once all are there; None for those that were left out.

        Raises:
            RunFailed: a piece failed too often, or an error was reported that no other worker would escape, or the
                queue was finished meanwhile.
        """
        return self._queue.wait(self)

    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        return self._queue.is_done(self)

    def progress(self) -> Progress:
        """How far it is."""
        return self._queue.progress(self)


def progress_of(items: Sequence[Item]) -> Progress:
    """How far pieces are."""
    parts = [1.0 if item.done else item.part[0] / max(item.part[1], 1) for item in items]
    return Progress(
        pieces=sum(parts),
        num_pieces=len(items),
        size=sum(item.size for item in items if item.done),
        total_size=sum(item.size for item in items),
        part=items[0].part if len(items) == 1 else (0, 0),
    )
