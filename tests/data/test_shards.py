"""Batches of a shard: every record once an epoch, in an order that is the job's alone."""

import numpy as np
import pytest
import torch
from stand_in import VOCABULARY, question, training

from fcit_ray.config.schema import parse_config
from fcit_ray.data.loading.batches import epoch_order, num_steps
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.shards import LocalShard, LocalShards, mean_feature, training_batches
from fcit_ray.experiment.opening import open_experiment

COLLATOR = Collator(pad_id=0, mean=(0.0,) * 3, std=(1.0,) * 3, rescale=1.0)


def numbered(count):
    """Records that carry their position in the shard as their only word."""
    return LocalShard(
        [
            {
                "pixels": np.zeros((1, 2, 2, 3), dtype=np.uint8),
                "input_ids": np.array([index]),
                "labels": np.array([index]),
                "feature": np.zeros(1, dtype=np.float32),
            }
            for index in range(count)
        ]
    )


def drawn(batches):
    return [batch["input_ids"][:, 0].tolist() for batch in batches]


def test_batches_follow_the_epochs_orders():
    batches = drawn(training_batches(numbered(7), COLLATOR, 3, seed=5, epochs=2)())
    assert [len(batch) for batch in batches] == [3, 3, 1, 3, 3, 1]
    assert [*batches[0], *batches[1], *batches[2]] == epoch_order(7, 5, 0).tolist()
    assert [*batches[3], *batches[4], *batches[5]] == epoch_order(7, 5, 1).tolist()


def test_micro_batches_are_pieces_of_the_same_batches():
    pieces = drawn(training_batches(numbered(7), COLLATOR, 5, seed=5, epochs=2, micro_batch_size=3)())
    assert [len(piece) for piece in pieces] == [3, 2, 2, 3, 2, 2]
    assert [index for piece in pieces for index in piece] == [*epoch_order(7, 5, 0), *epoch_order(7, 5, 1)]


@pytest.mark.parametrize(("count", "batch_size", "epochs"), [(7, 3, 2), (6, 3, 1), (1, 4, 5), (5, 1, 1)])
def test_there_are_as_many_batches_as_steps_in_the_schedule(count, batch_size, epochs):
    batches = list(training_batches(numbered(count), COLLATOR, batch_size, 0, epochs)())
    assert len(batches) == num_steps(count, batch_size, epochs)


def test_a_second_pass_is_the_same_pass():
    # A method's report may need one: it must see what was trained on, in the same order.
    batches = training_batches(numbered(9), COLLATOR, 2, seed=1, epochs=2)
    first = drawn(batches())
    half = batches()
    next(half)
    assert drawn(batches()) == first


def test_the_order_is_the_seeds_and_the_epochs():
    orders = {(seed, epoch): tuple(epoch_order(30, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4


def test_batches_are_read_as_they_are_needed():
    # A shard may be larger than memory: the first batch must not read the second.
    read = []

    class Streaming:
        def __len__(self):
            return 6

        def read(self, order):
            for index in order:
                read.append(int(index))
                yield numbered(6).samples[index]

    batches = training_batches(Streaming(), COLLATOR, 2, 0, 1)()
    next(batches)
    assert len(read) == 2
    assert len(list(batches)) == 2


def test_an_identity_token_is_the_mean_of_its_records():
    # (1 + 3 + 5) / 3 = 3 and (0 + 0 + 6) / 3 = 2
    features = [np.array(row, dtype=np.float32) for row in ([1, 0], [3, 0], [5, 6])]
    assert mean_feature(features).tolist() == [3.0, 2.0]
    assert mean_feature(features).dtype == torch.float32


def test_an_identity_token_is_summed_in_float64():
    # In float32 the thousands swallow the small ones: 2^24 + 1 = 2^24. Here (2^24 + 1 + 1) / 3 = 5592406 exactly.
    assert mean_feature([np.array([x], dtype=np.float32) for x in (2**24, 1, 1)]).item() == 5592406.0


@pytest.fixture
def shards(write, model):
    records = [training(f"{index}") for index in range(6)]
    for index, word in enumerate(["red", "blue", "dark", "square", "shape", "and"]):
        records[index]["conversations"] = [
            {"from": "human", "value": f"<image>\nwhich {word} ?"},
            {"from": "gpt", "value": word},
        ]
    write("train.json", records)
    root = write("test.json", [question(str(index), text=f"which {'red ' * index}?") for index in range(5)])
    config = parse_config(
        {
            "benchmark": {
                "root": str(root),
                "tasks": ["ImageNet-R"],
                "num_clients": 2,
                "clients_per_round": 1,
                "min_samples": 2,
            },
            "model": {"path": model},
        }
    )
    experiment = open_experiment(config)
    encoder = SampleEncoder(str(root), model, "bare", 64)
    return LocalShards(experiment.stream, experiment.tests, encoder), experiment.stream


def test_a_clients_shard_is_its_records_in_file_order(shards):
    source, stream = shards
    seen = 0
    for client in (0, 1):
        shard = source.train_shard(0, client)
        assert len(shard) == stream.num_examples(0, client)
        for sample, record in zip(shard.samples, stream.shard(0, client), strict=True):
            answer = [int(token) for token in sample["labels"] if token != -100]
            assert answer == [VOCABULARY[record.turns[0].answer], VOCABULARY["</s>"]]
            seen += 1
    assert seen == 6


def test_a_clients_token_is_worked_out_by_hand(shards):
    # The stand-in's table is the unit matrix, so a text's feature is its word counts over its length: every record has
    # `which`, `?` and one word of its own, each a third; the mean of n records has 1/3 and 1/(3n).
    source, stream = shards
    for client in (0, 1):
        token = source.feature(0, client)
        count = stream.num_examples(0, client)
        assert token[VOCABULARY["which"]].item() == pytest.approx(1 / 3)
        assert token[VOCABULARY["?"]].item() == pytest.approx(1 / 3)
        own = [VOCABULARY[record.turns[0].answer] for record in stream.shard(0, client)]
        assert token[own].tolist() == pytest.approx([1 / (3 * count)] * count)


def test_test_shards_hold_the_questions_of_the_places_asked_for(shards):
    # Question i has i times `red`: its prompt is longer by one token each.
    source, _ = shards
    whole = [len(sample["input_ids"]) for sample in source.test_shard("ImageNet-R", range(5)).samples]
    assert np.diff(whole).tolist() == [1, 1, 1, 1]
    part = [len(sample["input_ids"]) for sample in source.test_shard("ImageNet-R", [3, 1]).samples]
    assert part == [whole[3], whole[1]]
