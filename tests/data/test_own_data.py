"""Data of one's own: one dataset in every format, files that are clients, pictures anywhere, validation held out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import own_data
import pyarrow.parquet as pq
import pytest
from authors_root import write_authors_root

from fcit_ray.config.datasets import Dataset
from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.checking.check import check_data, set_aside
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.parquet.writing import write_parquet
from fcit_ray.data.partition.stream import open_stream
from fcit_ray.data.partition.writing import write_partition
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.images import open_image
from fcit_ray.data.records.layout import Record, check_images, load_test, load_train
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.results.majority import majority_results


def collection_of(root: Path, seed: int = 0, **declared: Any) -> Collection:
    return Collection(str(root), {"Shirts": Dataset.model_validate(declared)}, seed, frozenset({"Shirts"}))


def configure(root: Path | str, declared: dict[str, Any], seed: int = 0, **benchmark: Any) -> Config:
    return parse_config(
        {
            "seed": seed,
            "benchmark": {
                "root": str(root), "catalog": None, "datasets": {"Shirts": declared}, "tasks": ["Shirts"],
                "num_clients": 2, "clients_per_round": 2, "min_samples": 1, **benchmark,
            },
        }
    )  # fmt: skip


def said(root: str, records: list[Record]) -> list[tuple]:
    """All that a model is given of records: what their pictures hold, not how they are called."""
    return [
        (r.id, [(t.question.replace("<image>", "").strip(), t.answer) for t in r.turns], r.answer,
         [open_image(root, image).read() for image in r.images])
        for r in records
    ]  # fmt: skip


@pytest.fixture(params=list(own_data.WRITERS))
def kind(request) -> str:
    return request.param


def test_every_format_says_the_same(tmp_path, kind, model):
    kinds = dict.fromkeys(("json", kind))
    collections = [collection_of(tmp_path / each, **own_data.write(tmp_path / each, each)) for each in kinds]
    expected = [
        (row["id"], [(row["question"], row["answer"])], None, [own_data.picture(row["number"])])
        for row in own_data.rows("train")
    ]
    for collection in collections:
        assert said(collection.root, load_train(collection, "Shirts")) == expected
        asked = said(collection.root, load_test(collection, "Shirts"))
        assert [(name, turns[0][0], answer) for name, turns, answer, _ in asked] == [
            (row["id"], row["question"], row["answer"]) for row in own_data.rows("test")
        ]
    # What a model is trained on is the same to the bit.
    samples = [
        [SampleEncoder(each.root, model, "bare", 64).encode_train(record) for record in load_train(each, "Shirts")]
        for each in collections
    ]
    for one, other in zip(samples[0], samples[-1], strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_a_file_of_other_keys_than_the_others_says_so_itself(tmp_path):
    declared = own_data.write(tmp_path, "json")
    path = tmp_path / declared["test"]
    items = json.loads(path.read_text())
    path.write_text(
        json.dumps([{"pic": each["image"], "ask": each["text"], "reply": each["answer"]} for each in items])
    )
    with pytest.raises(
        DataError, match=r"no question under 'text', .*\(only pic, ask, reply\); `keys` of its dataset or"
    ):
        load_test(collection_of(tmp_path, **declared), "Shirts")
    keys = {"image": "pic", "question": "ask", "answer": "reply"}
    collection = collection_of(tmp_path, **declared | {"test": {"path": declared["test"], "keys": keys}})
    asked = load_test(collection, "Shirts")
    assert [(record.id, record.answer) for record in asked] == [
        (f"{path.name}:{number}", row["answer"]) for number, row in enumerate(own_data.rows("test"))
    ]
    assert len(load_train(collection, "Shirts")) == own_data.NUM_TRAIN  # by the dataset's own, LLaVA's


def test_a_check_finds_faults_in_every_format_and_a_run_honours_the_quarantine(tmp_path, kind):
    declared = own_data.write(tmp_path, kind)
    collection = collection_of(tmp_path, **declared)
    assert not check_data(collection, ["Shirts"]).errors
    if kind in ("parquet", "hub", "saved"):
        return
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    found = check_data(collection, ["Shirts"], honour_quarantine=False)
    assert [(offence.id, offence.kind) for offence in found.errors] == [("train-3", "image")]
    set_aside(found)
    assert [record.id for record in load_train(collection, "Shirts")] == [
        f"train-{number}" for number in range(own_data.NUM_TRAIN) if number != 3
    ]


def test_a_broken_picture_in_a_table_has_the_same_name_in_a_check_and_a_run(tmp_path):
    table = own_data.hf_table("train").to_pylist()
    table[7]["image"]["bytes"] = own_data.picture(7)[:60]
    schema = own_data.hf_table("train").schema
    pq.write_table(own_data.pa.Table.from_pylist(table, schema), tmp_path / "train.parquet", row_group_size=4)
    collection = collection_of(tmp_path, train="train.parquet")
    found = check_data(collection, ["Shirts"], honour_quarantine=False)
    assert [offence.reason.split(":")[0] for offence in found.errors] == ["image train.parquet#7/image"]
    with pytest.raises(DataError, match=r"train.parquet#7/image"):
        check_images(collection.root, load_train(collection, "Shirts"))
    set_aside(found)
    check_images(collection.root, load_train(collection, "Shirts"))


def test_pictures_of_a_table_are_not_read_before_they_are_wanted(tmp_path):
    # The bytes of every row group but the first are spoilt: to read the records touches none of them.
    own_data.write(tmp_path, "parquet")
    path = tmp_path / "train.parquet"
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    assert column.path_in_schema == "image.bytes"
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    collection = collection_of(tmp_path, train="train.parquet")
    records = load_train(collection, "Shirts")
    assert len(records) == own_data.NUM_TRAIN
    assert open_image(collection.root, records[4].images[0]).read() == own_data.picture(4)
    with pytest.raises(DataError, match=r"train.parquet: record 5"):
        check_images(collection.root, records)


# Where files and pictures lie


def test_files_and_pictures_may_lie_anywhere_and_be_uris(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    own_data.write(there, "json")
    here.mkdir()
    absolute = {"train": str(there / "train.json"), "test": str(there / "test.json"), "images": str(there / "pictures")}
    by_uri = {key: f"file://{value}" for key, value in absolute.items()}
    for declared in (absolute, by_uri):
        collection = collection_of(here, **declared)
        records = load_train(collection, "Shirts") + load_test(collection, "Shirts")
        check_images(collection.root, records)
        assert records[0].images == (f"{declared['images']}/0.png",)
        assert records[0].source == declared["train"]


def test_complete_names_of_pictures_are_taken_below_the_folder_of_pictures_alone(tmp_path):
    declared = own_data.write(tmp_path, "json")
    items = json.loads((tmp_path / "train.json").read_text())
    items[0]["image"] = str(tmp_path / "pictures" / "0.png")
    own_data.write_json(tmp_path / "train.json", items)
    collection = collection_of(tmp_path, **declared)
    assert load_train(collection, "Shirts")[0].images == ("pictures/0.png",)
    for name in (
        "/etc/0.png",
        str(tmp_path / "pictures" / ".." / "0.png"),
        "s3://bucket/0.png",
        "other.parquet#0/image",
    ):
        items[0]["image"] = name
        own_data.write_json(tmp_path / "train.json", items)
        with pytest.raises(DataError, match=r"expected a path inside it|is of a table that its dataset does not have"):
            load_train(collection, "Shirts")


def test_a_place_that_does_not_answer_is_named_in_good_time(tmp_path):
    uri = "s3://bucket/train.json?endpoint_override=localhost:9&scheme=http&region=nowhere"
    own_data.write(tmp_path, "json")
    # A folder of pictures is asked once, not for each picture.
    for declared in ({"train": uri}, {"train": "train.json", "images": uri}):
        with pytest.raises(DataError) as caught:
            load_train(collection_of(tmp_path, **declared), "Shirts")
        assert str(caught.value).startswith(f"{uri}: does not answer")
    assert "is the address right, is it reached from here, and are its credentials in the environment" in str(
        caught.value
    )


# Files that are clients


def clients(tmp_path: Path, count: int = 12) -> list[str]:
    """A file a client, of one record each, whose answer is the number in the file's name."""
    (tmp_path / "sites").mkdir()
    own_data.write_pictures(tmp_path / "pictures")
    names = [f"site_{number}.json" for number in range(count)]
    for number, name in enumerate(names):
        row = {"id": "x", "number": number, "question": own_data.QUESTION, "answer": str(number)}
        own_data.write_json(tmp_path / "sites" / name, [own_data.llava("train", row)])
    return names


