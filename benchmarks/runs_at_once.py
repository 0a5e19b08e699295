"""How full several runs at once keep one worker group: the foreman itself, in simulated time.

    python benchmarks/runs_at_once.py
    python benchmarks/runs_at_once.py --workers 16 --runs 1 4 8

Each run is a federation on TabMWP's sizes: 23,059 records shared out over 50 clients (Dirichlet, beta 1), five a round,
one worker a client, which takes as long as it has records. Between two rounds a run aggregates for a hundredth of its
mean round. Every run has as many rounds; what is counted ends when the first run does, as afterwards there are fewer.
"""

import argparse
import heapq
from types import SimpleNamespace

import numpy as np

from fcit_ray.runtime.foreman import Engagement, Foreman
from fcit_ray.runtime.shape import Shape

RECORDS, CLIENTS, A_ROUND = 23_059, 50, 5


class Run:
    """One federation: the sizes of its rounds, drawn from its seed."""

    def __init__(self, foreman: Foreman, shape: Shape, rounds: int, beta: float, seed: int):
        draws = np.random.default_rng(seed)
        shares = draws.dirichlet(np.full(CLIENTS, beta)) * RECORDS
        self.rounds = [list(draws.choice(shares, A_ROUND, replace=False)) for _ in range(rounds)]
        self.pause = float(np.mean([sum(sizes) for sizes in self.rounds])) / 100
        self.waiting: list[float] = []
        self.in_hand = 0
        driver = SimpleNamespace()
        self.foreman, self.number = foreman, foreman.engage(shape, {}, driver)

    def open_round(self) -> None:
        self.waiting = sorted(self.rounds.pop(), reverse=True)
        self.foreman.tell(self.number, [(1.0, size) for size in self.waiting])

    def take(self) -> float:
        self.in_hand += 1
        return self.waiting.pop(0)


def filled(num_runs: int, workers: int, beta: float, seed: int, rounds: int = 10) -> float:
    """Share of the workers' time in which they train."""
    shape = Shape(workers, 1.0, gpu=True)
    foreman = Foreman(most=1)
    runs = {run.number: run for run in (Run(foreman, shape, rounds, beta, seed + n) for n in range(num_runs))}
    [(crew, _)] = foreman.wanted()
    events = [(0.0, order, run, None) for order, run in enumerate(runs.values())]  # a round opens, or a client ends
    free, busy, order = list(range(workers)), 0.0, len(events)
    while events:
        now, _, run, worker = heapq.heappop(events)
        if worker is None:
            if not run.rounds:
                break
            run.open_round()
        else:
            free.append(worker)
            run.in_hand -= 1
            if not run.in_hand and not run.waiting:
                heapq.heappush(events, (now + run.pause, order, run, None))
                order += 1
        for rank in sorted(free):
            sent = foreman.next(crew, rank, 0.0)
            if not isinstance(sent, Engagement):
                break
            seconds = runs[sent.number].take()
            free.remove(rank)
            busy += seconds
            heapq.heappush(events, (now + seconds, order, runs[sent.number], rank))
            order += 1
    # Clients that were under way at the end count up to it.
    busy -= sum(end - now for end, _, _, rank in events if rank is not None)
    return busy / (workers * now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4, 6])
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    for num_runs in args.runs:
        shares = [filled(num_runs, args.workers, args.beta, 1000 * seed) for seed in range(args.seeds)]
        print(
            f"{num_runs} at once on {args.workers} workers: {np.mean(shares):.1%} "
            f"({min(shares):.1%} to {max(shares):.1%} over {args.seeds} draws)"
        )


if __name__ == "__main__":
    main()
