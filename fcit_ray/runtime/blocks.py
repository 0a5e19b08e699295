"""Records to blocks of samples by Ray Data: read, decoded and tokenised in parallel, a block for each piece asked for.

An error in a task comes back as data. Raised, it would be wrapped by Ray Data and by Ray, which both have dropped the
cause in one version or another, and with it file, record and reason.
"""

import json
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from pydantic import TypeAdapter

from fcit_ray.errors import UserError
from fcit_ray.importing import swift_imports

with swift_imports():  # a task begins with it
    from fcit_ray.data.loading.samples import Sample, SampleEncoder
    from fcit_ray.data.records.layout import Record

RECORD = TypeAdapter(Record)
CPUS_PER_TASK = 0.5  # a read or decode task; small, so that it finds room beside the workers on a box of two cores
_RECORDS_PER_PROCESS = 1000
_FEW = 1000
"""Records that are made where they are asked for: a process of their own would take as long to start."""
_FAILURE = "failure"  # column of a table that holds an error instead of samples

Part = Literal["train", "test", "feature"]
Prepare = Callable[[Sequence[Sequence[str]], SampleEncoder, Part], list[Any]]
"""Pieces of records as JSON to a reference to a block of samples for each piece."""


def quiet() -> None:
    """Silence Ray Data in this process; keep the order of records, on which the bits depend."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = None  # a shard is one block, however large
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Samples as Arrow: for each array a column of bytes, one of its shape and one of its type; null where it has none.

    Samples with and without a picture may lie in one table.
    """
    columns: dict[str, pa.Array] = {}
    for key in dict.fromkeys(key for sample in samples for key in sample):
        arrays = [sample.get(key) for sample in samples]
        columns[key] = pa.array([None if a is None else a.tobytes() for a in arrays], pa.large_binary())
        columns[f"{key}.shape"] = pa.array([None if a is None else a.shape for a in arrays], pa.list_(pa.int64()))
        columns[f"{key}.dtype"] = pa.array([None if a is None else a.dtype.str for a in arrays], pa.string())
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
            if table[key][row].is_valid
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
        records = [RECORD.validate_json(text) for text in texts]
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


def prepare_blocks(pieces: Sequence[Sequence[str]], encoder: SampleEncoder, part: Part) -> list[Any]:
    """One Ray Data execution over pieces of records (JSON each); a reference to a block of samples for each piece.

    Raises:
        DataError, ModelError, RunFailed: what a task met, once the others are done.
    """
    if sum(map(len, pieces)) <= _FEW and encoder.identity == "text" and encoder.identity_encoder == "base":
        return _made_here(pieces, encoder, part)
    prepared = dataset_of(pieces, encoder, part).materialize()
    blocks: list[Any] = prepared.to_arrow_refs()
    if prepared.count() != sum(map(len, pieces)):  # of the blocks' metadata: none is fetched for it
        for block in blocks:
            _raise_failure(ray.get(block))
    assert len(blocks) == len(pieces), f"Ray Data made {len(blocks)} blocks of {len(pieces)}"
    return blocks


def _made_here(pieces: Sequence[Sequence[str]], encoder: SampleEncoder, part: Part) -> list[Any]:
    """The same blocks by this process."""
    encode, threads = _Encode(encoder, part), torch.get_num_threads()
    try:
        tables = [encode(pa.table({"records": [list(rows)]})) for rows in pieces]
    finally:
        torch.set_num_threads(threads)
    for table in tables:
        _raise_failure(table)
    return [ray.put(table) for table in tables]


def dataset_of(pieces: Sequence[Sequence[str]], encoder: SampleEncoder, part: Part) -> ray.data.Dataset:
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
