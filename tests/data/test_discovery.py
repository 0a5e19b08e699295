"""`fcit-ray prepare init`: what files are taken for, why, and that the configuration written from it loads the data."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fcit_ray.cli import app as cli
from fcit_ray.config.reading import load_config
from fcit_ray.data.discovery.answers import guess_kind
from fcit_ray.data.discovery.discover import Wishes, discover
from fcit_ray.data.discovery.found import Found
from fcit_ray.data.discovery.keys import find_keys
from fcit_ray.data.discovery.names import bare, split_of
from fcit_ray.data.discovery.words import found_lines
from fcit_ray.data.discovery.writing import configuration
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import check_images, load_test, load_train
from fcit_ray.errors import DataError

COLOURS = ("red", "green", "blue")
QUESTION = "What colour is it?"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of three pictures."""
    monkeypatch.chdir(tmp_path)
    for number, colour in enumerate(COLOURS):
        (tmp_path / "own/pictures").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8), colour).save(tmp_path / f"own/pictures/{colour}.png")
    return tmp_path


def rows(start: int, stop: int) -> list[dict[str, Any]]:
    colours = [COLOURS[number % 3] for number in range(start, stop)]
    return [{"id": str(number), "image": f"{colour}.png", "question": QUESTION, "answer": colour}
            for number, colour in enumerate(colours, start)]  # fmt: skip


def put(path: str, content: Any) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def llava(row: dict[str, Any]) -> dict[str, Any]:
    said = [{"from": "human", "value": f"<image>\n{row['question']}"}, {"from": "gpt", "value": row["answer"]}]
    return {"id": row["id"], "image": row["image"], "conversations": said}


def chat(row: dict[str, Any]) -> dict[str, Any]:
    asked = [{"type": "image"}, {"type": "text", "text": row["question"]}]
    said = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["answer"]}]
    return {"id": row["id"], "images": [row["image"]], "messages": said}


