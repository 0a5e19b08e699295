"""What will be needed is made before it is: in the order of need, within a budget, in a thread of its own.

Plain threads and no Ray, so that tests can say what is made when. What is made when never changes what it is.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Protocol

_MOST_AHEAD = 500
"""Pieces that are looked at ahead of need; a run may have millions."""
_REFILL = 0.5
"""Of what should be there: once less than this lies ready in the order of need, the rest is made. It has its costs."""
_log = logging.getLogger(__name__)


class Made(Protocol):
    """What was made of a piece."""

    @property
    def failed(self) -> bool:
        """Whether it is what stopped its making: it belongs to whoever needs the piece."""
        ...


Make = Callable[[Sequence[Any], bool], Iterator[Any]]
"""Makes pieces, in their order; the second argument: nobody waits for any of them."""


class Lookahead:
    """Makes pieces ahead of need; `take` waits for those that are needed now, which go before all others.

    Args:
        budget: bytes to keep; what is being asked for counts, and is kept whatever it takes.
        needs: the pieces in the order of need from now on, as far as it can be told; a piece may be named repeatedly.
            Called in the thread that makes, whenever it looks for what to make next.
        size: bytes of a piece, once made.
        make: see `Make`. What it raises is raised by `take` for all pieces that it still owed.
        failed: told of what failed before anybody needed it; it is made once more when somebody does.
    """

    def __init__(
        self,
        budget: int,
        needs: Callable[[], Iterable[Hashable]],
        size: Callable[[Any], int],
        make: Make,
        failed: Callable[[Any], None],
    ):
        self._budget = budget
        self._needs = needs
        self._size = size
        self._make = make
        self._failed = failed
        self._changed = threading.Condition()
        self._kept: dict[Hashable, Any] = {}
        self._asked: Counter[Hashable] = Counter()
        self._errors: dict[Hashable, Exception] = {}
        self._stale: set[Hashable] = set()  # failed ahead of need
        self._thread: threading.Thread | None = None
        self._looks = 0
        self._closed = False

    def look(self) -> None:
        """The order of need has changed: look again whether there is something to make."""
        with self._changed:
            self._looks += 1
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="lookahead", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def there(self, pieces: Sequence[Hashable]) -> list[Any] | None:
        """What was made of these pieces, if all are there and none has failed."""
        with self._changed:
            blocks = [self._kept.get(piece) for piece in pieces]
            return None if any(block is None or block.failed for block in blocks) else blocks

    def take(self, pieces: Sequence[Hashable], timeout_s: float) -> list[Any] | None:
        """What is made of these pieces; None if it is not there within the time: ask again.

        Raises:
            Exception: what `make` raised instead of making one of them.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            for piece in pieces:
                self._asked[piece] += 1
                if piece in self._stale:
                    self._kept.pop(piece, None)
                    self._errors.pop(piece, None)
                    self._stale.discard(piece)
            self.look()
            try:
                while not all(piece in self._kept for piece in pieces):
                    for piece in pieces:
                        if error := self._errors.get(piece):
                            raise error
                    if self._closed:
                        raise RuntimeError("nothing is made any more: the run is over")
                    if (left := deadline - time.monotonic()) <= 0:
                        return None
                    self._changed.wait(left)
                return [self._kept[piece] for piece in pieces]
            finally:
                self._asked -= Counter(pieces)
                self.look()

    def close(self) -> None:
        """Make nothing more, and let go of everything."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        with self._changed:
            self._kept.clear()

    def _run(self) -> None:
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._closed or self._looks != seen)  # type: ignore[misc]
                if self._closed:
                    return
                seen = self._looks
            while window := self._next_window():
                self._fill(window)

    def _next_window(self) -> list[Hashable]:
        """What to make next, in the order of need; makes room for it. Empty if there is enough."""
        with self._changed:
            if self._closed:
                return []
            target: dict[Hashable, int] = {}
            total, ready, whole = 0, 0, False
            try:
                needs = iter(self._needs())
                for piece in chain(list(self._asked), islice(needs, _MOST_AHEAD)):
                    if piece in target:
                        continue
                    size = self._size(piece)
                    if total + size > self._budget and piece not in self._asked and target:
                        break
                    if total == ready and piece in self._kept:
                        ready += size
                    target[piece] = size
                    total += size
                else:
                    whole = next(needs, None) is None
            except Exception as error:  # of what is asked of it, not of making: it must not end this thread
                _log.warning("what is needed next cannot be told: %s", error)
            missing = [piece for piece in target if piece not in self._kept and piece not in self._errors]
            waited_for = any(piece in self._asked for piece in missing)
            if not missing or not (waited_for or whole or ready < _REFILL * total):
                return []
            # What is not needed soonest makes room: first what is past, then what came last.
            used = sum(self._size(piece) for piece in self._kept) + sum(target[piece] for piece in missing)
            for piece in [piece for piece in self._kept if piece not in target]:
                if used <= self._budget:
                    break
                used -= self._size(piece)
                del self._kept[piece]
                self._stale.discard(piece)
            return missing

    def _fill(self, window: Sequence[Hashable]) -> None:
        left = list(window)
        with self._changed:
            gently = not any(piece in self._asked for piece in window)
        try:
            for block in self._make(window, gently):
                piece = left.pop(0)
                with self._changed:
                    self._kept[piece] = block
                    early = block.failed and piece not in self._asked
                    if early:
                        self._stale.add(piece)
                    self._changed.notify_all()
                if early:
                    self._failed(block)
                with self._changed:
                    # What is waited for and not among what is being made goes first.
                    due = self._asked.keys() - self._kept.keys() - self._errors.keys()
                    if self._closed or (due and due.isdisjoint(left)):
                        return
            if left:
                raise RuntimeError(f"{len(left)} of {len(window)} pieces were not made")
        except Exception as error:
            if self._closed:
                return
            with self._changed:
                for piece in left:
                    self._errors[piece] = error
                    if piece not in self._asked:
                        self._stale.add(piece)
                self._changed.notify_all()
            _log.warning("not made, and tried again once it is needed: %r", error)
