"""Ray Data: reads, decodes and tokenises records in parallel and serves each worker the shard that it trains on.

What fits the budget is prepared once, in one execution for as many coming stages as fit, and stays in the object
store; a worker then maps a client's blocks into its memory without copying. A shard beyond the budget is streamed:
its records go through an execution of their own, in the order in which the client wants them. Both give the same
samples in the same order.

An error in a task comes back as data. Raised, it would be wrapped by Ray Data and by Ray, which both have dropped the
cause in one version or another, and with it file, record and reason.
"""

import json
import logging
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from pydantic import TypeAdapter
from torch import Tensor

from fcit_ray.data.loading.samples import Sample, SampleEncoder
from fcit_ray.data.loading.shards import mean_feature
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import UserError
from fcit_ray.storage.location import absolute

if TYPE_CHECKING:  # The tasks that read and decode import this module: nothing heavy that they do not need.
    from fcit_ray.experiment.opening import Experiment

_RECORD = TypeAdapter(Record)
_BATCH = 32
_RECORDS_PER_PROCESS = 1000
_FAILURE = "failure"  # column of a table that holds an error instead of samples
CPUS_PER_TASK = 0.5  # a read or decode task; small, so that it finds room beside the workers on a box of two cores

Part = Literal["train", "test", "feature"]
Unit = tuple[Literal["train", "test"], int | str]
"""What is prepared and evicted as a whole: a task's training records or a dataset's test records."""

_log = logging.getLogger(__name__)


def quiet() -> None:
    """Silence Ray Data in this process; keep the order of records, on which the bits depend."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = None  # a shard is one block, however large
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Samples as Arrow: for each array a column of bytes, one of its shape and one of its type."""
    columns: dict[str, pa.Array] = {}
    for key in samples[0]:
        columns[key] = pa.array([sample[key].tobytes() for sample in samples], pa.large_binary())
        columns[f"{key}.shape"] = pa.array([sample[key].shape for sample in samples], pa.list_(pa.int64()))
        columns[f"{key}.dtype"] = pa.array([sample[key].dtype.str for sample in samples], pa.string())
    return pa.table(columns)


def from_table(table: pa.Table) -> Iterator[Sample]:
    """The samples of a table; their arrays are read-only views of its memory.

    Raises:
        DataError, ModelError, RunFailed: the table holds what stopped their making.
    """
    _raise_failure(table)
    keys = [name.removesuffix(".dtype") for name in table.column_names if name.endswith(".dtype")]
    for row in range(table.num_rows):
        yield {
            key: np.frombuffer(table[key][row].as_buffer(), table[f"{key}.dtype"][row].as_py()).reshape(
                table[f"{key}.shape"][row].as_py()
            )
            for key in keys
        }


