"""Ray Data: reads, decodes and tokenises records in parallel and serves each worker the shard that it trains on.

What fits the budget is prepared once, in one execution for as many coming stages as fit, and stays in the object
store; a worker then maps a client's blocks into its memory without copying. A shard beyond the budget is streamed:
its records go through an execution of their own, in the order in which the client wants them. Both give the same
samples in the same order.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray
import ray.data
from torch import Tensor

from fcit_ray.data.loading.samples import Sample, SampleEncoder
from fcit_ray.data.loading.shards import mean_feature
from fcit_ray.data.records.layout import Record
from fcit_ray.runtime.blocks import RECORD, Part, Prepare, dataset_of, from_table, prepare_blocks
from fcit_ray.storage.location import absolute

if TYPE_CHECKING:  # The tasks that read and decode import this module: nothing heavy that they do not need.
    from fcit_ray.experiment.opening import Experiment

_BATCH = 32

Unit = tuple[Literal["train", "test"], int | str]
"""What is prepared and evicted as a whole: a task's training records or a dataset's test records."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedShard:
    """A block in the object store."""

    block: Any
    size: int

    def __len__(self) -> int:
        return self.size

    def read(self, order: np.ndarray) -> Iterable[Sample]:
        samples = list(from_table(ray.get(self.block)))
        return (samples[index] for index in order)


@dataclass(frozen=True)
class StreamedShard:
    """Records that are prepared while they are read, each time anew."""

    rows: tuple[str, ...]
    encoder: SampleEncoder
    part: Part

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, order: np.ndarray) -> Iterable[Sample]:
        rows = [self.rows[index] for index in order]
        pieces = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        dataset = dataset_of(pieces, self.encoder, self.part)
        # Block by block: to cut them anew would mix a block of samples with one that says why there are none.
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
            yield from from_table(table)


class RayShards:
    """The runtime's shard source.

    Args:
        experiment: whose records are prepared.
        budget: bytes of prepared samples to keep in the object store at a time.
        prepare: makes blocks of records, one of each piece; a sweep's trials have one that keeps them for each other.
    """

    def __init__(self, experiment: "Experiment", budget: int, prepare: Prepare | None = None):
        self._encoder = sample_encoder(experiment)
        self._experiment = experiment
        self._budget = budget
        self._prepare = prepare or prepare_blocks
        self._blocks: dict[Unit, dict[int, CachedShard]] = {}
        self._features: dict[tuple[int, int], Tensor] = {}
        self._bytes: dict[Unit, int] = {}

    def prepare(self, stage: int) -> None:
        wanted = self._units(stage)
        if all(unit in self._blocks or self._size(unit) > self._budget for unit in wanted):
            return
        window: list[Unit] = []
        used = 0
        for later in range(stage, max(stage, self._experiment.setting.num_stages - 1) + 1):
            for unit in self._units(later):
                if unit not in window and used + self._size(unit) <= self._budget:
                    window.append(unit)
                    used += self._size(unit)
        self._blocks = {unit: blocks for unit, blocks in self._blocks.items() if unit in window}
        for part in ("train", "test"):
            self._execute([unit for unit in window if unit[0] == part and unit not in self._blocks], part)
        streamed = [unit for unit in wanted if unit not in self._blocks]
        if streamed:
            _log.info("beyond runtime.cache_mb, streamed: %s", ", ".join(str(name) for _, name in streamed))

    def feature(self, task: int, client: int) -> Tensor:
        key = (task, client)
        if key not in self._features:
            shard: CachedShard | StreamedShard = self.train_shard(task, client)
            if isinstance(shard, StreamedShard):
                shard = StreamedShard(shard.rows, shard.encoder, "feature")
            samples = shard.read(np.arange(len(shard)))
            self._features[key] = mean_feature(sample["feature"] for sample in samples)
        return self._features[key]

    def train_shard(self, task: int, client: int) -> CachedShard | StreamedShard:
        return self._shard(("train", task), client)

    def test_shard(self, dataset: str, places: Sequence[int]) -> CachedShard | StreamedShard:
        unit: Unit = ("test", dataset)
        if unit in self._blocks:
            return self._blocks[unit][self._experiment.batches[dataset].index(tuple(places))]
        records = self._experiment.tests[dataset]
        return StreamedShard(tuple(_json(records[place]) for place in places), self._encoder, "test")

    def _shard(self, unit: Unit, piece: int) -> CachedShard | StreamedShard:
        if unit in self._blocks:
            return self._blocks[unit][piece]
        return StreamedShard(tuple(map(_json, self._pieces(unit)[piece])), self._encoder, unit[0])

    def _pieces(self, unit: Unit) -> list[list[Record]]:
        """A unit's records as they are handed out: by client, or by evaluation batch."""
        part, name = unit
        stream = self._experiment.stream
        if part == "train":
            assert isinstance(name, int)
            return [stream.shard(name, client) for client in range(len(stream.shards[name]))]
        records = self._experiment.tests[str(name)]
        return [[records[place] for place in places] for places in self._experiment.batches[str(name)]]

    def _units(self, stage: int) -> list[Unit]:
        schedule = self._experiment.stream.schedule
        trained: list[Unit] = []
        if stage >= 0 and schedule:
            trained = [("train", task) for task in sorted(set(schedule[stage]))]
        return trained + [("test", name) for name in self._experiment.evaluated(stage)]

    def _size(self, unit: Unit) -> int:
        """Bytes of a unit once prepared, from its first record of each number of pictures.

        Exact where a model's images are of one size and texts of one length.
        """
        if unit not in self._bytes:
            pieces = self._pieces(unit)
            encode = self._encoder.encode_train if unit[0] == "train" else self._encoder.encode_test
            alike: dict[int, list[Record]] = {}
            for record in (record for piece in pieces for record in piece):
                alike.setdefault(len(record.images), []).append(record)
            self._bytes[unit] = sum(
                len(records) * sum(array.nbytes for array in encode(records[0]).values()) for records in alike.values()
            )
        return self._bytes[unit]

    def _execute(self, units: Sequence[Unit], part: Part) -> None:
        """One Ray Data execution for all these units.

        Raises:
            DataError, ModelError, RunFailed: what a task met, once the others are done.
        """
        pieces = [(unit, number, piece) for unit in units for number, piece in enumerate(self._pieces(unit))]
        pieces = [item for item in pieces if item[2]]
        if not pieces:
            return
        rows = [[_json(record) for record in piece] for _, _, piece in pieces]
        blocks = self._prepare(rows, self._encoder, part)
        for (unit, number, piece), block in zip(pieces, blocks, strict=True):
            self._blocks.setdefault(unit, {})[number] = CachedShard(block, len(piece))


def sample_encoder(experiment: "Experiment") -> SampleEncoder:
    """The record encoder of a run."""
    config = experiment.config
    root = absolute(config.benchmark.root)
    model = config.model
    return SampleEncoder(root, model.path, model.prompt, model.max_length, model.identity, model.identity_encoder)


def _json(record: Record) -> str:
    return RECORD.dump_json(record).decode()