def answers(config: Config) -> list[list[str | None]]:
    stream = open_stream(config)
    return [[r.turns[0].answer for r in stream.shard(0, client)] for client in range(config.benchmark.num_clients)]


def test_every_file_of_a_folder_is_a_client_in_the_order_in_which_people_count(tmp_path):
    names = clients(tmp_path)
    told = {"partition": "files", "num_clients": 12}
    config = configure(tmp_path, {"train": "sites", "images": "pictures"}, **told)
    assert answers(config) == [[str(number)] for number in range(12)]
    pattern = configure(
        tmp_path, {"train": "sites/site_1*.json", "images": "pictures"}, partition="files", num_clients=3
    )
    assert answers(pattern) == [["1"], ["10"], ["11"]]
    listed = [f"sites/{name}" for name in reversed(names)]  # a list is in the order in which it is written
    assert answers(configure(tmp_path, {"train": listed, "images": "pictures"}, **told))[0] == ["11"]
    with pytest.raises(DataError, match=r"has 12 training files \(sites/site_0.json, .* \.\.\.\).*num_clients is 2"):
        open_stream(configure(tmp_path, {"train": "sites", "images": "pictures"}, partition="files"))


def test_a_client_may_have_pictures_of_its_own(tmp_path):
    clients(tmp_path, 2)
    (tmp_path / "pictures").rename(tmp_path / "first")
    own_data.write_pictures(tmp_path / "second")
    parts = [{"path": "sites/site_0.json", "images": "first"}, {"path": "sites/site_1.json", "images": "second"}]
    config = configure(tmp_path, {"train": parts}, partition="files")
    stream = open_stream(config)
    assert [stream.shard(0, client)[0].images for client in (0, 1)] == [("first/0.png",), ("second/1.png",)]
    # Written as a partition, each record still says where its pictures are.
    write_partition(configure(tmp_path, {"train": parts}, partition="equal"), tmp_path / "split")
    again = configure(tmp_path, {"train": parts}, partition="files", partition_files="split")
    assert {r.images for c in (0, 1) for r in open_stream(again).shard(0, c)} == {("first/0.png",), ("second/1.png",)}


