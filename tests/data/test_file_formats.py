"""Files of any format read to records: told apart by name and content, refused in words, put into one shape."""

import json
from pathlib import Path
from typing import Any

import own_data
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fcit_ray.config.datasets import Dataset, Keys
from fcit_ray.data.formats.chat import from_messages
from fcit_ray.data.formats.columns import read_table
from fcit_ray.data.formats.embedded import Reference, as_reference, reference
from fcit_ray.data.formats.files import files_of
from fcit_ray.data.formats.reading import read_file
from fcit_ray.data.formats.shape import Shape
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import load_train
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.experiment.loading import load_config

RECORD = {"id": "a", "question": "How many?", "answer": "3"}


def read(tmp_path: Path, name: str, content: str | bytes) -> list[Any]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(str(path), name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([RECORD])),
        ("a.json", "\ufeff" + json.dumps([RECORD])),
        ("a.json", (json.dumps([RECORD])).encode("utf-16")),
        ("a.json", f"{json.dumps(RECORD)}\n{json.dumps(RECORD)}\n"),  # lines, under the name that many give them
        ("a.jsonl", f"\n{json.dumps(RECORD)}\r\n\n{json.dumps(RECORD)}"),
        ("a.ndjson", "\ufeff" + json.dumps(RECORD)),
        ("a.CSV", "id,question,answer\na,How many?,3\n"),
        ("a.csv", '\ufeffid,question,answer\r\n\r\n"a","How many?","3"\r\n'),
        ("a.csv", "id;question;answer\na;How many?;3\n"),
        ("a.tsv", "id\tquestion\tanswer\na\tHow many?\t3"),
    ],
)
def test_texts_are_read_however_they_are_written(tmp_path, name, content):
    found = read(tmp_path, name, content)
    assert found
    assert all(item == RECORD for item in found)


def test_a_cell_may_be_empty_hold_lines_or_list_pictures(tmp_path):
    found = read(tmp_path, "a.csv", 'image,question,answer\n"[""a.png"", ""b.png""]","one,\ntwo?",x\n,[a] or b?,\n')
    assert found == [
        {"image": ["a.png", "b.png"], "question": "one,\ntwo?", "answer": "x"},
        {"question": "[a] or b?"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "x", "its name ends in .txt; expected .json, .jsonl, .csv, .tsv, .parquet or .arrow"),
        ("train", "x", "its name ends in nothing; expected .json"),
        ("a.csv", b"PAR1....PAR1", "is named .csv and holds Parquet; give it its own name"),
        ("a.json", b"PAR1....PAR1", "is named .json and holds Parquet; give it its own name"),
        ("a.csv", "[]", "is named .csv and holds JSON; give it its own name"),
        ("a.parquet", "id,image", "is named .parquet and holds text; give it its own name"),
        ("a.arrow", b"PAR1....PAR1", "is named .arrow and holds Parquet; give it its own name"),
        ("a.parquet", b"PAR1 and no more", "is no whole Parquet file"),
        ("a.arrow", b"\xff\xff\xff\xff\x10\x00\x00\x00", "is no whole Arrow table"),
        ("a.json", "{}", "holds a JSON dict; expected a list of records"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", "\n\n", "holds no records"),
        ("a.csv", "id,image\n", "holds no records"),
        ("a.jsonl", '{"a": 1}\n{"a":', "line 2 is not JSON: column"),
        ("a.jsonl", '[\n{"a": 1}]', "line 1 is not JSON: column 2"),
        ("a.jsonl", '[\n{"a": 1}]', "a JSON list belongs into a file named .json"),
        ("a.csv", "id,image\na\n", "line 2: 1 cells for 2 columns (id, image); a cell with ','"),
        ("a.csv", "id,id\na,b\n", "two columns named 'id'; expected names that differ"),
        ("a.csv", "id,name\na,M\u00fcller\n".encode("latin-1"), "byte 11 is no UTF-8; save the table as UTF-8"),
        ("a.csv", b"", "is empty, as a copy or download that broke off leaves it"),
        ("a.jsonl", "<!doctype html><p>", "is a web page (HTML)"),
    ],
)
def test_what_is_not_what_its_name_says_is_refused(tmp_path, name, content, words):
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_told_with_its_neighbours(tmp_path):
    read(tmp_path, "a.json", json.dumps([RECORD]))
    with pytest.raises(DataError, match=r"b\.jsonl: no such file; the folder holds a\.json"):
        read_file(str(tmp_path / "b.jsonl"), "b.jsonl")


