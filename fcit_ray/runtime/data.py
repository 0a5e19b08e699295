"""Ray Data: reads, decodes and tokenises records in parallel and serves each worker the shard that it trains on.

Records are prepared in pieces, ahead of need and in its order (`forecast`, `lookahead`), and kept in the object store
within a budget: of shards that are small beside it, whole, for as often as they are wanted; of others what is needed
next, in the order in which the client wants it. A worker maps a piece into its memory without copying. Both give the
same samples in the same order.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from fcit_ray.data.loading.features import FeatureTable
from fcit_ray.data.loading.samples import Sample, SampleEncoder
from fcit_ray.data.loading.shards import mean_feature
from fcit_ray.data.records.images import Opener
from fcit_ray.data.records.layout import Record
from fcit_ray.experiment.opening import local_training
from fcit_ray.runtime.blocks import RECORD, Block, Prepare, Wanted, prepare_blocks
from fcit_ray.runtime.forecast import Forecast, Job, Piece, in_order, kept_pieces
from fcit_ray.runtime.lookahead import Lookahead
from fcit_ray.runtime.prepared import WAIT_S, Ask, PreparedShard, samples_of
from fcit_ray.runtime.shared_features import share
from fcit_ray.storage.location import absolute

if TYPE_CHECKING:  # The tasks that read and decode import this module: nothing heavy that they do not need.
    from fcit_ray.experiment.opening import Experiment

_LEAST_RECORDS = 256
"""For each worker, kept ahead of it however small the budget is: seconds of training."""
_UNKNOWN = 2**20
"""Bytes of a record that cannot be prepared."""
_log = logging.getLogger(__name__)


class RayShards:
    """The runtime's shard source.

    Args:
        experiment: whose records are prepared.
        budget: bytes of prepared samples to keep in the object store at a time.
        prepare: makes blocks of records; a sweep's trials have one that keeps them for each other.
        ask: how a worker asks for blocks; by default as this process does.
        warn: told of what could not be prepared, before it is needed.
    """

    def __init__(
        self,
        experiment: "Experiment",
        budget: int,
        prepare: Prepare | None = None,
        ask: Ask | None = None,
        warn: Callable[[str], None] = _log.warning,
    ):
        self._encoder = sample_encoder(experiment)
        self._experiment = experiment
        self._prepare = prepare or prepare_blocks
        self._ask = ask or self._wait_for
        self._warn = warn
        self._workers = experiment.config.runtime.num_workers
        self._budget = budget
        self._features: dict[tuple[int, int], Tensor] = {}
        self._bytes: dict[tuple[str, int | str], dict[int, int]] = {}
        self._sizes: dict[Piece, int] = {}
        self._shards: dict[tuple[int, int], Sequence[Record]] = {}
        self._streamed: dict[tuple[int, int], bool] = {}
        self._forecast = Forecast(experiment, local_training(experiment.config).epochs, self.is_streamed)
        # What the next need follows from.
        self._lock = threading.Lock()
        self._place: tuple[int, int | None] = (0, 0)
        self._jobs: list[Job] = []
        self._asked_after: dict[Piece, bool] = {}  # questions handed out, and whether they have been taken
        self._lookahead: Lookahead | None = None

    def prepare(self, stage: int, round: int | None = None) -> None:
        """Make what is needed from here on, ahead of need; returns at once.

        Args:
            stage: -1 is before the first.
            round: that comes next; None: the questions after the stage.
        """
        jobs = [] if round is None else self._forecast.jobs(stage, round)
        with self._lock:
            self._place, self._jobs = (stage, round), jobs
            if round is None:
                self._asked_after.clear()
        self._ahead.look()

    def release(self, task: int, client: int) -> None:
        """A client of the round has been trained: what it alone needed makes room."""
        with self._lock:
            self._jobs = [job for job in self._jobs if (job.task, job.client) != (task, client)]
        self._ahead.look()

    @property
    def encoder(self) -> SampleEncoder:
        return self._encoder

    def use(self, features: FeatureTable) -> None:
        self._encoder = replace(self._encoder, features=share(features))

    def feature(self, task: int, client: int) -> Tensor:
        key = (task, client)
        if key not in self._features and self._has_features:
            self._features[key] = mean_feature(map(self._encoder.encode_feature, self._shard(task, client)))
        if key not in self._features:
            self._features[key] = mean_feature(sample["feature"] for sample in self._featured(task, client))
        return self._features[key]

    def train_shard(self, task: int, client: int) -> PreparedShard:
        size = self._experiment.stream.num_examples(task, client)
        if self.is_streamed(task, client):
            stage, round = self._place
            return PreparedShard((), size, self._ask, stream=self._forecast.job(stage, round or 0, task, client))
        pieces = kept_pieces("train", task, client, size)
        return PreparedShard(pieces, size, self._ask, self._ahead.there(pieces))

    def test_shard(self, dataset: str, places: Sequence[int]) -> PreparedShard:
        piece = Piece("test", dataset, tuple(places))
        with self._lock:
            self._asked_after[piece] = False
        return PreparedShard([piece], len(piece.rows), self._ask)

    def blocks(self, pieces: Sequence[Piece], timeout_s: float) -> list[Block] | None:
        """Wait for pieces; None if they are not there within the time: ask again.

        Raises:
            Exception: what Ray Data met; what a record is guilty of is in its block.
        """
        with self._lock:
            found = [self._foreseen(piece) for piece in pieces]
        blocks = self._ahead.take([piece for piece, _ in found], timeout_s)
        if blocks is None:
            return None
        with self._lock:
            self._asked_after |= {piece: True for piece in pieces if piece in self._asked_after}
        self._ahead.look()
        return [
            block if block.failed else replace(block, rows=rows) for block, (_, rows) in zip(blocks, found, strict=True)
        ]

    def _foreseen(self, piece: Piece) -> tuple[Piece, tuple[int, ...] | None]:
        """A piece as it is made, and which rows of it are asked for: a part of what a client's stream has next."""
        for job in self._jobs:
            if job.streamed and piece.part == "train" and (job.task, job.client) == (piece.name, piece.client):
                return job.foreseen(piece) or (piece, None)
        return piece, None

    def close(self) -> None:
        """Prepare nothing more."""
        if self._lookahead is not None:
            self._lookahead.close()

    def is_streamed(self, task: int, client: int) -> bool:
        """Whether a shard is too large to be kept: all workers have one in hand, and the next one is to be ready."""
        key = (task, client)
        if key not in self._streamed:
            rows = range(self._experiment.stream.num_examples(task, client))
            size = self._bytes_of(Piece("train", task, tuple(rows), client))
            self._streamed[key] = size > self._budget // (self._workers + 1)
        return self._streamed[key]

    @property
    def _ahead(self) -> Lookahead:
        if self._lookahead is None:
            first = next(self._forecast.after(-1, None), None) or next(self._forecast.questions(-1), None)
            least = _LEAST_RECORDS * self._workers * self._size(replace(first, rows=first.rows[:1])) if first else 0
            self._lookahead = Lookahead(max(self._budget, least), self._needs, self._size, self._make, self._tell_of)
        return self._lookahead

    def _needs(self) -> Iterator[Piece]:
        """The order of need from where the run is."""
        with self._lock:
            place, jobs, asked = self._place, list(self._jobs), dict(self._asked_after)
        yield from self._feature_pieces(jobs)
        yield from in_order(jobs)
        yield from (piece for piece, taken in asked.items() if not taken)
        if place[1] is None and not asked:
            yield from self._forecast.questions(place[0])
        yield from self._forecast.after(*place)
        yield from (piece for piece, taken in asked.items() if taken)  # by another of the run's models

    def _make(self, pieces: Sequence[Piece], gently: bool) -> Iterator[Block]:
        wanted = [
            Wanted(piece.part, [_json(record) for record in self._records(piece)], self._is_passing(piece))
            for piece in pieces
        ]
        return self._prepare(wanted, self._encoder, gently)

    def _is_passing(self, piece: Piece) -> bool:
        return piece.part == "train" and self.is_streamed(int(piece.name), piece.client)

    def _tell_of(self, block: Block) -> None:
        """Nobody waits for it yet, and it may be mended by the time that somebody does."""
        try:
            samples_of(block)
        except Exception as error:
            self._warn(f"found ahead of need, the run will stop there unless it is mended: {error}")

    def _wait_for(self, pieces: Sequence[Piece]) -> list[Block]:
        while (blocks := self.blocks(pieces, WAIT_S)) is None:
            pass
        return blocks

    # Features.

    def _featured(self, task: int, client: int) -> Iterator[Sample]:
        """A client's records with their features at least, in their order."""
        pieces = kept_pieces("train", task, client, self._experiment.stream.num_examples(task, client))
        blocks = None if self.is_streamed(task, client) else self._ahead.there(pieces)
        if blocks is None and (self._is_cheap or self.is_streamed(task, client)):
            # All of the round's together: each execution has its price.
            with self._lock:
                jobs = list(self._jobs)
            own = [Piece("feature", piece.name, piece.rows, piece.client) for piece in pieces]
            self._wait_for(list(dict.fromkeys([*self._feature_pieces(jobs), *own])))
            blocks = self._wait_for(own)
        return (sample for block in blocks or self._wait_for(pieces) for sample in samples_of(block))

    def _feature_pieces(self, jobs: Sequence[Job]) -> Iterator[Piece]:
        """Needed before a round is planned, of shards that will not be there by then."""
        for job in () if self._has_features else jobs:
            if (job.task, job.client) not in self._features and (self._is_cheap or job.streamed):
                yield from kept_pieces("feature", job.task, job.client, job.num_records)

    @property
    def _has_features(self) -> bool:
        """Whether a record's feature is looked up by its text alone."""
        return self._encoder.features is not None and self._encoder.identity == "text"

    @property
    def _is_cheap(self) -> bool:
        """Whether features by themselves cost next to nothing: an average of the base's own word vectors."""
        return self._encoder.identity == "text" and self._encoder.identity_encoder == "base"

    # Records and bytes.

    def _records(self, piece: Piece) -> list[Record]:
        if piece.part == "test":
            records: Sequence[Record] = self._experiment.tests[str(piece.name)]
        else:
            assert isinstance(piece.name, int)
            records = self._shard(piece.name, piece.client)
        return [records[row] for row in piece.rows]

    def _shard(self, task: int, client: int) -> Sequence[Record]:
        if (task, client) not in self._shards:
            self._shards[task, client] = self._experiment.stream.shard(task, client)
        return self._shards[task, client]

    def _size(self, piece: Piece) -> int:
        if piece not in self._sizes:
            if len(self._sizes) > 100_000:
                self._sizes.clear()
            self._sizes[piece] = self._bytes_of(piece)
        return self._sizes[piece]

    def _bytes_of(self, piece: Piece) -> int:
        """Bytes of a piece once prepared: of each record those of the first that was met with as many pictures.

        Exact where a model's images are of one size and texts of one length.
        """
        known = self._bytes.setdefault((piece.part, piece.name), {})
        total = 0
        for record in self._records(piece):
            count = len(record.images)
            if count not in known:
                try:
                    known[count] = self._bytes_of_record(piece.part, record)
                except Exception:  # whoever needs the record will be told why
                    total += _UNKNOWN
                    continue
            total += known[count]
        return total

    def _bytes_of_record(self, part: str, record: Record) -> int:
        if part == "feature":
            return self._encoder.encode_feature(record).nbytes
        encode = self._encoder.encode_train if part == "train" else self._encoder.encode_test
        return sum(array.nbytes for array in encode(record).values())


def sample_encoder(experiment: "Experiment") -> SampleEncoder:
    """The record encoder of a run."""
    config = experiment.config
    root = absolute(config.benchmark.root)
    model, opener = config.model, Opener(config.benchmark.follow_links_to)
    return SampleEncoder(
        root, model.path, model.prompt, model.max_length, model.identity, model.identity_encoder, opener
    )


def _json(record: Record) -> str:
    return RECORD.dump_json(record).decode()