def test_files_as_clients_are_for_data_of_ones_own(tmp_path):
    with pytest.raises(
        ConfigError, match=r"benchmark.partition_files: needed by benchmark.partition=files, unless all"
    ):
        parse_config({"benchmark": {"tasks": ["IconQA"], "partition": "files"}})


# Validation held out


def test_a_share_is_held_out_by_seed_and_never_trained_on(tmp_path, kind):
    declared = {**own_data.write(tmp_path, kind), "validation": 0.25}
    sets = {}
    for seed in (0, 1):
        collection = collection_of(tmp_path, seed, **declared)
        trained, asked = load_train(collection, "Shirts"), load_test(collection, "Shirts", "validation")
        files = len(collection.sources("Shirts", "train"))
        assert len(asked) == {1: 3, 2: 4}[files]  # a quarter of 12, or of 6 twice: 1.5 rounds to 2
        assert len(trained) + len(asked) == own_data.NUM_TRAIN
        assert not {record.id for record in trained} & {record.id for record in asked}
        answer_of = {row["id"]: row["answer"] for row in own_data.rows("train")}
        assert all(record.answer == answer_of[record.id] and record.turns[-1].answer is None for record in asked)
        sets[seed] = {record.id for record in asked}
    assert sets[0] != sets[1]


def test_of_a_conversation_the_last_question_is_asked_behind_what_was_said(tmp_path):
    own_data.write_pictures(tmp_path / "pictures")
    turns = [("human", "<image>\nWhat is it?"), ("gpt", "a shirt"), ("human", "How many buttons?"), ("gpt", "2")]
    item = {"image": "2.png", "conversations": [{"from": role, "value": text} for role, text in turns]}
    own_data.write_json(tmp_path / "train.json", [item, item])
    own_data.write_json(tmp_path / "test.json", [item])
    collection = collection_of(tmp_path, train="train.json", test="test.json", images="pictures", validation=0.5)
    (held,) = load_test(collection, "Shirts", "validation")
    (asked,) = load_test(collection, "Shirts", "test")
    for record in (held, asked):
        assert [(turn.question, turn.answer) for turn in record.turns] == [
            ("<image>\nWhat is it?", "a shirt"), ("How many buttons?", None),
        ]  # fmt: skip
        assert record.answer == "2"
    assert asked.id == "test.json:0"


def test_a_record_in_quarantine_moves_no_other_into_or_out_of_validation(tmp_path):
    declared = {**own_data.write(tmp_path, "json"), "validation": 0.25}
    collection = collection_of(tmp_path, **declared)
    before = {record.id for record in load_test(collection, "Shirts", "validation")}
    kept = next(record.index for record in load_train(collection, "Shirts"))
    (tmp_path / "pictures" / f"{kept}.png").unlink()
    set_aside(check_data(collection, ["Shirts"], honour_quarantine=False))
    assert {record.id for record in load_test(collection, "Shirts", "validation")} == before
    assert f"train-{kept}" not in {record.id for record in load_train(collection, "Shirts")}


