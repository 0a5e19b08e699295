"""Partitions on disk: the authors' folders as they are, and ours written once, whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
from fcit_layout import fcit
from stand_in import training

from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.parquet.manifest import Manifest, Plan
from fcit_ray.data.partition.files import load_partition, place_of
from fcit_ray.data.partition.stream import open_stream
from fcit_ray.data.partition.writing import partition_counts, write_partition
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.quarantine import Entry, read_quarantine, record_sha256, write_quarantine
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.models.prompt import Turn
from fcit_ray.results.majority import majority_results
from fcit_ray.results.plots import plot_counts

CAPABILITIES = [
    {"name": "General", "datasets": ["AOKVQA", "IconQA", "Grounding", "ImageNet-R"]},
    {"name": "Math", "datasets": ["CLEVR-Math", "super-CLEVR"]},
]


def partition_of(config: Config):
    return load_partition(config.benchmark, Collection.of(config.benchmark))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("miniature") / "data"
    write_miniature(folder, num_train=24, num_validation=1, num_test=2)
    return folder


def configure(root: Path, **benchmark) -> Config:
    base = {"root": str(root), "tasks": CAPABILITIES, "num_clients": 4, "clients_per_round": 2, "min_samples": 3}
    return parse_config({"benchmark": {**base, **benchmark}})


def held(stream) -> list[list[list[tuple]]]:
    """What training sees of every client's records, in order."""
    return [
        [[(r.dataset, r.images, r.turns) for r in stream.shard(task, client)] for client in range(len(shards))]
        for task, shards in enumerate(stream.shards)
    ]


# The authors' files


def write_task(folder: Path, number: int, clients: list[list[dict]]) -> None:
    (folder / f"Task{number}").mkdir(parents=True, exist_ok=True)
    for client, items in enumerate(clients):
        (folder / f"Task{number}" / f"client_{client}.json").write_text(json.dumps(items, indent=4))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"id": NaN, "image": "a.png"}]', r"1 of 1 records cannot be used:\n  record 0 .*'id' is NaN; expected text"),
        ("version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer in the place of the file"),
        ("[" * 100_000, "is JSON that is nested too deeply to be read"),
        ("", "is empty, as a copy or download that broke off leaves it"),
        (None, r"is a named pipe \(FIFO\); expected a file"),
    ],
)
def test_a_clients_file_that_cannot_be_read_is_named(root, tmp_path, content, said):
    (tmp_path / "Task1").mkdir()
    if content is None:
        os.mkfifo(tmp_path / "Task1" / "client_0.json")
    else:
        (tmp_path / "Task1" / "client_0.json").write_text(content)
    one = {"tasks": ["ImageNet-R"], "num_clients": 1, "clients_per_round": 1, "partition_tasks": [1]}
    with pytest.raises(DataError, match=rf"Task1/client_0\.json: {said}"):
        partition_of(configure(root, **one, partition="files", partition_files=str(tmp_path)))


def pictures(*images: str) -> list[dict]:
    return [training(f"{image} {index}", f"./{image}") for index, image in enumerate(images)]


@pytest.fixture
def authors(tmp_path) -> Config:
    """Two clients; the files' tasks in another order than the stream's: ImageNet-R first, as they have been seen."""
    folder = tmp_path / "partitioned_data/Task-related/seq/1.0"
    write_task(folder, 1, [pictures("ImageNet-R/train/a.png"), pictures(*["ImageNet-R/train/b.png"] * 2)])
    write_task(folder, 2, [pictures(*["ArxivQA/images/a.jpg"] * 3), pictures("ArxivQA/images/b.jpg")])
    write_task(folder, 3, [pictures("OCR-VQA/images/a.jpg"), pictures("OCR-VQA/images/b.jpg")])
    return configure(
        tmp_path,
        tasks=["OCRVQA", "ArxivQA", "ImageNet-R"],
        num_clients=2,
        min_samples=50,  # files are taken as they are
        partition="files",
        partition_files="partitioned_data/Task-related/seq/1.0",
    )


def change(config: Config, **benchmark) -> Config:
    values = config.model_dump(mode="json")
    return parse_config({**values, "benchmark": {**values["benchmark"], **benchmark}})