# Tables


def test_every_way_to_keep_pictures_in_a_table_is_seen(tmp_path):
    content = {"bytes": b"0", "path": None}
    elsewhere = {"bytes": None, "path": "elsewhere.png"}
    part = pa.struct([("image", own_data.HF_PICTURE), ("text", pa.string()), ("type", pa.string())])
    table = pa.table(
        {
            "plain": pa.array([b"0", b"1", None], pa.binary()),
            "one": pa.array([content, elsewhere, None], own_data.HF_PICTURE),
            "many": pa.array([[content, elsewhere], [], None], pa.list_(own_data.HF_PICTURE)),
            "path": ["a.png", None, "c.png"],
            "parts": pa.array([[{"image": content, "text": None, "type": "image"}], None, None], pa.list_(part)),
            "when": pa.array([0, None, 86400], pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    own_data.write_saved(tmp_path / "saved", table, shards=1)
    for name in ("a.parquet", "saved/data-00000-of-00001.arrow"):
        assert read_table(str(tmp_path / name), name) == [
            {
                "plain": f"{name}#0/plain", "one": f"{name}#0/one", "many": [f"{name}#0/many/0", "elsewhere.png"],
                "path": "a.png", "parts": [{"image": f"{name}#0/parts/0/image", "text": None, "type": "image"}],
                "when": "1970-01-01 00:00:00",
            },
            {"plain": f"{name}#1/plain", "one": "elsewhere.png", "many": []},
            {"path": "c.png", "when": "1970-01-02 00:00:00"},
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({"image": pa.array([b"0"])}, {"image": "a.parquet#0/image"}),  # nothing but pictures
        ({"meta.site": ["x"], "image": pa.array([b"0"], pa.large_binary())},
         {"meta.site": "x", "image": "a.parquet#0/image"}),
        ({"image": pa.array([{"bytes": b"0", "path": "p", "width": 1}]), "a": [1]},
         {"image": "a.parquet#0/image", "a": 1}),
        ({"a": pa.array(["x"]).dictionary_encode(), "b": pa.nulls(1), "c": [[1.5]]}, {"a": "x", "c": [1.5]}),
    ],
)  # fmt: skip
def test_no_row_of_an_odd_table_is_lost(tmp_path, columns, row):
    table = pa.table(columns)
    pq.write_table(pa.concat_tables([table] * 3), tmp_path / "a.parquet", row_group_size=2)
    found = read_table(str(tmp_path / "a.parquet"), "a.parquet")
    assert found == [
        {key: value.replace("#0", f"#{n}") if isinstance(value, str) else value for key, value in row.items()}
        for n in range(3)
    ]


def test_a_reference_names_its_table_row_and_column():
    assert as_reference("s3://b/t.parquet?region=x#12/image") == Reference("s3://b/t.parquet?region=x", 12, ("image",))
    assert as_reference(reference("a.arrow", 3, "my/image #1") + "/0") == Reference("a.arrow", 3, ("my/image #1", "0"))
    for name in ("a.png", "a#1/b", "a.parquet#x/image", "a.parquet"):
        assert as_reference(name) is None


# Which files are meant


def test_files_of_a_folder_are_counted_as_people_do_and_others_left_alone(tmp_path):
    for name in ("client_10.json", "client_9.csv", "client_1.jsonl", ".hidden.json", "_tmp.json", "README.md"):
        (tmp_path / name).write_text("x")
    ordered = ["client_1.jsonl", "client_9.csv", "client_10.json"]
    assert files_of(str(tmp_path.parent), tmp_path.name, "train") == [f"{tmp_path.name}/{name}" for name in ordered]
    assert files_of("elsewhere", str(tmp_path), "train") == [str(tmp_path / name) for name in ordered]
    assert files_of("elsewhere", f"file://{tmp_path}", "train") == [f"file://{tmp_path}/{name}" for name in ordered]
    assert files_of(str(tmp_path), "client_1*", "train") == ["client_1.jsonl", "client_10.json"]
    assert files_of(str(tmp_path), "client_?.*", "train") == ordered[:2]
    assert files_of("elsewhere", f"file://{tmp_path}/client_*0.json", "train") == [f"file://{tmp_path}/client_10.json"]


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        (["README.md", "sub/a.json"], ".", "holds README.md, sub/; expected files of records (.json"),
        (["a.json"], "b*.json", "no file fits; the folder holds a.json"),
        (["sub/a.json"], "s*/a.json", "a pattern may stand in the name of the file, not of its folders"),
        (["train-00000-of-00001.parquet"], ".", "holds the splits train; none is 'test', so name the files"),
        (["dataset_dict.json", "train/state.json"], ".", "holds the splits train; none is 'test', so name a folder"),
        (["state.json"], ".", "state.json: is not what the datasets library writes"),
    ],
)
def test_a_folder_without_what_is_wanted_is_refused_with_what_it_holds(tmp_path, files, path, words):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError) as caught:
        files_of(str(tmp_path), path, "test")
    assert words in str(caught.value)