def lines(items: list[Any]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def as_csv(items: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["nr", "photo", "question", "label"])
    table.writerows([row["id"], row["image"], row["question"], row["answer"]] for row in items)
    return text.getvalue()


def as_table(items: list[dict[str, Any]]) -> pa.Table:
    pictures = [{"bytes": Path("own/pictures", row["image"]).read_bytes(), "path": row["image"]} for row in items]
    return pa.table({key: pictures if key == "image" else [row[key] for row in items] for key in items[0]})


def as_parquet(items: list[dict[str, Any]], path: str) -> None:
    pq.write_table(as_table(items), path)


def as_saved(items: list[dict[str, Any]], path: str) -> None:
    """As `save_to_disk` of the datasets library lays a split out, with the same names."""
    folder = Path(path)
    folder.mkdir(parents=True)
    table = as_table(items)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    put(f"{path}/state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    put(f"{path}/dataset_info.json", {"features": {}})
    put(f"{folder.parent}/dataset_dict.json", {"splits": ["train", "test"]})


FORMATS: dict[str, tuple[str, Callable[[list[dict[str, Any]], str], Any], str]] = {
    "JSON, a list of records": ("own/{}.json", lambda items, path: put(path, [llava(row) for row in items]),
                                "conversations"),
    "JSON Lines": ("own/{}.jsonl", lambda items, path: put(path, "\ufeff" + lines(items)), "question"),
    "JSON Lines of chat messages": ("own/{}.jsonl", lambda items, path: put(path, lines([chat(row) for row in items])),
                                    "messages"),
    "CSV": ("own/{}.csv", lambda items, path: put(path, as_csv(items)), "question"),
    "Parquet": ("own/{}.parquet", as_parquet, "question"),
    "folder of the datasets library (save_to_disk)": ("own/saved/{}", as_saved, "question"),
}  # fmt: skip


def declared(found: Found) -> tuple[Any, Collection]:
    """The configuration that is written of what was found, loaded, and its datasets."""
    config = load_config([put("mine.yaml", configuration(found, "fcit-ray prepare init own", "mine.yaml"))])
    return config, Collection.of(config.benchmark, config.seed)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_told_and_declared_so_that_its_records_are_read(here, format):
    pattern, write, key = FORMATS[format]
    write(rows(0, 30), pattern.format("train"))
    write(rows(30, 36), pattern.format("test"))
    found = discover([Path("own")])
    (dataset,) = found.datasets
    assert [(split, tables[0].format) for split, tables in dataset.group.parts.items()] == [
        ("train", format), ("test", format),
    ]  # fmt: skip
    first = dataset.group.parts["train"][0].found
    assert (first.turns or first.keys["question"]) == key
    said = "\n".join(found_lines(found))
    assert "exact: 36 of 36 answers have at most 5 words; 3 are different: red (12), green (12), blue (12)" in said
    assert ("stand in the tables themselves" in said) == (format.startswith(("Parquet", "folder")))
    assert "8 x 8 to 10 x 8 pixels" in said
    config, collection = declared(found)
    assert [task.name for task in config.benchmark.tasks] == [dataset.name]
    trained, tested = load_train(collection, dataset.name), load_test(collection, dataset.name)
    check_images(config.benchmark.root, [*trained, *tested])
    wanted = [(QUESTION, row["answer"]) for row in rows(0, 36)]
    assert [(r.turns[0].question.replace("<image>\n", ""), r.turns[0].answer) for r in trained] == wanted[:30]
    assert [(r.turns[0].question.replace("<image>\n", ""), r.answer) for r in tested] == wanted[30:]


def test_of_one_file_a_share_is_held_out_and_answered(here):
    put("own/colours.json", rows(0, 30))
    found = discover([Path("own")])
    config, collection = declared(found)
    assert (config.benchmark.split, found.datasets[0].num_trained) == ("validation", 24)
    held = load_test(collection, "colours", "validation")
    assert (len(held), len(load_train(collection, "colours"))) == (6, 24)
    assert "no file: 6 training records are held out (validation: 0.2)" in "\n".join(found_lines(found))


TREES = {
    "a name for each": (["shapes_train.json", "shapes_test.json", "colours_train.json", "colours_test.json"],
                        {"colours": ("colours_train.json", "colours_test.json"),
                         "shapes": ("shapes_train.json", "shapes_test.json")}),
    "a folder for each": (["a/train_4w.json", "a/test_1w.json", "b/train.json", "b/test.json"],
                          {"a": ("a/train_4w.json", "a/test_1w.json"), "b": ("b/train.json", "b/test.json")}),
    "a folder a split": (["train/a.json", "train/b.json", "test/a.json", "test/b.json"],
                         {"a": ("train/a.json", "test/a.json"), "b": ("train/b.json", "test/b.json")}),
    "clients by name": (["clients/client_0.json", "clients/client_10.json", "clients/client_2.json", "test.json"],
                        {"own": ("clients", "test.json")}),
    "clients of any name": (["train/oslo.json", "train/rome.json", "test.json"], {"own": ("train", "test.json")}),
    "parts of one table": (["train/part-0.json", "train/part-1.json", "test.json"], {"own": ("train", "test.json")}),
    "one of each": (["llava_train.json", "bench_val.json"], {"llava": ("llava_train.json", "bench_val.json")}),
}  # fmt: skip


@pytest.mark.parametrize("tree", TREES)
def test_files_are_put_together_by_names_and_places(here, tree):
    files, wanted = TREES[tree]
    for number, name in enumerate(files):
        put(f"own/{name}", rows(30 * number, 30 * number + 30))
    found = discover([Path("own")])
    config, _ = declared(found)
    got = {name: (each.train[0].path, each.test[0].path) for name, each in config.benchmark.datasets.items()}
    assert got == wanted
    clients = tree.startswith("clients")
    assert (config.benchmark.partition == "files") == clients
    if clients:
        assert config.benchmark.num_clients == len(files) - 1
        assert "a file a client" in "\n".join(found_lines(found))


def test_what_belongs_to_nothing_is_left_aside_with_the_reason(here):
    put("own/a_train.json", rows(0, 30))
    put("own/b_train.json", rows(0, 30))
    put("own/c_test.json", rows(0, 6))
    put("own/a_training.json", rows(0, 6))
    put("own/notes.json", {"a": 1})
    said = "\n".join(found_lines(discover([Path("own")])))
    assert "Left aside: own/c_test.json: named for test records, but no training records of 'c' were found" in said
    assert "Left aside: own/a_training.json: own/a_train.json was taken for the train records of a already" in said
    assert "Left aside: own/notes.json: holds a JSON dict" in said
    assert "Order: a, b, as they were found; the order of the stream is benchmark.tasks, yours to choose" in said


@pytest.mark.parametrize(
    ("answers", "kind", "why"),
    [
        (["[0.1, 0.2, 0.5, 0.6]"] * 3, "box", "3 of 3 answers are boxes, as '[0.1, 0.2, 0.5, 0.6]'"),
        (["A", "B", "(C)", "D."], "choice", "4 of 4 answers are a single letter: A (1)"),
        (["3", "12", "-4"], "number", "3 of 3 answers are numbers, as '3' and '12'"),
        (["1,200", "3.5%", "$4"], "number", "3 of 3 answers are numbers"),
        (["yes", "no", "no"], "exact", "3 of 3 answers have at most 5 words; 2 are different: no (2), yes (1)"),
        (["a red bird sits on a roof", "two men walk in the rain"], "caption", "half of the 2 answers have 6.5 words"),
        (["[0.1, 0.2, 0.5, 0.6]", "a dog"], None, "1 of 2 answers hold a box, the others words"),
        (["3", "4", "cyan", "red"], "exact", "4 are different"),
    ],
)
def test_the_kind_of_answers_is_told_by_the_answers(answers, kind, why):
    guess = guess_kind([("What?", answer) for answer in answers])
    assert guess.kind == kind
    assert why in guess.why
    assert not guess.counts


def test_whole_numbers_are_counts_where_the_questions_count():
    assert guess_kind([("How many dots are there?", "3"), ("How many are left?", "4")]).counts
    assert not guess_kind([("How many litres?", "3.5"), ("How many hours?", "4")]).counts
    assert not guess_kind([("Which year?", "1999"), ("Which year?", "2001")]).counts


def test_reference_captions_beside_the_test_records_are_found(here):
    put("own/train_brief.json", rows(0, 30))
    put("own/test_brief.json", rows(30, 36))
    put("own/test_coco_type.json", {"images": [], "annotations": []})
    (dataset,) = discover([Path("own")]).datasets
    assert (dataset.answer.kind, dataset.references) == ("caption", {"test": Path("own/test_coco_type.json")})


def test_boxes_in_test_records_need_the_sizes_that_score_them(here):
    boxed = [{**row, "answer": "[0.1, 0.2, 0.5, 0.6]"} for row in rows(0, 36)]
    put("own/train.json", boxed[:30])
    put("own/test.json", boxed[30:])
    with pytest.raises(DataError, match=r"6 of 6 records of own/test\.json lack .* 'answer_bbox' .* and 'size'"):
        discover([Path("own")])
    sized = [{**row, "answer_bbox": [0.1, 0.2, 0.5, 0.6], "size": [8, 8]} for row in boxed[30:]]
    put("own/test.json", sized)
    _, collection = declared(discover([Path("own")]))
    assert load_test(collection, "own")[0].box == (0.1, 0.2, 0.5, 0.6)
    Path("own/test.json").unlink()
    _, collection = declared(discover([Path("own")]))
    assert load_test(collection, "own", "validation")[0].size in ((8, 8), (9, 8), (10, 8))  # the pictures' own


def test_what_several_people_answered_is_voted_on(here):
    votes = [{**row, "answers": [row["answer"]] * 7 + ["grey"] * 3} for row in rows(30, 36)]
    put("own/train.json", rows(0, 30))
    put("own/test.json", [{key: value for key, value in row.items() if key != "answer"} for row in votes])
    found = discover([Path("own")])
    assert "6 of 6 records of own/test.json list what several people answered, 10 to 10" in "\n".join(
        found_lines(found)
    )
    _, collection = declared(found)
    assert [record.answer for record in load_test(collection, "own")] == ["red", "green", "blue"] * 2
    put("own/train.json", Path("own/test.json").read_text())
    with pytest.raises(DataError, match="none is the one to teach"):
        discover([Path("own")])


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"question_id": 1, "image": "a.png", "text": "b", "answer": "c"}, {}),
        ({"Image Path": "a.png", "Query": "b", "Response": "c"},
         {"image": "Image Path", "question": "Query", "answer": "Response"}),
        ({"bild": "a.png", "frage": "b?", "antwort": "c"}, {"image": "bild", "question": "frage", "answer": "antwort"}),
        ({"id": 1, "image": "a.png", "messages": [{"role": "user", "content": "a"}]}, {}),
    ],
)  # fmt: skip
def test_keys_are_told_by_their_names_and_what_stands_there(row, keys):
    found = find_keys([row] * 3)
    assert (found.missing, dict(found.unusual)) == ("", keys)