def test_the_authors_tasks_are_found_by_their_records_whatever_their_order(authors):
    stream = open_stream(authors)
    assert [[stream.num_examples(task, client) for client in range(2)] for task in range(3)] == [[1, 1], [3, 1], [1, 2]]
    assert [record.images[0] for record in stream.shard(2, 1)] == ["datasets/ImageNet-R/train/b.png"] * 2
    assert stream.shard(1, 0)[2].where == (
        "partitioned_data/Task-related/seq/1.0/Task2/client_0.json: record 2 (id 'ArxivQA/images/a.jpg 2')"
    )
    shorter = open_stream(change(authors, tasks=["ImageNet-R"]))
    assert [len(part) for part in shorter.shards[0]] == [1, 2]


def test_an_absolute_folder_is_the_same_as_one_under_the_root(authors):
    folder = Path(authors.benchmark.root) / "partitioned_data/Task-related/seq/1.0"
    assert held(open_stream(change(authors, partition_files=str(folder)))) == held(open_stream(authors))


def quarantine(root: Path, source: str, items: list[dict], *indices: int) -> None:
    """Set records of one more file aside."""
    entries = [
        Entry(index=i, id=items[i]["id"], sha256=record_sha256(items[i]), kind="image", reason="?") for i in indices
    ]
    write_quarantine(root, {**read_quarantine(root), source: entries})


@pytest.mark.parametrize("spelling", ["plain", "slash", "dots", "absolute", "linked root", "linked folder", "Parquet"])
def test_what_is_set_aside_is_left_out_however_the_folder_is_spelled(authors, tmp_path, spelling):
    name, root = "partitioned_data/Task-related/seq/1.0", Path(authors.benchmark.root)
    source = f"{name}/Task2/client_0.json"
    quarantine(root, source, pictures(*["ArxivQA/images/a.jpg"] * 3), 1)
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    if spelling == "linked folder":
        (tmp_path / "scratch").mkdir()
        (root / "partitioned_data").rename(tmp_path / "scratch/moved")
        (root / "partitioned_data").symlink_to(tmp_path / "scratch/moved", target_is_directory=True)
    if spelling == "Parquet":  # the partition of the root that it was made of, which alone has the quarantine
        (tmp_path / "pq").mkdir()
        plan = Plan(images="embed", image_root=None, rows_per_file=1, sources={}, set_aside={}, quarantine=None)
        (tmp_path / "pq/parquet.json").write_text(Manifest(plan=plan, tables={}).model_dump_json())
    changes = {
        "slash": {"partition_files": f"./{name}/"},
        "dots": {"partition_files": "partitioned_data/Task-related/seq/../seq/1.0"},
        "absolute": {"partition_files": str(root / name)},
        "linked root": {"root": str(tmp_path / "link"), "partition_files": str(root / name)},
        "Parquet": {"root": str(tmp_path / "pq"), "partition_files": str(root / name)},
    }
    shard = partition_of(change(authors, **changes.get(spelling, {})))[1][0]
    assert [record.id for record in shard] == ["ArxivQA/images/a.jpg 0", "ArxivQA/images/a.jpg 2"]
    if spelling != "Parquet":
        assert {record.source for record in shard} == {source}


def test_a_broken_record_set_aside_does_not_keep_its_task_from_being_found(authors):
    folder, source = authors.benchmark.partition_files, f"{authors.benchmark.partition_files}/Task2/client_0.json"
    broken = [*pictures("ArxivQA/images/a.jpg"), training("x", "ArxivQA/images/b.jpg", conversations=[])]
    root = Path(authors.benchmark.root)
    write_task(root / folder, 2, [broken])
    quarantine(root, source, broken, 1)
    assert [record.id for record in partition_of(authors)[1][0]] == ["ArxivQA/images/a.jpg 0"]


