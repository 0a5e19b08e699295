"""A run before it starts: what it holds, what it sends, how its clients fit the GPUs, whether its memory does.

Nothing is read of the weights: the model is built from its configuration on the device `meta`, and the bank, the
method and the server's `Federation.plan` are the run's own, on tensors that have shapes and no values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.batches import num_steps
from fcit_ray.data.loading.lengths import Lengths
from fcit_ray.data.partition.splits import dirichlet_split
from fcit_ray.data.partition.stream import Stream, schedule_of
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.opening import Experiment, equip, local_training, make_setting
from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.federation import Federation
from fcit_ray.federated.packing import Cut, alone, makespan, shortest
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.folder import model_folder
from fcit_ray.models.load import DTYPES
from fcit_ray.models.structure import skeleton
from fcit_ray.params import tree_bytes
from fcit_ray.planning.memory import Load
from fcit_ray.planning.shapes import Shapes, read_shapes, tiles_of
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Assignment, ClientJob, ClientUpdate, ServerState


@dataclass(frozen=True)
class Round:
    """One round as it will be handed out.

    Attributes:
        stage, round: from 0.
        down, up: bytes to and from all its clients.
        steps: of each client, in the order of the plan.
        records: of each client.
        makespan: as the runtime hands it out over the workers, in records of an epoch.
        alone: if no worker helped another, likewise.
        shortest: no schedule of these micro-batches is shorter, likewise.
    """

    stage: int
    round: int
    down: int
    up: int
    steps: tuple[int, ...]
    records: tuple[int, ...]
    makespan: float
    alone: float
    shortest: float


@dataclass(frozen=True)
class Outline:
    """What a run is made of, by counting.

    Attributes:
        shapes: of the model.
        held: numbers of adapters, projector and method's own parameters.
        adapter: numbers of one adapter (0 if the method has none).
        num_adapters: of them.
        trained: numbers that a client trains, of the client that trains most.
        rank, frozen_rank: of the adapters in that client's forward pass, trained and not.
        told: bytes of what the server tells a client, at most.
        rounds: of the whole run.
        uncounted: what travels and is not in the rounds' bytes, in words; empty if nothing.
    """

    shapes: Shapes
    held: int
    adapter: int
    num_adapters: int
    trained: int
    rank: int
    frozen_rank: int
    told: int
    rounds: tuple[Round, ...]
    uncounted: str = ""


def shape_bank(config: Config, algorithm: Algorithm) -> tuple[AdapterBank, Shapes]:
    """The run's bank without values, and the sizes of its model. No weight is read.

    Raises:
        ModelError: no such model.
        ConfigError: no layer is called as in `model.targets`.
    """
    base = skeleton(model_folder(config.model.path), DTYPES[config.model.dtype])
    with torch.device("meta"):
        bank = equip(base, config, algorithm)
    return bank, read_shapes(base, bank.layers, config.model.projector)


def outline(experiment: Experiment, workers: int, shaped: tuple[AdapterBank, Shapes] | None = None) -> Outline:
    """Rehearse the run without training: who trains what in which round, and what travels.

    Identity tokens are not read: clients of one task are taken to look alike, those of different tasks to differ (the
    method's assignments follow from that). What methods and local rules report beside the deltas needs training, and is
    named in `uncounted` where there is any.

    Args:
        experiment: of the run; `blind_experiment` where there is no data.
        workers: that train at once.
        shaped: what `shape_bank` made for a run of the same model and algorithm.
    """
    config, train = experiment.config, local_training(experiment.config)
    algorithm = experiment.algorithm
    bank, shapes = shaped or shape_bank(config, algorithm)
    kept = _Kept(bank, algorithm, train.projector_lr > 0)
    axes = torch.eye(max(1, len(experiment.stream.tasks)))
    federation = experiment.federation(lambda task, client: axes[task])
    method, lora = algorithm.method, algorithm.aggregation.lora
    params = bank.shapes()
    own = [value.numel() for name, value in params.items() if ".lora_A.s0." in name or ".lora_B.s0." in name]
    state = federation.start(params)
    learns = not method.overrides("report")  # what it learns of a round needs no report of the training
    rounds, trained, told, ranks = [], 0, 0, (0, 0)
    cut = Cut(train.batch_size, train.micro_batch_size or train.batch_size, train.epochs)
    most = None if config.runtime.workers_per_client == "auto" else config.runtime.workers_per_client
    while not federation.is_over(state):
        jobs = federation.plan(state)
        updates = [_update(job, kept.by(job), algorithm) for job in jobs]
        records = tuple(job.client.num_examples for job in jobs)
        rounds.append(
            Round(
                stage=state.stage,
                round=state.round,
                down=sum(lora.bytes_down(j.params, j.client) + tree_bytes(j.knowledge, j.local) for j in jobs),
                up=sum(lora.bytes_up(update) for update in updates),
                steps=tuple(num_steps(count, train.batch_size, train.epochs) for count in records),
                records=records,
                makespan=makespan(records, workers, cut, most) / train.epochs,
                alone=alone(records, workers),
                shortest=shortest(records, workers, cut) / train.epochs,
            )
        )
        for job in jobs:
            numbers = kept.numbers(job)
            if numbers >= trained:
                trained = numbers
                ranks = (len(job.assignment.train) * bank.rank, len(job.assignment.frozen) * bank.rank)
            told = max(told, tree_bytes(job.knowledge, job.local))
        state = _after(state, federation, updates, learns)
    reporting = {"method": method, "local rule": algorithm.local}
    reports = [name for name, part in reporting.items() if part.overrides("report")]
    return Outline(
        shapes=shapes,
        held=sum(value.numel() for value in params.values()),
        adapter=sum(own),
        num_adapters=bank.num_adapters,
        trained=trained,
        rank=ranks[0],
        frozen_rank=ranks[1],
        told=told,
        rounds=tuple(rounds),
        uncounted=f"what the {' and the '.join(reports)} report beside the deltas" if reports else "",
    )


class _Kept:
    """What a client of each assignment trains; asked of the bank once an assignment, which takes it a while."""

    def __init__(self, bank: AdapterBank, algorithm: Algorithm, projector: bool):
        self._bank = bank
        self._trains = algorithm.aggregation.lora.trains
        self._projector = projector
        self._known: dict[Assignment, tuple[list[str], int]] = {}

    def by(self, job: ClientJob) -> list[str]:
        return self._of(job.assignment)[0]

    def numbers(self, job: ClientJob) -> int:
        return self._of(job.assignment)[1]

    def _of(self, assignment: Assignment) -> tuple[list[str], int]:
        if assignment not in self._known:
            kept = self._bank.activate(assignment, with_projector=self._projector, trains=self._trains)
            self._known[assignment] = ([*kept], sum(parameter.numel() for parameter in kept.values()))
        return self._known[assignment]


def _update(job: ClientJob, trained: Sequence[str], algorithm: Algorithm) -> ClientUpdate:
    lora = algorithm.aggregation.lora
    delta = {name: job.params[name] for name in trained if not lora.stays(name)}
    return ClientUpdate(stage=job.stage, round=job.round, client=job.client, assignment=job.assignment, delta=delta)


def _after(state: ServerState, federation: Federation, updates: Sequence[ClientUpdate], learns: bool) -> ServerState:
    """The state after a round in which nothing was learned but who the clients are."""
    knowledge = federation.method.absorb(state.knowledge, updates) if learns else state.knowledge
    if state.round + 1 < federation.setting.num_rounds:
        return replace(state, knowledge=knowledge, round=state.round + 1)
    if learns:
        knowledge = federation.method.consolidate(knowledge, state.params, state.stage)
    return replace(state, knowledge=knowledge, stage=state.stage + 1, round=0)


def blind_experiment(config: Config) -> Experiment:
    """A run whose data is not here: every client has one record."""
    return Experiment(config, make_algorithm(config), make_setting(config), _blind_stream(config), {})


def assumed_experiment(config: Config, num_records: int) -> Experiment:
    """A run whose data is not here, planned as if every task had so many records, and a quarter as many questions."""
    benchmark = config.benchmark
    blind = _blind_stream(config)
    tests: dict[str, Any] = {name: range(num_records // 4) for task in benchmark.tasks for name in task.datasets}
    tests |= {name: range(num_records // 4) for name in benchmark.transfer}
    if config.regime == "centralised":
        total = num_records * len(benchmark.tasks)
        shards: tuple[tuple[np.ndarray, ...], ...] = ((np.arange(total),),)
        seen = [[*range(len(benchmark.tasks))]]
    else:
        clients, least = benchmark.num_clients, benchmark.min_samples
        shards = tuple(
            tuple(
                dirichlet_split(
                    num_records, clients, benchmark.beta, least, derive_seed(config.seed, "partition", task.name)
                )
            )
            for task in blind.tasks
        )
        seen = [
            sorted({task for row in blind.schedule[: stage + 1] for task in row})
            for stage in range(len(blind.schedule))
        ]
    stream = replace(blind, shards=shards, evaluated=tuple(map(tuple, seen)))
    return Experiment(config, make_algorithm(config), make_setting(config), stream, tests)


def _blind_stream(config: Config) -> Stream:
    benchmark = config.benchmark
    if config.regime == "zero_shot":
        return Stream((), (), (), (), ())
    tasks = benchmark.tasks if config.regime == "federated" else benchmark.tasks[:1]
    clients = benchmark.num_clients if config.regime == "federated" else 1
    schedule = ((0,),) if config.regime == "centralised" else schedule_of(benchmark)
    shards = tuple(tuple(np.zeros(1, dtype=int) for _ in range(clients)) for _ in tasks)
    return Stream(tasks, ((),) * len(tasks), shards, schedule, ())


def efficiency(
    rounds: Sequence[Round], workers: int, length: Callable[[Round], float] = lambda round: round.makespan
) -> float:
    """Share of the workers' time in which they train, over all rounds; what is missing to one is idle.

    Args:
        rounds: of the run.
        workers: that train at once.
        length: of a round; by default as it is handed out.
    """
    spent = workers * sum(map(length, rounds))
    return sum(sum(round.records) for round in rounds) / spent if spent else 1.0


def load_of(config: Config, run: Outline, lengths: Lengths, *, cuda: bool) -> Load:
    """What the configuration asks of one worker."""
    model, train, evaluation = config.model, local_training(config), config.evaluation
    return Load(
        batch=min(train.batch_size, train.micro_batch_size or train.batch_size),
        tokens=lengths.longest,
        answer_tokens=lengths.answer,
        trained=run.trained,
        held=run.held,
        packed=run.adapter * run.num_adapters,
        told=run.told,
        rank=run.rank,
        frozen_rank=run.frozen_rank,
        dropout=model.dropout > 0,
        projector=train.projector_lr > 0,
        checkpointing=train.gradient_checkpointing,
        half=model.dtype == "bfloat16",
        four_bit=model.quantize == "4bit",
        attention="sdpa" if model.attention == "auto" else model.attention,  # flash-attn keeps less, if anything
        answer_batch=evaluation.batch_size,
        new_tokens=evaluation.max_new_tokens,
        cuda=cuda,
        tiles=tiles_of(run.shapes, lengths.pixels),
        in_pieces=(train.micro_batch_size or train.batch_size) < train.batch_size,
    )
