"""Batches read and collated ahead of the trainer that wants them, in a thread; and how long it waited all the same.

The order and the bits are those of the batches read one after another. Joining pictures into floats, waiting for the
object store and copying into pinned memory let go of the interpreter, so the trainer goes on meanwhile.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from torch import Tensor

from fcit_ray.data.loading.batches import Batches

Batch = dict[str, Tensor]

_DEPTH = 2
"""Batches that lie ready; one more is being made."""
_SMALL = 2**20
"""Bytes of a batch below which a thread costs more than it saves, where its records lie in memory already."""
_LOOK_S = 0.05


class AheadBatches:
    """Batches for one client's training, read ahead; a context, at whose end no thread of it is left.

    Args:
        batches: what is read.
        at_hand: whether their records are in memory, so that small batches need no thread.
        pin: copy into page-locked memory, from which a GPU fetches while it computes.
        clock: seconds, monotonic; replaced in tests.

    Attributes:
        starved_s: seconds that the trainer has waited for batches.
    """

    def __init__(
        self, batches: Batches, *, at_hand: bool, pin: bool = False, clock: Callable[[], float] = time.perf_counter
    ):
        self._batches = batches
        self._at_hand = at_hand
        self._pin = pin
        self._clock = clock
        self._readers: list[_Reader] = []
        self.starved_s = 0.0

    def __call__(self, piece_size: int | None = None, /) -> Iterator[Batch]:
        """A pass, as `Batches` has it. What reading raises is raised where the batch is wanted."""
        source = self._read(piece_size)
        reader: _Reader | None = None
        try:
            while True:
                began = self._clock()
                batch = next(source, None) if reader is None else reader.next()
                self.starved_s += self._clock() - began
                if batch is None:
                    return
                if reader is None and not (self._at_hand and _bytes(batch) < _SMALL):
                    reader = _Reader(source)  # begins with the second batch, while the first is trained on
                    self._readers.append(reader)
                yield batch
        finally:
            if reader is not None:
                reader.stop()

    def _read(self, piece_size: int | None) -> Iterator[Batch]:
        for batch in self._batches(piece_size):
            yield {name: value.pin_memory() for name, value in batch.items()} if self._pin else batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers:
            reader.stop()


class _Reader:
    """A thread that reads on until somebody stops it."""

    def __init__(self, source: Iterator[Batch]):
        self._source = source
        self._ready: queue.Queue[Batch | Exception | None] = queue.Queue(maxsize=_DEPTH)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def next(self) -> Batch | None:
        """The next batch, None behind the last; raises what the reading raised."""
        got = self._ready.get()
        if isinstance(got, Exception):
            raise got
        return got

    def stop(self) -> None:
        """End the thread, whatever it has read."""
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._ready.get_nowait()  # it may be waiting for room
            self._thread.join(timeout=_LOOK_S)

    def _run(self) -> None:
        end: Exception | None = None
        try:
            for batch in self._source:
                if not self._put(batch):
                    return
        except Exception as error:
            end = error
        self._put(end)

    def _put(self, item: Batch | Exception | None) -> bool:
        """Wait until there is room for it; returns whether more is wanted."""
        if not self._stopped.is_set():
            self._ready.put(item)
        return not self._stopped.is_set()


def _bytes(batch: Batch) -> int:
    return sum(value.nbytes for value in batch.values())
