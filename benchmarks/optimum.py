"""The shortest schedule of a small round, by looking at all of them; for the benchmark `packing.py` and for a test."""

from collections.abc import Iterator, Sequence


def optimum(clients: Sequence[Sequence[int]], workers: int) -> int:
    """When the last client can be done, in micro-batches, each taking one unit of time on any worker.

    Every reachable state after each unit of time: how many micro-batches each client has left. A worker that could
    compute is never idle, which costs no schedule anything, as a micro-batch done sooner closes no way.

    Args:
        clients: of each the micro-batches of its steps; a step begins when the one before is done.
        workers: that there are.
    """
    open_at = [_open_at(steps) for steps in clients]
    states = {tuple(sum(steps) for steps in clients)}
    time = 0
    while not any(max(state, default=0) == 0 for state in states):
        time += 1
        states = {
            tuple(left - took for left, took in zip(state, taken, strict=True))
            for state in states
            for taken in _shares([open_at[place][left] for place, left in enumerate(state)], workers)
        }
    return time


def _open_at(steps: Sequence[int]) -> list[int]:
    """By micro-batches left: how many of them the present step has."""
    counts = [0]
    for size in reversed(steps):
        counts += range(1, size + 1)
    return counts


def _shares(open_: Sequence[int], workers: int) -> Iterator[tuple[int, ...]]:
    """Every way of giving all workers something to do, or as many as there is something for."""
    if not open_:
        yield ()
        return
    first, rest = open_[0], open_[1:]
    busy = min(workers, sum(open_))
    for took in range(max(0, busy - sum(rest)), min(first, busy) + 1):
        for others in _shares(rest, busy - took):
            yield (took, *others)