def test_tasks_of_equal_datasets_must_be_named(authors):
    twins = [{"name": name, "datasets": ["OCRVQA"]} for name in ("early", "late")]
    folder = Path(authors.benchmark.root) / "partitioned_data/Task-related/seq/1.0"
    write_task(folder, 4, [pictures(*["OCR-VQA/images/c.jpg"] * 5), pictures("OCR-VQA/images/d.jpg")])
    with pytest.raises(DataError, match=r"task 'early' \(OCRVQA\) could be Task3, Task4.*benchmark\.partition_tasks"):
        open_stream(change(authors, tasks=twins))
    stream = open_stream(change(authors, tasks=twins, partition_tasks=[4, 3]))
    assert [stream.num_examples(task, 0) for task in range(2)] == [5, 1]
    with pytest.raises(DataError, match=r"holds no Task9, only Task1, Task2, Task3, Task4"):
        open_stream(change(authors, tasks=twins, partition_tasks=[4, 9]))


def test_a_task_that_no_folder_holds_says_what_they_hold(authors):
    with pytest.raises(DataError, match=r"no folder is task 'DVQA'.*Task1: ImageNet-R; Task2: ArxivQA; Task3: OCRVQA"):
        open_stream(change(authors, tasks=["OCRVQA", "DVQA"]))
    with pytest.raises(DataError, match=r"Task3: holds no record of TabMWP, which task 'both' has"):
        open_stream(change(authors, tasks=[{"name": "both", "datasets": ["OCRVQA", "TabMWP"]}]))


def test_a_strangers_record_is_named_by_file_and_place(authors):
    folder = Path(authors.benchmark.root) / "partitioned_data/Task-related/seq/1.0"
    write_task(folder, 3, [pictures("OCR-VQA/images/a.jpg"), pictures("OCR-VQA/images/b.jpg", "DVQA/images/c.png")])
    with pytest.raises(DataError) as error:
        open_stream(authors)
    assert "Task3/client_1.json: 1 of 2 records cannot be used" in str(error.value)
    assert "record 1 (id 'DVQA/images/c.png 1'): is of DVQA" in str(error.value)
    write_task(folder, 3, [pictures("OCR-VQA/images/a.jpg"), pictures("OCR-VQA/images/b.jpg")])
    broken = [*pictures("OCR-VQA/images/a.jpg"), training("x", "OCR-VQA/images/b.jpg", conversations=[])]
    write_task(folder, 3, [broken])
    with pytest.raises(DataError, match=r"client_0\.json: 1 of 2 .*\n  record 1 \(id 'x'\): has no conversations"):
        open_stream(authors)


def test_another_number_of_clients_is_refused(authors):
    with pytest.raises(DataError, match=r"Task3: holds 2 clients' files; benchmark\.num_clients=5 wants client_0"):
        open_stream(change(authors, num_clients=5))
    folder = Path(authors.benchmark.root) / "partitioned_data/Task-related/seq/1.0"
    write_task(folder, 2, [pictures("ArxivQA/images/a.jpg"), []])
    with pytest.raises(DataError, match=r"Task2/client_1\.json: holds no records; a client without data"):
        open_stream(authors)


def test_a_folder_that_is_not_there_or_holds_no_tasks_says_so(authors):
    with pytest.raises(DataError, match=r"benchmark\.partition_files: .*nowhere: no such folder"):
        open_stream(change(authors, partition_files="nowhere"))
    with pytest.raises(DataError, match=r"holds 1\.0; expected folders Task1, Task2"):
        open_stream(change(authors, partition_files="partitioned_data/Task-related/seq"))


def test_a_record_without_a_picture_is_of_the_tasks_only_dataset(authors, tmp_path):
    folder = tmp_path / "partitioned_data/Task-related/seq/1.0"
    plain = {"id": "talk", "conversations": [{"from": "human", "value": "hi ?"}, {"from": "gpt", "value": "hi"}]}
    two = {**pictures("OCR-VQA/images/a.jpg")[0], "id": "two", "image": ["OCR-VQA/images/a.jpg"] * 2}
    two["conversations"] = [{"from": "human", "value": "same ?"}, {"from": "gpt", "value": "yes"}]
    write_task(folder, 3, [[plain, two, *pictures("OCR-VQA/images/a.jpg")], pictures("OCR-VQA/images/b.jpg")])
    shard = open_stream(authors).shard(0, 0)
    assert [(record.dataset, len(record.images)) for record in shard] == [("OCRVQA", 0), ("OCRVQA", 2), ("OCRVQA", 1)]
    joined = [{"name": "Text", "datasets": ["OCRVQA", "ArxivQA"]}, "ImageNet-R"]
    with pytest.raises(
        DataError, match=r"(?s)client_0\.json.*has no picture, by whose folder its dataset could be told"
    ):
        open_stream(change(authors, tasks=joined, partition_tasks=[3, 1]))


