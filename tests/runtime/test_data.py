"""Ray Data: what it prepares, keeps or streams are the samples that this process would prepare itself."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Configure

from fcit_ray.data.loading.samples import Sample
from fcit_ray.data.loading.shards import LocalShards
from fcit_ray.errors import DataError
from fcit_ray.experiment.opening import Experiment, open_experiment
from fcit_ray.runtime.blocks import from_table, to_table
from fcit_ray.runtime.data import CachedShard, RayShards, StreamedShard, sample_encoder
from fcit_ray.runtime.errors import RunFailed


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
    del samples[2]["pixels"]  # of a record without a picture
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
    [_, places] = experiment.batches["ArxivQA"]  # six questions in batches of four, the longest first
    expected = list(here.test_shard("ArxivQA", places).read(order))
    assert_same(list(cached.test_shard("ArxivQA", places).read(order)), expected)
    assert_same(list(streamed.test_shard("ArxivQA", places).read(order)), expected)


@pytest.mark.usefixtures("cluster")
def test_a_shard_of_records_with_none_one_and_two_pictures_is_the_same_and_has_the_size_it_was_given(
    configure: Configure, mixed: Path
) -> None:
    experiment = open_experiment(configure(benchmark={"root": str(mixed)}))
    here, cached = local(experiment), RayShards(experiment, 2**30)
    cached.prepare(0)
    total = 0
    for client in range(3):
        expected = here.train_shard(0, client)
        order = np.arange(len(expected))
        assert_same(list(cached.train_shard(0, client).read(order)), list(expected.read(order)))
        assert bool((cached.feature(0, client) == here.feature(0, client)).all())
        total += sum(array.nbytes for sample in expected.samples for array in sample.values())
    # Pictures are most of it, and of one size; questions differ in length.
    assert cached._size(("train", 0)) == pytest.approx(total, rel=0.02)


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
    places = experiment.batches["ArxivQA"][0]
    before = shards.test_shard("ArxivQA", places)
    shards.prepare(1)
    assert isinstance(shards.train_shard(1, 0), CachedShard)
    assert isinstance(shards.train_shard(0, 0), StreamedShard), "the past stage has made room"
    assert shards.test_shard("ArxivQA", places) is before, "what is wanted again is not prepared again"


def spoil(experiment: Experiment, dataset: str, number: int) -> str:
    """Cut the picture of a training record short; how the error names it."""
    record = [one for one in experiment.stream.records[0] if one.dataset == dataset][number]
    path = Path(experiment.config.benchmark.root) / record.images[0]
    path.write_bytes(path.read_bytes()[:-60])
    return f"{record.where}: image {record.images[0]}: "


@pytest.fixture
def broken(configure: Configure, miniature: Path, tmp_path: Path) -> tuple[Experiment, str]:
    """A run whose data broke after it was opened, in the middle of one client's shard."""
    shutil.copytree(miniature, tmp_path / "data")
    experiment = open_experiment(configure(benchmark={"root": str(tmp_path / "data")}))
    return experiment, spoil(experiment, "ArxivQA", 7)


@pytest.mark.usefixtures("cluster")
def test_what_stops_a_task_of_ray_data_arrives_with_file_record_and_reason(broken: tuple[Experiment, str]) -> None:
    experiment, said = broken
    with pytest.raises(DataError) as caught:
        RayShards(experiment, 2**30).prepare(0)
    assert str(caught.value).startswith(said)
    streamed = RayShards(experiment, 0)
    streamed.prepare(0)
    found = []
    for client in range(3):
        shard = streamed.train_shard(0, client)
        try:
            list(shard.read(np.arange(len(shard))))
        except DataError as error:
            found.append(str(error))
        streamed.feature(0, client)  # of the text, which needs no picture
    # Of the one client that holds the record.
    assert [message.startswith(said) for message in found] == [True]


@pytest.mark.usefixtures("cluster")
def test_a_mistake_in_a_task_of_ray_data_arrives_with_its_traceback(configure: Configure) -> None:
    shards = RayShards(open_experiment(configure()), 2**30)
    shards._encoder = replace(shards._encoder, template="nonsense")  # which only the configuration would refuse
    with pytest.raises(RunFailed, match=r"(?s)Traceback.*samples\.py.*KeyError: 'nonsense'"):
        shards._execute([("test", "ArxivQA")], "test")