@pytest.mark.parametrize("partition", ["dirichlet", "labels", "equal", "field", "files"])
def test_no_partition_trains_on_what_is_held_out(tmp_path, partition):
    declared = {**own_data.write(tmp_path, "hub"), "validation": 0.2}
    field = {"partition_field": "answer"} if partition == "field" else {}
    config = configure(tmp_path, declared, partition=partition, split="validation", **field)
    stream = open_stream(config)
    trained = {record.id for client in (0, 1) for record in stream.shard(0, client)}
    asked = {record.id for record in load_test(Collection.of(config.benchmark, 0), "Shirts", "validation")}
    assert len(asked) == 2  # of two files of six a fifth: one each
    assert len(trained) == own_data.NUM_TRAIN - 2
    assert not trained & asked
    assert majority_results(config)["num_records"] == {"Shirts": 2}


def test_a_written_partition_says_what_it_held_out_and_runs_agree_or_are_refused(tmp_path):
    declared = {**own_data.write(tmp_path, "csv"), "validation": 0.25}
    manifest = write_partition(configure(tmp_path, declared, partition="equal"), tmp_path / "split")
    assert manifest["checked"]["records"] == 9
    held_out = manifest["held_out"]["Shirts"]
    assert (held_out["share"], held_out["seed"], len(held_out["positions"]["train.csv"])) == (0.25, 0, 3)

    def run(share: float | None = 0.25, seed: int = 0, **more: Any) -> Config:
        told = {**declared, "validation": share}
        return configure(tmp_path, told, seed, partition="files", partition_files="split", **more)

    trained = [record for client in (0, 1) for record in open_stream(run(split="validation")).shard(0, client)]
    asked = load_test(Collection.of(run().benchmark, 0), "Shirts", "validation")
    assert len(trained) == 9
    assert not {record.id for record in trained} & {record.id for record in asked}
    for other, words in ((run(seed=1), "was made with the seed 0"), (run(share=0.5), "was made with the share 0.25")):
        with pytest.raises(DataError, match=words):
            open_stream(other)
    write_partition(configure(tmp_path, {**declared, "validation": None}, partition="equal"), tmp_path / "whole")
    with pytest.raises(DataError, match=r"does not say what was held out of Shirts"):
        open_stream(configure(tmp_path, declared, partition="files", partition_files="whole"))


def test_without_validation_records_the_key_is_named(tmp_path):
    declared = own_data.write(tmp_path, "json")
    with pytest.raises(DataError, match=r"has no validation records; name their file in benchmark\.datasets\.Shirts"):
        load_test(collection_of(tmp_path, **declared), "Shirts", "validation")


# Partitions in folders of tasks


def test_a_tasks_only_dataset_needs_no_folder_of_pictures_and_several_do(tmp_path):
    declared = own_data.write(tmp_path, "json")
    items = json.loads((tmp_path / "train.json").read_text())
    for client in (0, 1):
        (tmp_path / "parts" / "Task3").mkdir(parents=True, exist_ok=True)
        own_data.write_json(tmp_path / "parts" / "Task3" / f"client_{client}.json", items[client::2])
    told = {"partition": "files", "partition_files": "parts"}
    stream = open_stream(configure(tmp_path, declared, **told))
    assert [r.id for r in stream.shard(0, 1)] == [f"train-{number}" for number in range(1, 12, 2)]
    assert stream.shard(0, 0)[0].images == ("pictures/0.png",)
    two = {
        "tasks": [{"name": "Both", "datasets": ["Shirts", "Coats"]}],
        "datasets": {"Shirts": declared, "Coats": declared},
    }
    with pytest.raises(DataError, match=r"datasets\.Shirts\.image_folder, benchmark\.datasets\.Coats\.image_folder"):
        open_stream(configure(tmp_path, declared, **told, **two))
    apart = {"tasks": ["Shirts", "Coats"], "datasets": two["datasets"]}
    with pytest.raises(DataError, match=r"say it with benchmark.partition_tasks, one of Task3 a task"):
        open_stream(configure(tmp_path, declared, **told, **apart))


def test_keys_and_messages_hold_in_clients_files_too(tmp_path):
    own_data.write_pictures(tmp_path / "pictures")
    (tmp_path / "parts" / "Task1").mkdir(parents=True)
    item = {"file": "0.png", "ask": own_data.QUESTION, "reply": 0}
    chat = own_data.chat(own_data.rows("train")[1])
    for keys, items in (({"image": "file", "question": "ask", "answer": "reply"}, [item]), ({}, [chat])):
        for client in (0, 1):
            own_data.write_json(tmp_path / "parts" / "Task1" / f"client_{client}.json", items)
        declared = {"images": "pictures", "keys": keys, "test": "none.json"}
        stream = open_stream(configure(tmp_path, declared, partition="files", partition_files="parts"))
        (record,) = stream.shard(0, 1)
        assert (record.turns[0].answer, record.images) == (
            ("0", ("pictures/0.png",)) if keys else ("1", ("pictures/1.png",))
        )