def test_keys_that_cannot_be_told_are_asked_for(here):
    odd = [{"bild": row["image"], "frage": QUESTION, "antwort": row["answer"], "laune": "gut"} for row in rows(0, 30)]
    put("own/train.json", odd)
    with pytest.raises(DataError, match=r"known to hold the answer; they have bild \(30 of 30\), .*--key answer=NAME"):
        discover([Path("own")])
    with pytest.raises(DataError, match="no record has 'antwrt'"):
        discover([Path("own")], Wishes(keys={"answer": "antwrt"}))
    config, _ = declared(discover([Path("own")], Wishes(keys={"answer": "antwort"})))
    keys = config.benchmark.datasets["own"].keys
    assert (keys.question, keys.answer, keys.image, keys.id) == ("frage", "antwort", "bild", None)


def test_pictures_are_looked_for_and_missing_ones_said(here):
    put("own/deep/er/train.json", rows(0, 30))
    (dataset,) = discover([Path("own/deep/er/train.json")]).datasets
    assert dataset.pictures.folder == Path("own/pictures")
    assert (dataset.pictures.found, dataset.pictures.looked_for) == (3, 3)
    Path("own/pictures/red.png").unlink()
    said = "\n".join(found_lines(discover([Path("own/deep/er/train.json")])))
    assert "2 of 3 names are files below own/pictures/, 9 x 8 to 10 x 8 pixels; 'red.png' is not there" in said
    put("away/train.json", rows(0, 30))
    with pytest.raises(DataError, match=r"'red\.png' and 2 others are in none of away, .*by --images"):
        discover([Path("away")])
    (dataset,) = discover([Path("away")], Wishes(images=Path("own/pictures"))).datasets
    assert dataset.pictures.found == 2
    put("upwards/train.json", [{**row, "image": str(here / "own/pictures" / row["image"])} for row in rows(0, 30)])
    with pytest.raises(DataError, match="absolute paths or such that lead upwards"):
        discover([Path("upwards")])
    with pytest.raises(DataError, match="--images nowhere: no such folder"):
        discover([Path("away")], Wishes(images=Path("nowhere")))


