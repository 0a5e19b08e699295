"""What a run will need of its records, and in which order: a function of its seed, known before anything is trained."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from fcit_ray.data.loading.batches import epoch_order
from fcit_ray.data.partition.selection import SELECTIONS
from fcit_ray.data.partition.stream import StreamPopulation
from fcit_ray.runtime.blocks import Part
from fcit_ray.seeds import client_seed

if TYPE_CHECKING:
    from fcit_ray.experiment.opening import Experiment

STREAMED_PIECE = 32
"""Records of a piece of a streamed shard, rounded to whole steps: who shares a step finds its records together."""
KEPT_PIECE = 128
"""Records of a piece of a shard that is kept: several processes make a large one, and none holds it whole."""
_BEHIND = 2  # pieces of a stream that are needed by whoever shares its client and is a little slower
_AHEAD = 16  # pieces among which those are looked for that a client asks for next


@dataclass(frozen=True)
class Piece:
    """Records that are prepared together.

    Attributes:
        part: what is made of them.
        name: index of a task, or name of a test set.
        rows: their positions among the client's records, or in the test set.
        client: whose they are; -1 of a test set.
    """

    part: Part
    name: int | str
    rows: tuple[int, ...]
    client: int = -1


@dataclass
class Job:
    """A client of a round, as far as its data goes.

    Attributes:
        task, client: whose records it trains on.
        start: when it is expected to begin, in records that a worker trains from the beginning of the round.
        num_records: of its shard.
        epochs: passes over them.
        seed: of its orders.
        streamed: whether its shard is too large to be kept.
        piece_size: records of a piece of its stream.
        taken: pieces of the stream that have been handed out.
    """

    task: int
    client: int
    start: int
    num_records: int
    epochs: int
    seed: int
    streamed: bool
    piece_size: int = STREAMED_PIECE
    taken: int = field(default=0)

    def needs(self, now: int) -> Iterator[tuple[int, Piece]]:
        """Its pieces, each with the time when it is needed; `now`: how far the round is."""
        start = max(self.start, now)
        if not self.streamed:
            yield from ((start, piece) for piece in kept_pieces("train", self.task, self.client, self.num_records))
            return
        for number in range(max(self.taken - _BEHIND, 0), self._num_pieces):
            yield start + max(number - self.taken, 0) * self.piece_size, self._piece(number)

    def foreseen(self, piece: Piece) -> tuple[Piece, tuple[int, ...]] | None:
        """The piece of its stream that holds these records, and where in it they are; None if none does that is near.

        What lies before that piece, but for a few, counts as taken from then on.
        """
        for number in range(max(self.taken - _BEHIND, 0), min(self.taken + _AHEAD, self._num_pieces)):
            whole = self._piece(number)
            places = {row: place for place, row in enumerate(whole.rows)}
            if all(row in places for row in piece.rows):
                self.taken = max(self.taken, number + 1)
                return whole, tuple(places[row] for row in piece.rows)
        return None

    @property
    def _num_pieces(self) -> int:
        """In all epochs."""
        return self.epochs * -(-self.num_records // self.piece_size)

    def _piece(self, number: int) -> Piece:
        epoch, place = divmod(number, -(-self.num_records // self.piece_size))
        order = _order(self.num_records, self.seed, epoch)[place * self.piece_size :][: self.piece_size]
        return Piece("train", self.task, tuple(order.tolist()), self.client)


class Forecast:
    """The order in which a run needs its pieces.

    Args:
        experiment: the run.
        epochs: of a client's training.
        is_streamed: whether the shard of a (task, client) is too large to be kept.
    """

    def __init__(self, experiment: "Experiment", epochs: int, is_streamed: Callable[[int, int], bool]):
        self._experiment = experiment
        self._epochs = epochs
        self._is_streamed = is_streamed
        selection = SELECTIONS[experiment.config.benchmark.selection]
        self._population = StreamPopulation(experiment.stream, experiment.setting, _no_feature, selection)
        self._jobs: dict[tuple[int, int], list[Job]] = {}

    def job(self, stage: int, round: int, task: int, client: int, start: int = 0) -> Job:
        """A client of a round."""
        step = self._experiment.config.train.batch_size
        return Job(
            task=task,
            client=client,
            start=start,
            num_records=self._experiment.stream.num_examples(task, client),
            epochs=self._epochs,
            seed=client_seed(self._experiment.setting.seed, stage, round, client),
            streamed=self._is_streamed(task, client),
            piece_size=step * max(STREAMED_PIECE // step, 1),
        )

    def jobs(self, stage: int, round: int) -> list[Job]:
        """The clients of a round in the order in which workers are expected to take them: the largest first."""
        stream = self._experiment.stream
        chosen = [
            (stream.num_examples(task, client), task, client) for task, client in self._population.chosen(stage, round)
        ]
        free = [0] * self._experiment.config.runtime.num_workers
        jobs = []
        for num_records, task, client in sorted(chosen, key=lambda one: -one[0]):
            start = heapq.heappop(free)
            heapq.heappush(free, start + self._epochs * num_records)
            jobs.append(self.job(stage, round, task, client, start))
        return jobs

    def questions(self, stage: int) -> Iterator[Piece]:
        """What is asked after a stage, if anything is; -1 is zero-shot."""
        experiment = self._experiment
        if stage < 0 or experiment.is_last(stage) or experiment.config.evaluation.every_stage:
            for name in experiment.evaluated(stage):
                yield from (Piece("test", name, places) for places in experiment.batches[name])

    def after(self, stage: int, round: int | None) -> Iterator[Piece]:
        """What is needed behind a round, or (None) behind the questions of a stage, to the end of the run."""
        setting = self._experiment.setting
        for later in range(stage, setting.num_stages):
            if later > stage or round is not None:
                first = 0 if later > stage or round is None else round + 1
                for number in range(first, setting.num_rounds):
                    if (later, number) not in self._jobs:
                        self._jobs[later, number] = self.jobs(later, number)
                    yield from in_order(self._jobs[later, number])
                yield from self.questions(later)


def in_order(jobs: Sequence[Job]) -> Iterator[Piece]:
    """The pieces of a round's clients, as they are needed from where the round is."""
    now = max((job.start + job.taken * job.piece_size for job in jobs if job.taken), default=0)
    yield from (piece for _, piece in heapq.merge(*(job.needs(now) for job in jobs), key=lambda need: need[0]))


def kept_pieces(part: Part, task: int, client: int, num_records: int) -> list[Piece]:
    """A client's shard in pieces, in the order of its records."""
    return list(pieces_of(part, task, range(num_records), KEPT_PIECE, client))


def pieces_of(part: Part, name: int | str, rows: Sequence[int], size: int, client: int = -1) -> Iterator[Piece]:
    """Records in pieces of a size, the last possibly short."""
    for start in range(0, len(rows), size):
        yield Piece(part, name, tuple(rows[start : start + size]), client)


@lru_cache(maxsize=8)
def _order(num_records: int, seed: int, epoch: int) -> np.ndarray:
    return epoch_order(num_records, seed, epoch)


def _no_feature(task: int, client: int) -> NoReturn:
    raise AssertionError("a forecast asks for no features")