@pytest.mark.parametrize("uri", ["https://example.org/train.json", "nowhere://bucket/train.json"])
def test_a_place_of_no_known_kind_is_refused(uri):
    with pytest.raises(DataError, match=r"expected a folder or a URI of s3://|a web address is not read; download it"):
        files_of(".", uri, "train")


# Chat messages


def messages(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "3"}], **more}


TEXT = {"type": "text", "text": "How many?"}
MARKED = "<image>\nHow many?"


@pytest.mark.parametrize(
    ("item", "question", "pictures"),
    [
        (messages("How many?"), "How many?", []),
        (messages("<image>How many?", images=["a.png"]), "<image>How many?", ["a.png"]),  # ms-swift, LLaMA-Factory
        (messages("How many?", image="a.png"), "How many?", ["a.png"]),
        (messages([{"type": "image"}, TEXT], images=["a.png"]), MARKED, ["a.png"]),  # TRL
        (messages([{"type": "image", "image": "a.png"}, TEXT]), MARKED, ["a.png"]),  # Qwen's processors
        (messages([{"type": "image", "path": "a.png"}, TEXT]), MARKED, ["a.png"]),  # transformers
        (messages([{"type": "image", "url": "s3://b/a.png"}, TEXT]), MARKED, ["s3://b/a.png"]),
        (messages([{"type": "image_url", "image_url": {"url": "a.png"}}, TEXT]), MARKED, ["a.png"]),  # OpenAI
        (messages([TEXT, {"type": "image"}], images=["a.png"]), "How many?\n<image>", ["a.png"]),
        (
            messages([{"type": "image", "index": 1}, {"type": "image", "index": 0}, TEXT], images=["a.png", "b.png"]),
            "<image>\n<image>\nHow many?",
            ["b.png", "a.png"],
        ),
        # As Arrow gives parts of different kinds, whose types share all keys:
        (messages([{"type": "image", "text": None, "index": None}, TEXT], images=["a.png"]), MARKED, ["a.png"]),
        (messages([TEXT, TEXT]), "How many?How many?", []),
    ],
)
def test_chat_messages_of_every_writer_become_one_conversation(item, question, pictures):
    made = from_messages(item)
    assert made["conversations"] == [{"from": "human", "value": question}, {"from": "gpt", "value": "3"}]
    assert made.get("image", []) == pictures
    assert made.keys() <= {"conversations", "image"}


