"""The stream of tasks: which records each client holds, who is selected, and which tasks are evaluated when."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fcit_ray.config.benchmark import Benchmark, Task
from fcit_ray.config.schema import Config
from fcit_ray.data.partition.files import load_clients, load_partition
from fcit_ray.data.partition.selection import Selection, released_schedule, seeded
from fcit_ray.data.partition.splits import dirichlet_split, equal_split, group_split, label_split
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import Record, field_values, load_train
from fcit_ray.errors import ConfigError, DataError
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

    The federated regime gives task t's records to the clients as `benchmark.partition` says. The centralised regime
    gives all tasks' records to its one client.

    Raises:
        DataError: a file or record cannot be used.
        ConfigError: a task's records cannot be shared out as asked.
    """
    benchmark = config.benchmark
    if config.regime == "zero_shot":
        return Stream((), (), (), (), ())
    records, shards = training_data(benchmark, config.seed)
    everything = tuple(range(len(benchmark.tasks)))
    if config.regime == "centralised":
        union = tuple(record for part in records for record in part)
        task = Task(name="all tasks", datasets=tuple(d for t in benchmark.tasks for d in t.datasets))
        return Stream((task,), (union,), ((np.arange(len(union)),),), ((0,),), (everything,))
    if shards is None:
        shards = [
            _split(benchmark, task, part, config.seed) for task, part in zip(benchmark.tasks, records, strict=True)
        ]
    schedule = schedule_of(benchmark)
    seen: set[int] = set()
    evaluated = []
    for row in schedule:
        seen.update(row)
        evaluated.append(tuple(sorted(seen)))
    return Stream(benchmark.tasks, tuple(records), tuple(shards), schedule, tuple(evaluated))


def schedule_of(benchmark: Benchmark) -> tuple[tuple[int, ...], ...]:
    """For each stage the task of every selected client, by position in the selection."""
    num_tasks, num_selected = len(benchmark.tasks), benchmark.clients_per_round
    if benchmark.schedule == "homogeneous":
        return tuple((stage,) * num_selected for stage in range(num_tasks))
    if benchmark.schedule == "released":
        return released_schedule(num_tasks, num_selected, num_tasks)
    return benchmark.schedule


def training_data(
    benchmark: Benchmark, seed: int
) -> tuple[list[tuple[Record, ...]], list[tuple[np.ndarray, ...]] | None]:
    """Each task's training records, and each client's indices into them where the files already say who holds what.

    Args:
        benchmark: whose tasks.
        seed: of the run.

    Raises:
        DataError: a file or record cannot be used.
    """
    collection = Collection.of(benchmark, seed)
    if benchmark.partition != "files":
        return [
            tuple(record for name in task.datasets for record in load_train(collection, name))
            for task in benchmark.tasks
        ], None
    held = (load_partition if benchmark.partition_files else load_clients)(benchmark, collection)
    shards = []
    for parts in held:
        ends = np.cumsum([len(part) for part in parts])
        shards.append(tuple(np.arange(end - len(part), end) for part, end in zip(parts, ends, strict=True)))
    return [tuple(record for part in parts for record in part) for parts in held], shards


def _split(benchmark: Benchmark, task: Task, records: tuple[Record, ...], seed: int) -> tuple[np.ndarray, ...]:
    """One task's records over the clients, by a seed of (run's seed, name of the task)."""
    seed = derive_seed(seed, "partition", task.name)
    num_clients, beta, least = benchmark.num_clients, benchmark.beta, benchmark.min_samples
    try:
        match benchmark.partition:
            case "labels":
                labels = [str(record.turns[0].answer).casefold() for record in records]
                return tuple(label_split(labels, num_clients, beta, least, seed))
            case "equal":
                return tuple(equal_split(len(records), num_clients, least, seed))
            case "field":
                field = str(benchmark.partition_field)
                groups = field_values(benchmark.root, records, field, benchmark.max_table_mb)
                return tuple(group_split(groups, num_clients, least))
            case _:
                return tuple(dirichlet_split(len(records), num_clients, beta, least, seed))
    except DataError:
        raise
    except ValueError as error:
        raise ConfigError(f"task {task.name}: {error}") from error


@dataclass(frozen=True)
class StreamPopulation:
    """The clients of a round, with what they hold.

    Attributes:
        stream: who holds what.
        setting: sizes and seed.
        feature: the identity token of a client's shard by (task, client), (D,).
        selection: who is selected.
    """

    stream: Stream
    setting: Setting
    feature: Callable[[int, int], Tensor]
    selection: Selection = seeded

    def select(self, stage: int, round: int) -> list[Client]:
        return [
            Client(index, task, self.stream.num_examples(task, index), self.feature(task, index))
            for task, index in self.chosen(stage, round)
        ]

    def chosen(self, stage: int, round: int) -> list[tuple[int, int]]:
        """Task and index of those clients, for which no feature is needed."""
        chosen = self.selection(self.setting, stage, round)
        return list(zip(self.stream.schedule[stage], chosen, strict=True))
