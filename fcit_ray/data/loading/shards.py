"""Prepared records of one client or one piece of a test set, however they reach the process that needs them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fcit_ray.data.loading.batches import Batches, epoch_order
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.features import FeatureTable
from fcit_ray.data.loading.samples import Sample, SampleEncoder
from fcit_ray.data.partition.stream import Stream
from fcit_ray.data.records.layout import Record

RUN = 32
"""Records of an epoch's order, from its beginning on, that are read together: a shard may be prepared in such runs."""


class Shard(Protocol):
    """A sequence of samples that can be read in any order, any number of times; travels to the worker as a value."""

    def __len__(self) -> int: ...

    @property
    def at_hand(self) -> bool:
        """Whether `read` waits for nothing."""
        ...

    def read(self, order: np.ndarray) -> Iterable[Sample]:
        """The samples at these positions, in this order."""
        ...


class ShardSource(Protocol):
    """Where the server's loop gets shards from."""

    def prepare(self, stage: int, round: int | None = None) -> None:
        """Begin to make ready what is needed from here on, in the order of need; returns at once.

        Args:
            stage: -1 is before the first.
            round: that comes next; None: the evaluation after the stage.
        """
        ...

    def release(self, task: int, client: int) -> None:
        """A client of the round has been trained: what it alone needed may go."""
        ...

    @property
    def encoder(self) -> SampleEncoder:
        """What makes samples of the records."""
        ...

    def use(self, features: FeatureTable) -> None:
        """Take samples' features from a table instead of computing them; called before anything is prepared."""
        ...

    def feature(self, task: int, client: int) -> Tensor:
        """Identity token of a client's shard, (D,)."""
        ...

    def train_shard(self, task: int, client: int) -> Shard: ...

    def test_shard(self, dataset: str, places: Sequence[int]) -> Shard:
        """The questions at these positions of a dataset's file, in this order: those that are answered together."""
        ...


def training_batches(
    shard: Shard, collator: Collator, batch_size: int, seed: int, epochs: int, micro_batch_size: int | None = None
) -> Batches:
    """Every batch of every epoch, collated; each epoch in its own order, derived from the job's seed.

    The last batch of an epoch may be short. The order is of positions in the shard, so it does not depend on how the
    shard is stored or streamed. With a micro-batch size every batch comes in pieces of at most so many records, each
    padded to its own longest.
    """

    def batches(piece_size: int | None = None, /) -> Iterator[dict[str, Tensor]]:
        size = min(batch_size, piece_size or micro_batch_size or batch_size)
        for epoch in range(epochs):
            samples = iter(shard.read(epoch_order(len(shard), seed, epoch)))
            while batch := list(islice(samples, batch_size)):
                for start in range(0, len(batch), size):
                    yield collator.train(batch[start : start + size])

    return batches


def training_piece(
    shard: Shard, collator: Collator, batch_size: int, seed: int, micro_batch_size: int | None, step: int, number: int
) -> dict[str, Tensor]:
    """One micro-batch of those that `training_batches` gives, by its step (over all epochs) and its number in that."""
    epoch, step_of_epoch = divmod(step, -(-len(shard) // batch_size))
    size = min(batch_size, micro_batch_size or batch_size)
    start = step_of_epoch * batch_size + number * size
    stop = min(start + size, (step_of_epoch + 1) * batch_size, len(shard))
    first = start - start % RUN
    samples = shard.read(epoch_order(len(shard), seed, epoch)[first : stop + -stop % RUN])
    return collator.train(list(islice(samples, start - first, stop - first)))


def mean_feature(features: Iterable[np.ndarray]) -> Tensor:
    """Identity token of a shard: the mean over its records, (D,), summed in float64 in file order."""
    return torch.from_numpy(np.mean(np.stack(list(features)).astype(np.float64), axis=0).astype(np.float32))


@dataclass(frozen=True)
class LocalShard:
    """Samples in this process's memory."""

    samples: Sequence[Sample]
    at_hand: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, order: np.ndarray) -> Iterable[Sample]:
        return (self.samples[index] for index in order)


class LocalShards:
    """Prepares shards in this process when they are first asked for: the reference that Ray Data must match."""

    def __init__(self, stream: Stream, tests: dict[str, list[Record]], encoder: SampleEncoder):
        self._stream = stream
        self._tests = tests
        self.encoder = encoder
        self._train: dict[tuple[int, int], LocalShard] = {}

    def prepare(self, stage: int, round: int | None = None) -> None:
        """Nothing to do: records are encoded when they are asked for."""

    def release(self, task: int, client: int) -> None:
        """Nothing to do: all of it stays."""

    def use(self, features: FeatureTable) -> None:
        self.encoder = replace(self.encoder, features=features)

    def feature(self, task: int, client: int) -> Tensor:
        return mean_feature(sample["feature"] for sample in self.train_shard(task, client).samples)

    def train_shard(self, task: int, client: int) -> LocalShard:
        key = (task, client)
        if key not in self._train:
            records = self._stream.shard(task, client)
            self._train[key] = LocalShard([self.encoder.encode_train(record) for record in records])
        return self._train[key]

    def test_shard(self, dataset: str, places: Sequence[int]) -> LocalShard:
        records = self._tests[dataset]
        return LocalShard([self.encoder.encode_test(records[place]) for place in places])