def test_records_without_a_picture_and_with_several_are_counted(here):
    mixed = [
        {**row, "image": [[], row["image"], ["red.png", "blue.png"]][number % 3]}
        for number, row in enumerate(rows(0, 31))
    ]
    put("own/train.json", mixed)
    found = discover([Path("own")])
    said = "\n".join(found_lines(found))
    assert "3 of 3 names are files below own/pictures/" in said
    assert "; 11 of 31 records have none; 10 of 31 records have several" in said
    _, collection = declared(found)
    held = load_test(collection, "own", "validation")
    assert len(held) == found.datasets[0].num_held_out
    put("own/train.json", [{key: value for key, value in row.items() if key != "image"} for row in rows(0, 30)])
    assert "Pictures    none: its records have no pictures" in "\n".join(found_lines(discover([Path("own")])))


def test_test_records_that_are_trained_on_are_said(here):
    put("own/train.json", rows(0, 30))
    put("own/test.json", rows(0, 4))
    said = "\n".join(found_lines(discover([Path("own")])))
    assert "4 test questions stand in the training records too, with the same pictures and answer" in said


@pytest.mark.parametrize(("records", "clients", "least"), [(2, 2, 1), (39, 2, 4), (100, 5, 5), (5000, 10, 10)])
def test_the_sizes_of_a_run_fit_the_data(here, records, clients, least):
    put("own/train.json", rows(0, records))
    put("own/test.json", rows(records, records + 3))
    config, _ = declared(discover([Path("own")]))
    benchmark = config.benchmark
    assert (benchmark.num_clients, benchmark.min_samples) == (clients, least)
    assert benchmark.clients_per_round == (clients + 1) // 2
    assert records >= clients * least