def test_of_coco_the_records_with_a_box_are_groundings():
    asked = [Turn("Which region is it? [0.1, 0.2, 0.3, 0.4]", "a dog")]
    located = [Turn("Where is the dog?", "[0.1,0.2,0.3,0.4]")]
    plain = [Turn("What is this? A. dog [x]", "A")]
    images = ("COCO2014/train2014/COCO_train2014_000000000009.jpg",)
    assert [place_of(fcit(""), images, turns).dataset for turns in (asked, located, plain)] == [
        "Grounding",
        "Grounding",
        "AOKVQA",
    ]
    assert place_of(fcit(""), ["CLEVR/images/train/CLEVR_train_000001.png"], located).dataset == "CLEVR-Math"
    with pytest.raises(DataError, match="lies in no dataset's folder; known: ArxivQA, Flickr30k"):
        place_of(fcit(""), ["VQAv2/a.png"], plain)


# Written once


@pytest.mark.parametrize("kind", ["dirichlet", "labels", "equal"])
def test_what_was_written_is_read_back_to_the_same_shards(root, tmp_path, kind):
    config = configure(root, partition=kind)
    manifest = write_partition(config, tmp_path / "split", plot_counts)
    again = change(config, partition="files", partition_files=str(tmp_path / "split"))
    assert held(open_stream(again)) == held(open_stream(config))
    # 24 records of each of six datasets
    assert manifest["checked"] == {"records": 144, "held_twice": 0, "missing": 0}
    assert [task["name"] for task in manifest["tasks"]] == ["General", "Math"]
    assert [sum(task["counts"]) for task in manifest["tasks"]] == [96, 48]
    assert {name: sum(counts) for name, counts in manifest["tasks"][0]["datasets"].items()} == {
        "AOKVQA": 24, "IconQA": 24, "Grounding": 24, "ImageNet-R": 24,
    }  # fmt: skip
    assert manifest == json.loads((tmp_path / "split/manifest.json").read_text())
    assert (tmp_path / "split/partition.png").stat().st_size > 5000


def test_a_partition_does_without_the_files_it_was_made_of(root, tmp_path):
    write_partition(configure(root), tmp_path / "split")
    bare = tmp_path / "bare"
    shutil.copytree(root, bare, ignore=shutil.ignore_patterns("train*.json"))
    config = configure(bare, partition="files", partition_files=str(tmp_path / "split"))
    assert [len(records) for records in open_stream(config).records] == [96, 48]
    # two test records of each dataset
    assert majority_results(config)["num_records"] == {"General": 8, "Math": 4}


def test_items_are_written_as_they_stand_in_the_source(write, tmp_path):
    items = [training(str(index), site="a", score=0.1 + index, note="caf\u00e9 \ud83d") for index in range(6)]
    root = write("train.json", json.dumps(items))
    write_partition(configure(root, tasks=["ImageNet-R"], num_clients=2), tmp_path / "split")
    written = [json.loads((tmp_path / f"split/Task1/client_{client}.json").read_text()) for client in range(2)]
    assert sorted(written[0] + written[1], key=lambda item: item["id"]) == items


def test_a_changed_file_is_named(root, tmp_path):
    config = configure(root)
    write_partition(config, tmp_path / "split")
    file = tmp_path / "split/Task2/client_1.json"
    file.write_text(file.read_text().replace("CLEVR_train_000001.png", "CLEVR_train_000002.png") + " ")
    again = change(config, partition="files", partition_files=str(tmp_path / "split"))
    with pytest.raises(DataError, match=r"Task2/client_1\.json: is not the file that .*manifest\.json was written for"):
        open_stream(again)
    with pytest.raises(DataError, match=r"Task2/client_1\.json: is not the file"):
        write_partition(config, tmp_path / "split")


