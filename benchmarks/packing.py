"""How full a round's clients keep the workers: planned, bounded, and measured with clients that sleep.

TabMWP's 23,059 records over 50 clients, five of them a round, as `task_homogeneous` selects and cuts them. A
micro-batch sleeps as long as it has records; who computes it is decided by the run's own queue and policy, in threads.
Beside it small random rounds, whose shortest schedule is found by looking at all of them.
"""

import argparse
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from optimum import optimum
from rich.table import Table

from fcit_ray.cli.common import console
from fcit_ray.config.reading import load_config
from fcit_ray.federated.micro_batch import OrderedSum, Part
from fcit_ray.federated.packing import Cut, alone, makespan, shortest
from fcit_ray.federated.sharing import Step, Team, share_out
from fcit_ray.planning.plan import assumed_experiment
from fcit_ray.runtime.messages import DirectStore
from fcit_ray.runtime.partners import Partners
from fcit_ray.runtime.shared_steps import HelpWork, PartNote
from fcit_ray.runtime.sharing_queue import SharingQueue

CONFIG = Path(__file__).parents[1] / "configs" / "task_homogeneous.yaml"
RECORDS = 23_059
PAPER_S = 1 / 22
"""Seconds a record takes at a GPU's pace, which all else is scaled by."""


class Line:
    """A worker's way to the queue in this process."""

    def __init__(self, queue: SharingQueue):
        self._queue = queue

    def ask(self, what: str, *args: Any) -> Any:
        return getattr(self._queue, what)(*args)

    def later(self, what: str, *args: Any) -> Any:
        answer = self.ask(what, *args)
        return lambda: answer


def sleep_through(client: int, cut: Cut, record_s: float, team: Team) -> None:
    """What `run_client` does, the computing left out."""
    steps = cut.steps(client)
    for number, step in enumerate(steps):
        left, each = 1 - (number + 1) / len(steps), 1 / len(steps) / len(step)

        def compute(piece: int, step: Sequence[int] = step) -> Part:
            time.sleep(step[piece] * record_s)
            return Part(0.0, {})

        def post(
            to: Team,
            waiting: tuple[int, ...],
            number: int = number,
            step: Sequence[int] = step,
            left: float = left,
            each: float = each,
        ) -> None:
            to.post(Step(number, {}, {"records": step}, [1.0] * len(step), waiting, left, each))

        share_out(OrderedSum(range(len(step)), torch.device("cpu")), compute, post, team)


def measure(clients: Sequence[int], workers: int, cut: Cut, record_s: float) -> float:
    """Seconds of one round."""
    queue = SharingQueue(lease_s=3600.0)

    def serve(rank: int) -> None:
        while not queue.over:
            lease = queue.next(rank, 1.0)
            if lease is None:
                continue
            result: Any = None
            if isinstance(lease.work, HelpWork):
                # Sizes come as what a local rule would have counted: they travel by the same handle.
                time.sleep(lease.work.state[1]["records"][lease.work.number] * record_s)
                result = PartNote(0.0, {})
            else:
                ask_s = 0.2 * record_s / PAPER_S
                partners = Partners(Line(queue), lease.token, rank, DirectStore(), ask_s)
                sleep_through(lease.work, cut, record_s, partners)
            queue.submit(lease.token, result)

    threads = [threading.Thread(target=serve, args=(rank,), daemon=True) for rank in range(workers)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)  # all are there, and wait
    began = time.perf_counter()
    queue.run(list(clients), list(clients))
    took = time.perf_counter() - began
    queue.finish()
    for thread in threads:
        thread.join()
    return took


def rounds_of(beta: float, count: int) -> tuple[list[tuple[int, ...]], Cut]:
    """Records of each client of the first rounds, and how the configuration cuts them."""
    config = load_config([CONFIG], ["benchmark.tasks=[TabMWP]", f"benchmark.beta={beta}"])
    population = assumed_experiment(config, RECORDS).federation(lambda task, client: torch.ones(1)).population
    rounds = [tuple(client.num_examples for client in population.select(0, number)) for number in range(count)]
    return rounds, Cut(config.train.batch_size, config.train.micro_batch_size or config.train.batch_size)


def beside_the_optimum(count: int) -> str:
    """Small random rounds by the policy and by exhaustive search."""
    draw = random.Random(0)
    ratios = []
    for _ in range(count):
        workers, step = draw.randint(2, 4), draw.randint(1, 5)
        clients = tuple(draw.randint(1, 10) for _ in range(draw.randint(1, 4)))
        cut = Cut(step, 1)
        best = optimum([[len(pieces) for pieces in cut.steps(records)] for records in clients], workers)
        ratios.append(makespan(clients, workers, cut) / best)
    exact, mean = sum(ratio == 1 for ratio in ratios), sum(ratios) / count
    return f"{count} random rounds: {exact} as short as can be; on average {mean:.3f}, at most {max(ratios):.2f} of it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beta", type=float, nargs="+", default=[0.5, 1.0, 5.0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--micro-batch", type=int, help="records; by default the configuration's")
    parser.add_argument("--rounds", type=int, default=10, help="that are planned and bounded")
    parser.add_argument("--measured", type=int, default=3, help="of these, how many are slept through")
    parser.add_argument("--record-ms", type=float, default=1.0, help="that a record sleeps, for 45 of a GPU")
    args = parser.parse_args()
    table = Table("beta", "workers", "one worker a client", "shared", "bound", "measured", "plan of those")
    for beta in args.beta:
        rounds, cut = rounds_of(beta, args.rounds)
        cut = Cut(cut.batch_size, args.micro_batch or cut.micro_batch_size)
        for workers in args.workers:
            few = rounds[: args.measured]
            slept = sum(measure(clients, workers, cut, args.record_ms / 1e3) for clients in few) / args.record_ms * 1e3
            table.add_row(
                f"{beta:g}",
                str(workers),
                share(rounds, workers, sum(alone(clients, workers) for clients in rounds)),
                share(rounds, workers, sum(makespan(clients, workers, cut) for clients in rounds)),
                share(rounds, workers, sum(shortest(clients, workers, cut) for clients in rounds)),
                share(few, workers, slept) if few else "",
                share(few, workers, sum(makespan(clients, workers, cut) for clients in few)),
            )
    console.print(f"Share of the workers' time in which they train; micro-batches of {cut.micro_batch_size}")
    console.print(table)
    console.print(beside_the_optimum(300))


def share(rounds: Sequence[Sequence[int]], workers: int, took: float) -> str:
    """Of the workers' time, that in which they train."""
    return f"{sum(map(sum, rounds)) / workers / took:.1%}" if took else ""


if __name__ == "__main__":
    main()