def test_too_few_records_for_two_clients_are_refused(here):
    put("own/train.json", rows(0, 1))
    put("own/test.json", rows(1, 3))
    with pytest.raises(DataError, match="own: 1 training records are too few"):
        declared(discover([Path("own")]))


@pytest.mark.parametrize(
    ("name", "split", "left"),
    [
        ("train_brief_4w", "train", ""),
        ("shapes-val2017", None, "shapes-val2017"),
        ("trainSet", "train", "Set"),
        ("ImageNet-R", None, "ImageNet-R"),
        ("constraints", None, "constraints"),
        ("dev", "validation", ""),
    ],
)
def test_names_say_which_split_a_file_is(name, split, left):
    assert split_of(Path(f"a/test/{name}.json"), Path("a/test")) == split
    assert bare(name) == left


# The command.


def init(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fcit-ray", "prepare", "init", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return int(exit.value.code or 0)


def test_the_command_says_what_it_found_and_never_overwrites(here, monkeypatch, capsys):
    put("own/colours.json", rows(0, 30))
    assert init(monkeypatch, "own", "--out", "mine.yaml") == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-4:] == [
        "Written: mine.yaml", "Next:", "  fcit-ray prepare check mine.yaml", "  fcit-ray run mine.yaml disco",
    ]  # fmt: skip
    before = Path("mine.yaml").read_text()
    assert "# colours: written by `fcit-ray prepare init own --out mine.yaml`." in before.replace("\n# ", " ")
    put("own/colours.json", rows(0, 60))
    assert init(monkeypatch, "own", "--out", "mine.yaml") == 2
    assert "mine.yaml is there already; --overwrite replaces it" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == before
    assert init(monkeypatch, "own", "--out", "mine.yaml", "--overwrite", "--name", "Colours") == 0
    assert list(load_config([Path("mine.yaml")]).benchmark.datasets) == ["Colours"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["own"], "own: no file of records in it; expected .json, .jsonl"),
        (["own/pictures/red.png"], "red.png: its name ends in .png; expected .json"),
        (["s3://bucket/own"], "expected files or folders of this machine; what lies behind a URI is declared by hand"),
        (["own", "--validation", "1.5"], "--validation 1.5: expected a share between 0 and 1"),
        (["own", "--out", "mine.json"], "--out mine.json: expected a name that ends in .yaml"),
        (["own", "--out", "a/mine.yaml"], "a/mine.yaml: its folder is not there"),
        (["own", "--answer", "letters"], "expected exact, "),
        (["own", "--key", "reply=a"], "--key reply=a: expected question=NAME"),
        (["own", "--name", "a/b"], "--name: 'a/b': expected a name"),
    ],
)
def test_what_cannot_be_used_is_said_and_nothing_is_written(here, monkeypatch, capsys, arguments, said):
    assert init(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    assert not list(here.glob("*.yaml"))