@pytest.mark.parametrize("below", [True, False])
def test_a_record_set_aside_after_the_split_is_not_trained_on(write, tmp_path, tmp_path_factory, below):
    """Neither where the split lies below the root nor where it does not; before the split it is none of it."""
    split = (tmp_path if below else tmp_path_factory.mktemp("elsewhere")) / "splits/half"
    items = [training(str(index), site="a") for index in range(6)]
    root, source = write("train.json", items), "instructions/ImageNet-R/train.json"
    config = configure(root, tasks=["ImageNet-R"], num_clients=2, partition="equal", min_samples=1)
    quarantine(root, source, items, 5)
    manifest = write_partition(config, split)
    assert manifest["set_aside"] == {source: [5]}
    again = change(config, partition="files", partition_files=str(split))
    assert sum(map(len, partition_of(again)[0])) == 5
    quarantine(root, source, items, 2, 5)
    with pytest.raises(
        DataError, match=r"record \d is record 2 \(id '2'\) of .*train\.json, which quarantine\.json sets"
    ):
        partition_of(again)
    # Set aside in the client's file too, as by a check of a root that holds the split, it is only left out.
    if below:
        for client in range(2):
            name = f"Task1/client_{client}.json"
            held = json.loads((split / name).read_text())
            index = next((index for index, item in enumerate(held) if item["id"] == "2"), None)
            if index is not None:
                quarantine(root, f"splits/half/{name}", held, index)
        assert sorted(r.id for part in partition_of(again)[0] for r in part) == ["0", "1", "3", "4"]


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_finished_partition_is_left_alone_and_another_refused(root, tmp_path):
    out = tmp_path / "split"
    write_partition(configure(root), out)
    before = contents(tmp_path)
    write_partition(configure(root), out)
    with pytest.raises(ConfigError, match=r"holds another partition \(beta, tasks, files differ\)"):
        write_partition(configure(root, beta=0.5), out)
    assert contents(tmp_path) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"mine: is there and holds no manifest\.json; nothing is overwritten"):
        write_partition(configure(root), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_interrupted_one_leaves_nothing_and_another_call_completes_it(root, tmp_path, monkeypatch):
    """Killed before any file is whole, and between the last and the renaming: `out` is never half there."""
    out = tmp_path / "split"
    whole = write_partition(configure(root), tmp_path / "whole")
    replace = os.replace
    # 8 clients' files and the manifest are each put in place by a renaming, and then the folder
    for survived in range(10):
        left = survived

        def rename(source, target):
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            replace(source, target)

        monkeypatch.setattr(os, "replace", rename)
        with pytest.raises(KeyboardInterrupt):
            write_partition(configure(root), out)
        assert not out.exists()
        (tmp_path / ".split.partial/Task1").mkdir(parents=True)  # as after a kill, which cleans nothing up
    monkeypatch.setattr(os, "replace", replace)
    assert write_partition(configure(root), out) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["split", "whole"]


def test_only_a_federation_that_splits_can_be_written(root, tmp_path):
    with pytest.raises(ConfigError, match="regime=centralised"):
        write_partition(parse_config({**configure(root).model_dump(mode="json"), "regime": "centralised"}), tmp_path)
    again = configure(root, partition="files", partition_files="x")
    with pytest.raises(ConfigError, match=r"benchmark\.partition=files: there is nothing to split"):
        write_partition(again, tmp_path / "split")


def test_counts_say_what_decided_them(root):
    config = configure(root, partition="equal")
    counts = partition_counts(config, open_stream(config))
    assert {key: counts[key] for key in ("kind", "min_samples", "seed", "num_clients")} == {
        "kind": "equal", "min_samples": 3, "seed": 0, "num_clients": 4,
    }  # fmt: skip
    assert "beta" not in counts
    assert [task["counts"] for task in counts["tasks"]] == [[24] * 4, [12] * 4]
    central = parse_config({**config.model_dump(mode="json"), "regime": "centralised"})
    assert partition_counts(central, open_stream(central))["tasks"][0]["counts"] == [144]
