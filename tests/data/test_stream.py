"""Who holds what and who is selected: functions of the seed and the names alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_in import question, training

from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.partition.stream import StreamPopulation, open_stream
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.experiment.opening import local_training, make_setting, open_experiment
from fcit_ray.types import Setting

COUNTS = {"ArxivQA": 40, "ImageNet-R": 30, "OCRVQA": 50}
FILES = {"ArxivQA": "train_4w.json", "ImageNet-R": "train.json", "OCRVQA": "train_10w.json"}
TESTS = {"ArxivQA": "test_1w.json", "ImageNet-R": "test.json", "OCRVQA": "test_1w.json"}


@pytest.fixture
def root(write) -> Path:
    for dataset, count in COUNTS.items():
        write(FILES[dataset], [training(f"{dataset}-{index}") for index in range(count)], dataset)
        folder = write(TESTS[dataset], [question(str(index)) for index in range(7)], dataset)
    return folder


def make_config(root: Path, benchmark=(), **values) -> Config:
    base = {"root": str(root), "tasks": list(COUNTS), "num_clients": 4, "clients_per_round": 2, "min_samples": 3}
    return parse_config({"benchmark": {**base, **dict(benchmark)}, **values})


def population(stream, setting):
    return StreamPopulation(stream, setting, lambda task, client: torch.tensor([float(task), float(client)]))


def test_every_record_of_a_task_has_one_holder(root):
    stream = open_stream(make_config(root))
    assert [task.name for task in stream.tasks] == list(COUNTS)
    for task, (name, count) in enumerate(COUNTS.items()):
        held = [record for client in range(4) for record in stream.shard(task, client)]
        assert sorted(r.where for r in held) == sorted(r.where for r in stream.records[task])
        assert len(held) == count
        assert all(record.dataset == name for record in held)
        assert [stream.num_examples(task, client) for client in range(4)] == [
            len(stream.shard(task, client)) for client in range(4)
        ]
        assert min(stream.num_examples(task, client) for client in range(4)) >= 3


def split(stream, task):
    return [part.tolist() for part in stream.shards[task]]


def test_the_split_of_a_task_depends_on_seed_and_name_alone(root):
    # The same task in another place of a shorter stream, with other training: the same clients hold the same records.
    whole = open_stream(make_config(root))
    alone = open_stream(make_config(root, {"tasks": ["OCRVQA"], "num_rounds": 9}, train={"lr": 0.5}))
    assert split(whole, 2) == split(alone, 0)
    assert split(open_stream(make_config(root, seed=1)), 2) != split(whole, 2)
    # two tasks of equal size under one seed are split differently: by name
    twins = open_stream(
        make_config(root, {"tasks": [{"name": "a", "datasets": ["OCRVQA"]}, {"name": "b", "datasets": ["OCRVQA"]}]})
    )
    assert split(twins, 0) != split(twins, 1)


def test_a_task_of_several_datasets_shares_out_their_union(root):
    stream = open_stream(make_config(root, {"tasks": [{"name": "both", "datasets": ["ArxivQA", "ImageNet-R"]}]}))
    assert len(stream.records[0]) == 70
    assert [record.dataset for record in stream.records[0]] == ["ArxivQA"] * 40 + ["ImageNet-R"] * 30
    assert sum(stream.num_examples(0, client) for client in range(4)) == 70


def test_too_few_records_name_the_task_and_the_numbers(root):
    with pytest.raises(ConfigError, match=r"task ImageNet-R: .*min_samples=8: 4 clients need 32 records.* has 30"):
        open_stream(make_config(root, {"min_samples": 8}))


def test_missing_data_say_so(tmp_path):
    with pytest.raises(DataError):
        open_stream(make_config(tmp_path))


# Stages


def test_a_homogeneous_stage_is_one_task_for_all(root):
    stream = open_stream(make_config(root))
    assert stream.schedule == ((0, 0), (1, 1), (2, 2))
    assert stream.evaluated == ((0,), (0, 1), (0, 1, 2))


def test_a_heterogeneous_stage_gives_the_task_by_position(root):
    stream = open_stream(make_config(root, {"schedule": [[0, 2], [2, 2], [1, 0]]}))
    assert stream.schedule == ((0, 2), (2, 2), (1, 0))
    # tasks seen by the end of each stage, in the order of the table
    assert stream.evaluated == ((0, 2), (0, 2), (0, 1, 2))
    clients = population(stream, Setting(num_stages=3, num_rounds=1, num_clients=4, clients_per_round=2, seed=0))
    for stage, tasks in enumerate([[0, 2], [2, 2], [1, 0]]):
        for round in range(5):
            chosen = clients.select(stage, round)
            assert [client.task for client in chosen] == tasks
            for client in chosen:
                assert client.num_examples == len(stream.shard(client.task, client.index))
                assert client.feature.tolist() == [client.task, client.index]


def test_sizes_of_the_run_follow_the_schedule(root):
    assert make_setting(make_config(root)).num_stages == 3
    het = make_config(root, {"schedule": [[0, 1]] * 5})
    assert make_setting(het) == Setting(num_stages=5, num_rounds=3, num_clients=4, clients_per_round=2, seed=0)


# Selection


def test_clients_are_drawn_without_replacement_and_all_get_their_turn(root):
    stream = open_stream(make_config(root, {"num_clients": 5, "clients_per_round": 3}))
    setting = Setting(num_stages=3, num_rounds=40, num_clients=5, clients_per_round=3, seed=0)
    drawn = [[c.index for c in population(stream, setting).select(0, round)] for round in range(40)]
    assert all(len(set(row)) == 3 for row in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=5)
    # 40 rounds * 3 / 5 = 24 each; the spread is sqrt(40 * 0.6 * 0.4) = 3.1, so four of them either way
    assert counts.sum() == 120
    assert (abs(counts - 24) < 13).all()
    assert len({row[0] for row in drawn}) == 5  # positions are not sorted by client


def test_a_selection_is_a_function_of_seed_stage_and_round(root):
    stream = open_stream(make_config(root, {"num_clients": 10, "clients_per_round": 3, "min_samples": 1}))

    def draw(seed, stage, round):
        setting = Setting(num_stages=3, num_rounds=9, num_clients=10, clients_per_round=3, seed=seed)
        return tuple(client.index for client in population(stream, setting).select(stage, round))

    late = draw(0, 2, 5)
    draw(0, 0, 0)
    assert draw(0, 2, 5) == late
    # 720 ordered selections: of 27 draws nearly all differ, and no whole axis repeats (the released code's selection
    # ignores the user's seed)
    everything = {(s, t, r): draw(s, t, r) for s in range(3) for t in range(3) for r in range(3)}
    assert len(set(everything.values())) > 22
    for axis in range(3):
        along = [[v for k, v in everything.items() if k[axis] == value] for value in range(3)]
        assert along[0] != along[1] != along[2]


def test_all_clients_may_be_selected(root):
    stream = open_stream(make_config(root, {"clients_per_round": 4}))
    setting = Setting(num_stages=3, num_rounds=1, num_clients=4, clients_per_round=4, seed=0)
    assert sorted(client.index for client in population(stream, setting).select(1, 0)) == [0, 1, 2, 3]


# Regimes


def test_the_centralised_client_holds_everything(root):
    config = make_config(root, regime="centralised", train={"epochs": 4})
    stream = open_stream(config)
    assert len(stream.shard(0, 0)) == 120
    assert stream.schedule == ((0,),)
    assert stream.evaluated == ((0, 1, 2),)
    setting = make_setting(config)
    assert setting == Setting(num_stages=1, num_rounds=1, num_clients=1, clients_per_round=1, seed=0)
    (client,) = population(stream, setting).select(0, 0)
    assert (client.index, client.num_examples) == (0, 120)


def test_the_centralised_client_passes_over_the_data_as_often_as_the_federation():
    # 4 epochs * 3 rounds * 2 of 4 clients = 6 passes; 1 * 3 * 2 of 5 = 1.2, rounded up to 2
    assert local_training(make_config(Path(), regime="centralised", train={"epochs": 4})).epochs == 6
    assert local_training(make_config(Path(), {"num_clients": 5}, regime="centralised")).epochs == 2
    assert local_training(make_config(Path(), train={"epochs": 4})).epochs == 4


def test_zero_shot_reads_no_training_data(root):
    for file in FILES.values():
        for path in root.rglob(file):
            path.unlink()
    config = make_config(root, regime="zero_shot")
    experiment = open_experiment(config)
    assert experiment.stream.schedule == ()
    assert experiment.setting.num_stages == 0
    assert {name: len(records) for name, records in experiment.tests.items()} == dict.fromkeys(COUNTS, 7)


def test_an_experiment_checks_the_rank_before_it_reads_anything(tmp_path):
    method = {"name": "disco", "num_subspaces": 7}
    with pytest.raises(ConfigError, match=r"model\.rank: 64 cannot be shared out over 7 adapters"):
        open_experiment(make_config(tmp_path, method=method))


def test_an_experiment_holds_the_test_records_asked_for(root):
    experiment = open_experiment(make_config(root, {"max_test_records": 3}))
    assert {name: len(records) for name, records in experiment.tests.items()} == dict.fromkeys(COUNTS, 3)
    assert json.loads(json.dumps(experiment.config.model_dump(mode="json")))["benchmark"]["max_test_records"] == 3


# Other partitions


def test_a_natural_split_keeps_the_values_of_a_field_together(write):
    # sites of 12, 9, 6 and 3 records; 12 to client 0, 9 to 1, 6 to 1? no: client 1 has 9 < 12, so 15; 3 to client 0
    sites = ["north"] * 12 + ["south"] * 9 + ["east"] * 6 + ["west"] * 3
    root = write("train.json", [training(str(index), site=site) for index, site in enumerate(sites)])
    keys = {"tasks": ["ImageNet-R"], "num_clients": 2, "partition": "field", "partition_field": "site"}
    stream = open_stream(make_config(root, keys))
    assert [sorted({sites[index] for index in shard}) for shard in stream.shards[0]] == [
        ["north", "west"],
        ["east", "south"],
    ]
    with pytest.raises(ConfigError, match=r"task ImageNet-R: benchmark\.num_clients=5: .* only 4 different values"):
        open_stream(make_config(root, {**keys, "num_clients": 5, "min_samples": 1}))


def test_a_record_without_the_field_is_named(write):
    items = [training(str(index), site="a") for index in range(9)]
    del items[4]["site"]
    root = write("train.json", items)
    keys = {"tasks": ["ImageNet-R"], "num_clients": 2, "partition": "field", "partition_field": "site"}
    with pytest.raises(DataError, match=r"ImageNet-R/train\.json: record 4 \(id '4'\): has no 'site' \(only id, image"):
        open_stream(make_config(root, keys))


def test_answers_that_differ_in_case_are_one_label(write):
    # With so small a beta a label's records all go to one client, so both cases of a word meet there.
    def item(index, answer):
        conversation = [{"from": "human", "value": "<image>\nwhich ?"}, {"from": "gpt", "value": answer}]
        return training(str(index), conversations=conversation)

    answers = ["Red", "red", "Blue", "BLUE"] * 10
    root = write("train.json", [item(index, answer) for index, answer in enumerate(answers)])
    keys = {"tasks": ["ImageNet-R"], "num_clients": 2, "partition": "labels", "beta": 1e-3, "min_samples": 1}
    stream = open_stream(make_config(root, keys, seed=3))
    words = [{record.turns[0].answer for record in stream.shard(0, client)} for client in range(2)]
    assert sum("Red" in held for held in words) == sum("red" in held for held in words) <= 2
    assert sum(len(stream.shard(0, client)) for client in range(2)) == 40
    most = max((stream.shard(0, client) for client in range(2)), key=len)
    assert sum(record.turns[0].answer == "Red" for record in most) == sum(r.turns[0].answer == "red" for r in most)


def test_a_released_schedule_has_as_many_stages_as_tasks(root):
    config = make_config(root, {"schedule": "released", "clients_per_round": 4})
    stream = open_stream(config)
    # numpy.random.seed(0), choice(3, 4): 0 1 0 1; seed 10: 1 1 0 0; seed 20: 2 0 2 1 (worked out apart), sorted
    assert stream.schedule == ((0, 0, 1, 1), (0, 0, 1, 1), (0, 1, 2, 2))
    assert stream.evaluated == ((0, 1), (0, 1), (0, 1, 2))
    assert make_setting(config).num_stages == 3


def test_the_released_selection_is_the_one_that_a_run_uses(root):
    config = make_config(root, {"num_clients": 4, "clients_per_round": 2, "selection": "released"}, seed=9)
    experiment = open_experiment(config)
    federation = experiment.federation(lambda task, client: torch.zeros(1))
    for stage, round in ((0, 0), (2, 1)):
        chosen = [client.index for client in federation.population.select(stage, round)]
        assert chosen == list(set(np.random.RandomState(10 * stage + round).permutation(4)[:2].tolist()))


# Transfer


def test_unseen_datasets_are_answered_at_the_end_alone(root, write):
    write("test.json", [question(str(index)) for index in range(5)], "DVQA")
    experiment = open_experiment(make_config(root, {"transfer": ["DVQA"]}))
    assert [experiment.evaluated(stage) for stage in range(3)] == [
        ["ArxivQA"],
        ["ArxivQA", "ImageNet-R"],
        ["ArxivQA", "ImageNet-R", "OCRVQA", "DVQA"],
    ]
    assert len(experiment.tests["DVQA"]) == 5
    assert all(record.dataset != "DVQA" for records in experiment.stream.records for record in records)
    zero_shot = open_experiment(make_config(root, {"transfer": ["DVQA"]}, regime="zero_shot"))
    assert zero_shot.evaluated(-1) == ["ArxivQA", "ImageNet-R", "OCRVQA", "DVQA"]
