"""The stream of tasks: which records each client holds, who is selected, and which tasks are evaluated when."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fcit_ray.config import Config, ConfigError, Task
from fcit_ray.data.layout import Record, load_train
from fcit_ray.data.partition import dirichlet_split
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Client, Setting


@dataclass(frozen=True)
class Stream:
    """Training data of a run, already split over the clients.

    Attributes:
        tasks: what is trained on; in the centralised regime one task that holds all datasets.
        records: each task's training records.
        shards: for each task and client the indices of its records.
        schedule: for each stage the task of every selected client, by position in the selection.
        evaluated: for each stage the benchmark's tasks (positions in the configuration) seen by its end.
    """

    tasks: tuple[Task, ...]
    records: tuple[tuple[Record, ...], ...]
    shards: tuple[tuple[np.ndarray, ...], ...]
    schedule: tuple[tuple[int, ...], ...]
    evaluated: tuple[tuple[int, ...], ...]

    def shard(self, task: int, client: int) -> list[Record]:
        """A client's training records of a task, in file order."""
        return [self.records[task][index] for index in self.shards[task][client]]

    def num_examples(self, task: int, client: int) -> int:
        return len(self.shards[task][client])


def open_stream(config: Config) -> Stream:
    """Read, check and split the training data.

    The federated regime gives task t's records to the clients in Dirichlet proportions. The centralised regime gives
    all tasks' records to its one client.

    Raises:
        DataError: a file or record cannot be used.
        ConfigError: a task has too few records for its clients.
    """
    benchmark = config.benchmark
    if config.regime == "zero_shot":
        return Stream((), (), (), (), ())
    records = [
        tuple(record for name in task.datasets for record in load_train(benchmark.root, name))
        for task in benchmark.tasks
    ]
    everything = tuple(range(len(benchmark.tasks)))
    if config.regime == "centralised":
        union = tuple(record for part in records for record in part)
        task = Task(name="all tasks", datasets=tuple(d for t in benchmark.tasks for d in t.datasets))
        return Stream((task,), (union,), ((np.arange(len(union)),),), ((0,),), (everything,))
    shards = []
    for task, part in zip(benchmark.tasks, records, strict=True):
        seed = derive_seed(config.seed, "partition", task.name)
        try:
            split = dirichlet_split(len(part), benchmark.num_clients, benchmark.beta, benchmark.min_samples, seed)
        except ValueError as error:
            raise ConfigError(f"task {task.name}: {error}") from error
        shards.append(tuple(split))
    if benchmark.schedule == "homogeneous":
        schedule = tuple((stage,) * benchmark.clients_per_round for stage in everything)
    else:
        schedule = benchmark.schedule
    seen: set[int] = set()
    evaluated = []
    for row in schedule:
        seen.update(row)
        evaluated.append(tuple(sorted(seen)))
    return Stream(benchmark.tasks, tuple(records), tuple(shards), schedule, tuple(evaluated))


@dataclass(frozen=True)
class StreamPopulation:
    """Selects a round's clients at random without replacement, by a seed of (seed, stage, round).

    Attributes:
        stream: who holds what.
        setting: sizes and seed.
        feature: the identity token of a client's shard by (task, client), (D,).
    """

    stream: Stream
    setting: Setting
    feature: Callable[[int, int], Tensor]

    def select(self, stage: int, round: int) -> list[Client]:
        draw = np.random.default_rng(derive_seed(self.setting.seed, "select", stage, round))
        chosen = draw.choice(self.setting.num_clients, self.setting.clients_per_round, replace=False)
        return [
            Client(int(index), task, self.stream.num_examples(task, int(index)), self.feature(task, int(index)))
            for index, task in zip(chosen, self.stream.schedule[stage], strict=True)
        ]
