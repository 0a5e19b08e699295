"""Records to blocks of samples by Ray Data: read, decoded and tokenised in parallel, a block for each piece asked for.

An error in a task comes back as data. Raised, it would be wrapped by Ray Data and by Ray, which both have dropped the
cause in one version or another, and with it file, record and reason. And it belongs to whoever needs the piece: others
of the same execution are as good as ever.
"""

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fcit_ray.importing import swift_imports

with swift_imports():  # a task begins with it
    import numpy as np
    import pyarrow as pa
    import ray
    import ray.data
    import torch
    from pydantic import TypeAdapter

    from fcit_ray.data.loading.samples import Sample, SampleEncoder
    from fcit_ray.data.records.layout import Record
    from fcit_ray.errors import UserError

RECORD = TypeAdapter(Record)
CPUS_PER_TASK = 0.5  # a read or decode task; small, so that it finds room beside the workers on a box of two cores
_RECORDS_PER_PROCESS = 1000
_FEW = 1000
"""Records that are made where they are asked for: a process of their own would take as long to start."""
_FAILURE = "failure"  # column of a table that holds an error instead of samples
_NICE = 10  # of a thread that decodes ahead of need: it has a tenth of what a trainer has where both want a core

Part = Literal["train", "test", "feature"]


@dataclass(frozen=True)
class Wanted:
    """A piece to be prepared.

    Attributes:
        part: what is made of its records.
        records: JSON each.
        passing: whether it will not be wanted again: a piece of a stream.
    """

    part: Part
    records: Sequence[str]
    passing: bool = False


@dataclass(frozen=True)
class Block:
    """What was made of a piece.

    Attributes:
        ref: to a table of samples in the object store (`from_table`).
        failed: whether it holds what stopped their making instead.
        rows: of the table that are meant, in this order; None: all.
    """

    ref: Any
    failed: bool = False
    rows: tuple[int, ...] | None = None


class Prepare(Protocol):
    """Makes blocks of pieces, in their order, each as soon as it is there."""

    def __call__(self, pieces: Sequence[Wanted], encoder: SampleEncoder, gently: bool = False, /) -> Iterator[Block]:
        """`gently`: nobody waits for them, so whoever wants a CPU goes first."""
        ...


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


def from_table(table: pa.Table, rows: Iterable[int] | None = None) -> Iterator[Sample]:
    """The samples of a table, or of these rows of it; their arrays are read-only views of its memory.

    Raises:
        DataError, ModelError, RunFailed: the table holds what stopped their making.
    """
    raise_failure(table)
    keys = [name.removesuffix(".dtype") for name in table.column_names if name.endswith(".dtype")]
    for row in range(table.num_rows) if rows is None else rows:
        yield {
            key: np.frombuffer(table[key][row].as_buffer(), table[f"{key}.dtype"][row].as_py()).reshape(
                table[f"{key}.shape"][row].as_py()
            )
            for key in keys
            if table[key][row].is_valid
        }


@dataclass(frozen=True)
class _Encode:
    """The Ray Data map: a piece's records as JSON to a table of samples, or to one of what stopped it."""

    encoder: SampleEncoder
    gently: bool

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not self.gently or sys.platform != "linux":  # elsewhere a thread has no priority of its own
            return self._made(batch)
        # A thread of its own: none can take its own priority back, and Ray uses the process for other work later.
        made: list[pa.Table] = []

        def make() -> None:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            made.append(self._made(batch))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def _made(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(1)  # the bits of an image's feature must not depend on how many there are
        [part], [texts] = batch["part"].to_pylist(), batch["records"].to_pylist()
        try:
            return self._table(part, texts)
        except Exception as error:
            kind = type(error).__name__ if isinstance(error, UserError) else ""
            said = str(error) if kind else "".join(traceback.format_exception(error)).strip()
            # A row more than there are records: so the number of rows tells, which Ray keeps with the blocks.
            return pa.table({_FAILURE: [json.dumps([kind, said])] * (len(texts) + 1)})

    def _table(self, part: Part, texts: Sequence[str]) -> pa.Table:
        records = [RECORD.validate_json(text) for text in texts]
        if part == "feature":
            return to_table([{"feature": self.encoder.encode_feature(record)} for record in records])
        encode = self.encoder.encode_train if part == "train" else self.encoder.encode_test
        return to_table([encode(record) for record in records])


def raise_failure(table: pa.Table) -> None:
    """Raise what a task could not do, as the user should read it; nothing where the table holds samples.

    Raises:
        DataError, ModelError, RunFailed: what stopped their making.
    """
    if _FAILURE not in table.column_names:
        return
    from fcit_ray.runtime.errors import MENDABLE, RunFailed  # heavy, and tasks do not come here

    kind, said = json.loads(table[_FAILURE][0].as_py())
    raise {error.__name__: error for error in MENDABLE}.get(kind, RunFailed)(said)


def prepare_blocks(pieces: Sequence[Wanted], encoder: SampleEncoder, gently: bool = False, /) -> Iterator[Block]:
    """One Ray Data execution over pieces of records; a block for each, in their order, each as soon as it is there.

    Whoever stops early stops what was not yet made.
    """
    cheap = encoder.identity == "text" and encoder.identity_encoder == "base"
    if cheap and sum(len(piece.records) for piece in pieces) <= _FEW:
        yield from _made_here(pieces, encoder, gently)
        return
    bundles = _dataset_of(pieces, encoder, gently).iter_internal_ref_bundles()
    # Of the blocks' metadata: none is fetched for it.
    blocks = (entry for bundle in bundles for entry in zip(bundle.block_refs, bundle.metadata, strict=True))
    for piece, (ref, metadata) in zip(pieces, blocks, strict=True):
        yield Block(ref, failed=metadata.num_rows != len(piece.records))


def _made_here(pieces: Sequence[Wanted], encoder: SampleEncoder, gently: bool) -> Iterator[Block]:
    """The same blocks by this process."""
    encode, threads = _Encode(encoder, gently), torch.get_num_threads()
    for piece in pieces:
        try:
            table = encode(pa.table({"part": [piece.part], "records": [list(piece.records)]}))
        finally:
            torch.set_num_threads(threads)
        yield Block(ray.put(table), failed=table.num_rows != len(piece.records))


def _dataset_of(pieces: Sequence[Wanted], encoder: SampleEncoder, gently: bool) -> ray.data.Dataset:
    """Prepared records; each piece goes in as a block of its own and comes out as one, in the same order."""
    quiet()
    # `from_items`, one piece an item: unlike `from_arrow` it starts no task of its own.
    items = ray.data.from_items(
        [{"part": piece.part, "records": list(piece.records)} for piece in pieces], override_num_blocks=len(pieces)
    )
    # Each process that decodes spends seconds on its imports: one for as many records as take about that long.
    processes = 1 + sum(len(piece.records) for piece in pieces) // _RECORDS_PER_PROCESS
    # No batch size: one task a block. Nothing else runs (no split, no repartition): Ray gives those a whole CPU each,
    # for which they would wait for ever where workers leave only a part of one.
    return items.map_batches(
        _Encode(encoder, gently),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=CPUS_PER_TASK,
        compute=ray.data.TaskPoolStrategy(size=processes),
    )
