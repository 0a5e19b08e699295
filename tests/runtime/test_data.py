"""Ray Data: what it prepares, keeps or streams are the samples that this process would prepare itself."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Configure

from fcit_ray.data.samples import Sample
from fcit_ray.data.shards import LocalShards
from fcit_ray.experiment import Experiment, open_experiment
from fcit_ray.runtime.data import CachedShard, RayShards, StreamedShard, from_table, sample_encoder, to_table


def assert_same(left: list[Sample], right: list[Sample]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


def local(experiment: Experiment) -> LocalShards:
    return LocalShards(experiment.stream, experiment.tests, sample_encoder(experiment))


def test_samples_survive_the_table_also_in_slices_and_through_a_file(tmp_path: Path) -> None:
    samples: list[Sample] = [
        {
            "pixels": np.arange(number * 12, dtype=np.uint8).reshape(number, 2, 2, 3),
            "input_ids": np.arange(number, dtype=np.int64) - 5,
            "feature": np.linspace(-1, 1, 4, dtype=np.float32),
        }
        for number in (1, 2, 0)
    ]
    table = to_table(samples)
    assert_same(list(from_table(table)), samples)
    assert_same(list(from_table(table.slice(1, 1))), samples[1:2])
    assert_same(list(from_table(pa.concat_tables([table.slice(2), table]))), [samples[2], *samples])


@pytest.mark.usefixtures("cluster")
def test_cached_streamed_and_local_shards_are_the_same(configure: Configure) -> None:
    experiment = open_experiment(configure())
    here, cached, streamed = local(experiment), RayShards(experiment, 2**30), RayShards(experiment, 0)
    cached.prepare(0)
    streamed.prepare(0)
    for client in range(3):
        kept, passing = cached.train_shard(0, client), streamed.train_shard(0, client)
        assert isinstance(kept, CachedShard)
        assert isinstance(passing, StreamedShard)
        expected = here.train_shard(0, client)
        order = np.random.default_rng(client).permutation(len(expected))
        assert len(kept) == len(passing) == len(expected)
        assert_same(list(kept.read(order)), list(expected.read(order)))
        if client == 0:
            assert_same(list(passing.read(order)), list(expected.read(order)))
            assert bool((streamed.feature(0, 0) == here.feature(0, 0)).all())
        assert bool((cached.feature(0, client) == here.feature(0, client)).all())
    order = np.arange(2)
    assert_same(
        list(cached.test_shard("ArxivQA", 4, 6).read(order)), list(here.test_shard("ArxivQA", 4, 6).read(order))
    )


@pytest.mark.usefixtures("cluster")
def test_the_budget_holds_a_window_of_stages_that_moves_on(configure: Configure) -> None:
    experiment = open_experiment(configure())
    everything = RayShards(experiment, 2**30)
    everything.prepare(0)
    assert isinstance(everything.train_shard(1, 0), CachedShard), "what fits is prepared ahead, in one execution"
    sizes = {unit: everything._size(unit) for unit in [*everything._units(0), *everything._units(1)]}

    shards = RayShards(experiment, sizes["train", 0] + sizes["test", "ArxivQA"])
    shards.prepare(0)
    assert isinstance(shards.train_shard(0, 0), CachedShard)
    assert isinstance(shards.train_shard(1, 0), StreamedShard), "beyond the budget"
    before = shards.test_shard("ArxivQA", 0, 4)
    shards.prepare(1)
    assert isinstance(shards.train_shard(1, 0), CachedShard)
    assert isinstance(shards.train_shard(0, 0), StreamedShard), "the past stage has made room"
    assert shards.test_shard("ArxivQA", 0, 4) is before, "what is wanted again is not prepared again"