def test_a_system_message_comes_before_the_first_question_behind_its_pictures():
    item = messages([{"type": "image", "path": "a.png"}, TEXT])
    item["messages"].insert(0, {"role": "system", "content": "Be brief."})
    assert from_messages(item)["conversations"][0]["value"] == "<image>\nBe brief.\n\nHow many?"
    conversation = [{"from": "human", "value": MARKED}, {"from": "gpt", "value": "3"}]
    shaped = Shape("a.json")(0, {"conversations": conversation, "system": "Be brief.", "images": ["a.png"]})
    assert shaped["conversations"][0]["value"] == "<image>\nBe brief.\n\nHow many?"
    assert conversation[0]["value"] == MARKED


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"messages": []}, "'messages' holds none; expected a list of user and assistant messages"),
        ({"messages": ["Hi"]}, "message 0 is 'Hi'; expected role and content"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "message 0 has the role 'tool'; expected user",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "message 0: content is None; expected text, or a list"),
        (messages([{"type": "video"}]), "message 0, part 0 is of type 'video'; expected text or image"),
        (messages([{"type": "image"}, TEXT]), "message 0, part 0 stands for a picture that is not there"),
        (messages([{"type": "image"}], images=["a.png", "b.png"]), "lists 2 pictures and marks 1 in its messages"),
        (messages([{"type": "image", "path": "a.png"}], images=["b.png"]), "names pictures in its messages and under"),
    ],
)
def test_messages_that_say_too_little_or_too_much_are_refused(item, words):
    with pytest.raises(DataError) as caught:
        from_messages(item)
    assert words in str(caught.value)


# Keys


def test_a_record_in_llavas_shape_stays_what_it_is():
    trained = own_data.llava("train", own_data.rows("train")[0])
    asked = own_data.llava("test", own_data.rows("test")[0])
    assert Shape("a.json")(0, trained) is trained
    assert Shape("a.json", asked=True)(0, asked) is asked


def test_keys_may_lie_within_others_and_rename_all_that_is_needed():
    keys = Keys(id="meta.name", image="files.0.path", question="ask", answer="labels")
    item = {"meta": {"name": 7}, "files": [{"path": "a.png"}], "ask": "How many?", "labels": 3, "text": "no question"}
    trained = Shape("a.json", keys)(0, item)
    assert (trained["id"], trained["image"]) == (7, "a.png")
    assert [turn["value"] for turn in trained["conversations"]] == ["How many?", "3"]
    asked = Shape("a.json", keys, asked=True)(0, item)
    assert (asked["id"], asked["text"], asked["answer"]) == (7, "How many?", 3)


def test_a_key_that_no_record_has_is_named_with_those_that_there_are(tmp_path):
    own_data.write_pictures(tmp_path / "pictures")
    own_data.write_csv(tmp_path / "train.csv", [{"file": "0.png", "ask": "How many?", "reply": "3"}])

    def load(**keys: str) -> None:
        told = {"image": "file", "question": "ask", "answer": "reply", **keys}
        dataset = Dataset.model_validate({"train": "train.csv", "images": "pictures", "keys": told})
        load_train(Collection(str(tmp_path), {"Shirts": dataset}, own=frozenset({"Shirts"})), "Shirts")

    load()
    with pytest.raises(DataError) as caught:
        load(answer="replies")
    assert str(caught.value) == (
        f"{tmp_path}/train.csv: no record has 'replies', which keys.answer of its dataset names; they have file, ask, "
        "reply; did you mean 'reply'?"
    )
    own_data.write_lines(tmp_path / "train.csv", [])
    (tmp_path / "train.csv").write_text("file,ask,reply\n0.png,How many?,3\n0.png,,4\n")
    with pytest.raises(DataError, match=r"record 1 \(id '1'\): has no 'ask', which keys.question of its dataset names"):
        load()


# Declarations


def test_two_files_that_declare_a_dataset_differently_are_refused(tmp_path):
    for name, train in (("one", "a.json"), ("two", "b.json"), ("three", "a.json")):
        told = {"benchmark": {"catalog": None, "tasks": ["Shirts"], "datasets": {"Shirts": {"train": train}}}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(told))
    load_config(tmp_path / "one.yaml", tmp_path / "three.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "one.yaml", tmp_path / "two.yaml")
    assert "benchmark.datasets.Shirts: two datasets of one name" in str(caught.value)
    assert f"{tmp_path / 'one.yaml'} and in {tmp_path / 'two.yaml'}" in str(caught.value)
