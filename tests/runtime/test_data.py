"""Ray Data: what it prepares, keeps or streams are the samples that this process would prepare itself."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import Configure

from fcit_ray.data.loading.batches import epoch_order
from fcit_ray.data.loading.samples import Sample
from fcit_ray.data.loading.shards import LocalShards
from fcit_ray.errors import DataError
from fcit_ray.experiment.opening import Experiment, open_experiment
from fcit_ray.runtime.blocks import from_table, to_table
from fcit_ray.runtime.data import RayShards, sample_encoder
from fcit_ray.runtime.errors import RunFailed
from fcit_ray.runtime.forecast import STREAMED_PIECE, Job, Piece, in_order, kept_pieces
from fcit_ray.seeds import derive_seed


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


@contextmanager
def opened(experiment: Experiment, budget: int, **more: Any) -> Iterator[RayShards]:
    """A shard source before the first round."""
    shards = RayShards(experiment, budget, **more)
    shards.prepare(0, 0)
    try:
        yield shards
    finally:
        shards.close()


@pytest.mark.usefixtures("cluster")
def test_kept_streamed_and_local_shards_are_the_same(configure: Configure) -> None:
    experiment = open_experiment(configure())
    here = local(experiment)
    with opened(experiment, 2**30) as kept, opened(experiment, 0) as streamed:
        for client in range(3):
            shard, passing = kept.train_shard(0, client), streamed.train_shard(0, client)
            assert (shard.is_streamed, passing.is_streamed) == (False, True)
            expected = here.train_shard(0, client)
            order = np.random.default_rng(client).permutation(len(expected))
            assert len(shard) == len(passing) == len(expected)
            for _ in range(2):  # of two epochs
                assert_same(list(shard.read(order)), list(expected.read(order)))
            assert kept.train_shard(0, client).at_hand
            if client == 0:  # in an order that nobody foresaw
                assert_same(list(passing.read(order)), list(expected.read(order)))
            assert bool((streamed.feature(0, client) == here.feature(0, client)).all())
            assert bool((kept.feature(0, client) == here.feature(0, client)).all())
        order = np.arange(2)
        [_, places] = experiment.batches["ArxivQA"]  # six questions in batches of four, the longest first
        expected = list(here.test_shard("ArxivQA", places).read(order))
        for shards in (kept, streamed):
            assert_same(list(shards.test_shard("ArxivQA", places).read(order)), expected)


@pytest.mark.usefixtures("cluster")
def test_a_shard_of_records_with_none_one_and_two_pictures_is_the_same_and_has_the_size_it_was_given(
    configure: Configure, mixed: Path
) -> None:
    experiment = open_experiment(configure(benchmark={"root": str(mixed)}))
    here = local(experiment)
    total = foreseen = 0
    with opened(experiment, 2**30) as cached:
        for client in range(3):
            expected = here.train_shard(0, client)
            order = np.arange(len(expected))
            assert_same(list(cached.train_shard(0, client).read(order)), list(expected.read(order)))
            assert bool((cached.feature(0, client) == here.feature(0, client)).all())
            total += sum(array.nbytes for sample in expected.samples for array in sample.values())
            foreseen += sum(cached._size(piece) for piece in kept_pieces("train", 0, client, len(expected)))
    # Pictures are most of it, and of one size; questions differ in length.
    assert foreseen == pytest.approx(total, rel=0.02)


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
@pytest.mark.parametrize("budget", [2**30, 0])
def test_what_stops_a_task_of_ray_data_stops_the_client_that_needs_it_with_file_record_and_reason(
    broken: tuple[Experiment, str], budget: int
) -> None:
    experiment, said = broken
    warned: list[str] = []
    found = []
    with opened(experiment, budget, warn=warned.append) as shards:
        for client in range(3):
            shard = shards.train_shard(0, client)
            try:
                list(shard.read(np.arange(len(shard))))
            except DataError as error:
                found.append(str(error))
            shards.feature(0, client)  # of the text, which needs no picture
    # Of the one client that holds the record.
    assert [message.startswith(said) for message in found] == [True]
    # Whoever made it ahead of need said so; two clients of three take part in the first round.
    assert all(f"unless it is mended: {said}" in text for text in warned)


@pytest.mark.usefixtures("cluster")
def test_a_record_broken_in_a_later_stage_is_told_of_at_once_and_may_be_mended(
    configure: Configure, miniature: Path, tmp_path: Path
) -> None:
    shutil.copytree(miniature, tmp_path / "data")
    experiment = open_experiment(configure(benchmark={"root": str(tmp_path / "data")}))
    record = next(one for one in experiment.stream.records[1] if one.dataset == "IconQA")
    picture = tmp_path / "data" / record.images[0]
    sound = picture.read_bytes()
    picture.write_bytes(sound[:-60])
    [holder] = [client for client in range(3) if record in experiment.stream.shard(1, client)]
    warned: list[str] = []
    said = threading.Event()

    def warn(text: str) -> None:
        warned.append(text)
        said.set()

    with opened(experiment, 2**30, warn=warn) as shards:
        first = shards.train_shard(0, 0)
        assert len(list(first.read(np.arange(len(first))))) == len(first), "the stage before it is as good as ever"
        assert said.wait(60.0)
        assert warned[0].startswith("found ahead of need, the run will stop there unless it is mended: ")
        assert f"{record.where}: image {record.images[0]}: " in warned[0]
        picture.write_bytes(sound)
        shards.prepare(1, 0)
        later = shards.train_shard(1, holder)
        assert len(list(later.read(np.arange(len(later))))) == len(later)


@pytest.mark.usefixtures("cluster")
def test_a_mistake_in_a_task_of_ray_data_arrives_with_its_traceback(configure: Configure) -> None:
    shards = RayShards(open_experiment(configure()), 2**30)
    shards._encoder = replace(shards._encoder, template="nonsense")  # which only the configuration would refuse
    with pytest.raises(RunFailed, match=r"(?s)Traceback.*samples\.py.*KeyError: 'nonsense'"):
        list(shards.test_shard("ArxivQA", range(4)).read(np.arange(4)))
    shards.close()


def test_the_order_of_need_is_that_of_the_rounds_and_their_largest_clients_then_the_questions(
    configure: Configure,
) -> None:
    experiment = open_experiment(configure(runtime={"num_workers": 1}))
    shards = RayShards(experiment, 2**30)
    with shards._lock:
        shards._place, shards._jobs = (0, 0), shards._forecast.jobs(0, 0)
    needs = list(shards._needs())
    population = experiment.federation(lambda task, client: torch.zeros(1)).population
    told: list[tuple[str, int | str, int]] = []
    for stage in range(2):
        for round in range(2):
            clients = sorted(population.select(stage, round), key=lambda client: -client.num_examples)
            if (stage, round) == (0, 0):  # before it is planned; later ones are had from what is there by then
                told += [("feature", client.task, client.index) for client in clients]
            told += [("train", client.task, client.index) for client in clients]
        # Six questions a set in batches of four.
        told += [("test", name, -1) for name in ("ArxivQA", "IconQA")[: stage + 1] for _ in range(2)]
    assert [(piece.part, piece.name, piece.client) for piece in needs] == told


def test_a_stream_is_foreseen_in_the_order_in_which_its_client_reads_it(configure: Configure) -> None:
    experiment = open_experiment(configure(train={"epochs": 2}))
    forecast = RayShards(experiment, 0)._forecast
    [job, *_] = forecast.jobs(1, 0)
    seed = derive_seed(experiment.setting.seed, "client", 1, 0, job.client)  # as the reference loop has it
    orders = [epoch_order(job.num_records, seed, epoch).tolist() for epoch in (0, 1)]
    expected = [
        tuple(order[start : start + STREAMED_PIECE])
        for order in orders
        for start in range(0, len(order), STREAMED_PIECE)
    ]
    assert [piece.rows for piece in in_order([job])] == expected
    # A part of a step, by whoever shares it; what has been taken is needed no more but by those who follow closely.
    part = Piece("train", 1, expected[0][3:5], job.client)
    assert job.foreseen(part) == (Piece("train", 1, expected[0], job.client), (3, 4))
    assert job.taken == 1
    assert [piece.rows for piece in in_order([job])] == expected
    assert job.foreseen(Piece("train", 1, (0, job.num_records), job.client)) is None, "there is no such record"
    assert job.taken == 1


@pytest.mark.usefixtures("cluster")
def test_parts_of_steps_are_had_from_what_was_foreseen(configure: Configure) -> None:
    experiment = open_experiment(configure(train={"batch_size": 8}))
    here = local(experiment)
    with opened(experiment, 0) as shards:
        job = shards._jobs[0]
        order = epoch_order(job.num_records, job.seed, 0)
        shard, expected = shards.train_shard(job.task, job.client), here.train_shard(job.task, job.client)
        for part in (order[:8], order[2:4], order[4:8], order[:2]):
            assert_same(list(shard.read(part)), list(expected.read(part)))
        made = [piece for piece in shards._ahead._kept if piece.part == "train"]  # type: ignore[attr-defined]
        assert {len(piece.rows) % 8 for piece in made if piece.client == job.client} <= {0, job.num_records % 8}


def test_streams_of_clients_that_train_side_by_side_are_needed_in_turns() -> None:
    one, other = (Job(0, client, 0, 4 * STREAMED_PIECE, 1, seed=client, streamed=True) for client in (0, 1))
    late = Job(0, 2, 4 * STREAMED_PIECE, STREAMED_PIECE, 1, seed=2, streamed=True)
    kept = Job(0, 3, 4 * STREAMED_PIECE, 5, 1, seed=3, streamed=False)
    assert [piece.client for piece in in_order([one, other, late, kept])] == [0, 1, 0, 1, 0, 1, 0, 1, 2, 3]


@pytest.mark.parametrize(("megabytes", "streamed"), [(3, False), (2, True)])
def test_a_shard_is_kept_if_every_worker_can_have_one_and_one_is_ready(
    configure: Configure, megabytes: int, streamed: bool
) -> None:
    # Two workers and the next: a third of the budget. A shard of one megabyte is put in place of the real ones.
    shards = RayShards(open_experiment(configure()), megabytes * 2**20)
    shards._bytes_of = lambda piece: 2**20  # type: ignore[method-assign]
    assert shards.is_streamed(0, 0) is streamed