def test_a_written_partition_of_any_format_is_read_back(tmp_path, kind):
    declared = own_data.write(tmp_path, kind)
    config = configure(tmp_path, declared, partition="dirichlet")
    write_partition(config, tmp_path / "split")
    again = configure(tmp_path, declared, partition="files", partition_files="split")
    ours, theirs = open_stream(config), open_stream(again)
    for client in (0, 1):
        expected = said(str(tmp_path), ours.shard(0, client))
        assert said(str(tmp_path), theirs.shard(0, client)) == expected


def test_a_record_set_aside_since_is_missed_in_no_format(tmp_path):
    declared = own_data.write(tmp_path, "csv")
    write_partition(configure(tmp_path, declared, partition="equal"), tmp_path / "split")
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    set_aside(check_data(collection_of(tmp_path, **declared), ["Shirts"], honour_quarantine=False))
    with pytest.raises(
        DataError, match=r"is record 3 \(id 'train-3'\) of train\.csv, which quarantine\.json sets aside"
    ):
        open_stream(configure(tmp_path, declared, partition="files", partition_files="split"))


# As Parquet


def test_any_declared_data_is_converted_with_its_pictures(tmp_path, kind):
    declared = {**own_data.write(tmp_path / "data", kind), "validation": 0.25}
    collection = collection_of(tmp_path / "data", **declared)
    write_parquet(collection, str(tmp_path / "out"))
    converted = collection_of(tmp_path / "out", **declared)
    for split in ("train", "test", "validation"):
        load = load_train if split == "train" else lambda c, name, split=split: load_test(c, name, split)
        records = load(converted, "Shirts")
        assert records == load(collection, "Shirts")
        check_images(converted.root, records)
        assert said(converted.root, records) == said(collection.root, records)


def test_sources_outside_of_the_root_are_converted_under_names_of_their_own(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    own_data.write(there, "json")
    here.mkdir()
    items = json.loads((there / "train.json").read_text())
    items[0]["image"] = str(there / "pictures" / "0.png")
    own_data.write_json(there / "train.json", items)
    declared = {
        "train": str(there / "train.json"),
        "test": f"file://{there}/test.json",
        "images": str(there / "pictures"),
    }
    collection = collection_of(here, **declared)
    manifest = write_parquet(collection, str(tmp_path / "out"))
    names = [file.name for table in manifest.tables.values() for file in table]
    assert [name.split("/")[:2] for name in names] == [
        ["records", "outside"],
        ["records", "outside"],
        ["images", "00000.parquet"],
    ]
    converted = collection_of(tmp_path / "out", **declared)
    assert load_train(converted, "Shirts") == load_train(collection, "Shirts")
    assert load_test(converted, "Shirts") == load_test(collection, "Shirts")
    check_images(converted.root, load_train(converted, "Shirts"))


def test_of_a_catalogs_data_whose_authors_ship_no_validation_a_share_is_held_out(tmp_path):
    root = write_authors_root(tmp_path, num_train=8, datasets=("IconQA", "Flickr30k-cap", "Grounding"))
    for name in ("IconQA", "Flickr30k-cap", "Grounding"):
        benchmark = {"root": str(root), "tasks": [name], "num_clients": 2, "clients_per_round": 2, "min_samples": 1}
        with pytest.raises(DataError, match=rf"{name}/validation\.json: no such file, .*benchmark\.validation=0\.1"):
            load_test(Collection.of(parse_config({"benchmark": benchmark}).benchmark), name, "validation")
        config = parse_config({"seed": 3, "benchmark": {**benchmark, "validation": 0.25, "split": "validation"}})
        asked = load_test(Collection.of(config.benchmark, 3), name, "validation")
        trained = open_stream(config).records[0]
        assert (len(asked), len(trained)) == (2, 6)
        assert {record.index for record in asked} | {record.index for record in trained} == set(range(8))
        assert all(record.references == (record.answer,) for record in asked) or name != "Flickr30k-cap"
        assert all(record.box and record.size for record in asked) or name != "Grounding"
    with pytest.raises(ConfigError, match=r"benchmark\.validation: "):
        parse_config({"benchmark": {**benchmark, "validation": 1.5}})