@dataclass(frozen=True)
class _Encode:
    """The Ray Data map: a batch of records as JSON to a table of samples, or to one of what stopped it."""

    encoder: SampleEncoder
    part: Part

    def __call__(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(1)  # the bits of an image's feature must not depend on how many there are
        texts = [text for rows in batch["records"].to_pylist() for text in rows]
        try:
            return self._table(texts)
        except Exception as error:
            kind = type(error).__name__ if isinstance(error, UserError) else ""
            said = str(error) if kind else "".join(traceback.format_exception(error)).strip()
            # A row more than there are records: so the number of rows tells, which Ray keeps with the blocks.
            return pa.table({_FAILURE: [json.dumps([kind, said])] * (len(texts) + 1)})

    def _table(self, texts: Sequence[str]) -> pa.Table:
        records = [_RECORD.validate_json(text) for text in texts]
        if self.part == "feature":
            return to_table([{"feature": self.encoder.encode_feature(record)} for record in records])
        encode = self.encoder.encode_train if self.part == "train" else self.encoder.encode_test
        return to_table([encode(record) for record in records])


def _raise_failure(table: pa.Table) -> None:
    """Raise what a task could not do, as the user should read it."""
    if _FAILURE not in table.column_names:
        return
    from fcit_ray.runtime.errors import MENDABLE, RunFailed  # heavy, and tasks do not come here

    kind, said = json.loads(table[_FAILURE][0].as_py())
    raise {error.__name__: error for error in MENDABLE}.get(kind, RunFailed)(said)


def _dataset(pieces: Sequence[Sequence[str]], encoder: SampleEncoder, part: Part) -> ray.data.Dataset:
    """Prepared records; each piece goes in as a block of its own and comes out as one, in the same order."""
    quiet()
    # `from_items`, one piece an item: unlike `from_arrow` it starts no task of its own.
    items = ray.data.from_items([{"records": list(rows)} for rows in pieces], override_num_blocks=len(pieces))
    # Each process that decodes spends seconds on its imports: one for as many records as take about that long.
    processes = 1 + sum(map(len, pieces)) // _RECORDS_PER_PROCESS
    # No batch size: one task a block. Nothing else runs (no split, no repartition): Ray gives those a whole CPU each,
    # for which they would wait for ever where workers leave only a part of one.
    return items.map_batches(
        _Encode(encoder, part),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=CPUS_PER_TASK,
        compute=ray.data.TaskPoolStrategy(size=processes),
    )


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
        dataset = _dataset(pieces, self.encoder, self.part)
        # Block by block: to cut them anew would mix a block of samples with one that says why there are none.
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
            yield from from_table(table)


class RayShards:
    """The runtime's shard source.

    Args:
        experiment: whose records are prepared.
        budget: bytes of prepared samples to keep in the object store at a time.
    """

    def __init__(self, experiment: "Experiment", budget: int):
        config = experiment.config
        self._encoder = sample_encoder(experiment)
        self._experiment = experiment
        self._budget = budget
        self._chunk = config.evaluation.batch_size
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

    def test_shard(self, dataset: str, start: int, stop: int) -> CachedShard | StreamedShard:
        assert start % self._chunk == 0, "test sets are prepared in pieces of evaluation.batch_size"
        return self._shard(("test", dataset), start // self._chunk)

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
        return [records[start : start + self._chunk] for start in range(0, len(records), self._chunk)]

    def _units(self, stage: int) -> list[Unit]:
        schedule = self._experiment.stream.schedule
        trained: list[Unit] = []
        if stage >= 0 and schedule:
            trained = [("train", task) for task in sorted(set(schedule[stage]))]
        return trained + [("test", name) for name in self._experiment.evaluated(stage)]

    def _size(self, unit: Unit) -> int:
        """Bytes of a unit once prepared, from its first record: exact where a model's images are of one size."""
        if unit not in self._bytes:
            pieces = self._pieces(unit)
            encode = self._encoder.encode_train if unit[0] == "train" else self._encoder.encode_test
            first = next(record for piece in pieces for record in piece)
            self._bytes[unit] = sum(map(len, pieces)) * sum(array.nbytes for array in encode(first).values())
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
        prepared = _dataset(rows, self._encoder, part).materialize()
        blocks = prepared.to_arrow_refs()
        if prepared.count() != sum(map(len, rows)):  # of the blocks' metadata: none is fetched for it
            for block in blocks:
                _raise_failure(ray.get(block))
        assert len(blocks) == len(pieces), f"Ray Data made {len(blocks)} blocks of {len(pieces)}"
        for (unit, number, piece), block in zip(pieces, blocks, strict=True):
            self._blocks.setdefault(unit, {})[number] = CachedShard(block, len(piece))


def sample_encoder(experiment: "Experiment") -> SampleEncoder:
    """The record encoder of a run."""
    config = experiment.config
    root = absolute(config.benchmark.root)
    model = config.model
    return SampleEncoder(root, model.path, model.prompt, model.max_length, model.identity, model.identity_encoder)


def _json(record: Record) -> str:
    return _RECORD.dump_json(record).decode()
