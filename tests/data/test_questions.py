"""Questions from whatever a user has: the same from every format, each in its place, none lost for another's fault."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fcit_layout import fcit
from PIL import Image

from fcit_ray.data.questions import spans
from fcit_ray.data.questions.opening import Input, open_input
from fcit_ray.data.questions.pieces import RecordsPiece, piece_from_json, piece_to_json
from fcit_ray.data.questions.question import Question, read_question
from fcit_ray.data.records.layout import load_test
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn

TEXTS = ["Which colour?", "Wie viele Würfel? 🙂", 'a "quoted" text\nof two lines', "D?", "E?", "F?", "G?"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures, each of another colour, with their questions beside them."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, text in enumerate(TEXTS):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(text, encoding="utf-8")
    return pictures


def written(folder: Path, kind: str) -> Path:
    """The same questions in another form, beside the folder."""
    rows: list[dict[str, Any]] = [
        {"id": str(number), "image": f"{number}.png", "text": text} for number, text in enumerate(TEXTS)
    ]
    contents = [{"bytes": (folder / row["image"]).read_bytes(), "path": row["image"]} for row in rows]
    path = folder.parent / f"questions-{kind}"
    if kind == "json":
        path = path.with_suffix(".json")
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8-sig")
    elif kind == "jsonl":
        path = path.with_suffix(".jsonl")
        path.write_text("\n".join(json.dumps(row) + "\n" for row in rows))  # with blank lines between
    elif kind == "conversations":
        path = path.with_suffix(".json")
        talks = [[{"from": "human", "value": f"<image>\n{row['text']}"}, {"from": "gpt", "value": "x"}] for row in rows]
        path.write_text(
            json.dumps([{**row, "conversations": t, "text": None} for row, t in zip(rows, talks, strict=True)])
        )
    elif kind == "parquet-paths":
        path = path.with_suffix(".parquet")
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif kind == "parquet-bytes":
        path = path.with_suffix(".parquet")
        plain = [{**row, "image": content["bytes"]} for row, content in zip(rows, contents, strict=True)]
        pq.write_table(pa.Table.from_pylist(plain), path, row_group_size=2)
    elif kind == "parquet-folder":
        path.mkdir()
        structs = [{**row, "image": content, "more": 1} for row, content in zip(rows, contents, strict=True)]
        for number, (start, stop) in enumerate([(0, 2), (2, 2), (2, 7)]):
            schema = pa.Table.from_pylist(structs).schema
            pq.write_table(pa.Table.from_pylist(structs[start:stop], schema), path / f"{number}.parquet")
    else:
        path = folder
    return path


def read(found: Input, size: int) -> list[Question]:
    """All questions through pieces that have travelled as text."""
    return [q for piece in found.pieces(size) for q in piece_from_json(piece_to_json(piece)).read()]


KINDS = ["json", "jsonl", "conversations", "parquet-paths", "parquet-bytes", "parquet-folder", "pictures"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_every_format_gives_the_same_questions_and_pictures(folder: Path, kind: str, size: int) -> None:
    path = written(folder, kind)
    found = open_input(path, images=None if path == folder else folder)
    questions = read(found, size)
    assert found.count == len(questions) == len(TEXTS)
    assert [q.record.turns[0].question.removeprefix("<image>\n") for q in questions] == TEXTS
    assert all(not q.fault for q in questions)
    for number, question in enumerate(questions):
        with question.open(0) as file:
            assert file.read() == (folder / f"{number}.png").read_bytes()
    if kind == "parquet-folder":  # a row's place is that in its own file
        assert [(q.record.source, q.record.index) for q in questions[1:4]] == [
            ("0.parquet", 1), ("2.parquet", 0), ("2.parquet", 1),
        ]  # fmt: skip
    else:
        assert [q.record.index for q in questions] == list(range(len(TEXTS)))


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_records_are_found_wherever_a_chunk_ends(tmp_path: Path, monkeypatch, chunk: int, bom: bytes) -> None:
    draw = random.Random(chunk)
    letters = 'ab"\\,[]{}:é🙂\n 1'
    values: list[Any] = [12, -1.5, "]", [], {}, None]
    for _ in range(30):
        text = "".join(draw.choice(letters) for _ in range(draw.randrange(40)))
        values.append({text: [text, {"n": draw.random()}], "image": text})
    draw.shuffle(values)
    content = bom + json.dumps(values, ensure_ascii=False, indent=draw.choice([None, 3])).encode()
    (tmp_path / "a.json").write_bytes(content)
    monkeypatch.setattr(spans, "_CHUNK", chunk)
    found = spans.find_spans(tmp_path / "a.json", lines=False)
    assert [json.loads(content[s:e]) for s, e in zip(found.starts, found.ends, strict=True)] == values


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b'{"image": "a.png"}', "begins with '{'; expected a list, or a record a line"),
        ("a.json", b'[{"image": "a.png"}, {"ima', "byte 21: unterminated string"),
        ("a.json", b'[{"image": "a.png"}', "the file ends within the list"),
        ("a.json", b"[1] 2", "byte 4: something behind the end of the list"),
        ("a.json", b"[1 2]", "byte 3: '2' behind a record; expected a comma"),
        ("a.json", b"[1, 2", "the file ends within the list"),
        ("a.json", b'["\xff"]', "is not JSON in UTF-8"),
        ("a.json", b"[]", "holds no questions"),
        ("a.json", b"", "is empty"),
        ("a.jsonl", b"\n \n", "holds no questions"),
        ("a.csv", b"a,b", "is of no kind that is known by its name"),
        ("a.parquet", b"PAR1", "is no Parquet file"),
    ],
)  # fmt: skip
def test_what_is_no_input_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        open_input(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert expected in str(refused.value)


def test_other_inputs_that_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_input(tmp_path / "nothing.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture in this folder"):
        open_input(tmp_path / "empty")
    with pytest.raises(DataError, match="--ask goes with a folder of pictures"):
        open_input(written(folder, "json"), images=folder, ask="What?")
    with pytest.raises(DataError, match="--images nowhere: no such folder"):
        open_input(written(folder, "json"), images=Path("nowhere"))
    pq.write_table(pa.table({"picture": ["a"], "text": ["b"]}), tmp_path / "odd.parquet")
    with pytest.raises(
        DataError, match=r"its columns are picture, text; expected one of text, .* and for pictures `image`"
    ):
        open_input(tmp_path / "odd.parquet")
    # The pictures are elsewhere: told at once, not by thousands of lines.
    with pytest.raises(
        DataError, match=r"(?s)the first 7 of 7 questions cannot be asked:.*0\.png: no such file.*and 2 more"
    ):
        open_input(written(folder, "json"))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ([1], "is a JSON list; expected an object"),
        ({"text": "<image> a?"}, "has no picture and 1 <image> in its questions"),
        ({"text": "a?", "image": "", "img": "a.png"}, "has 'img' and no 'image'"),
        ({"text": "a?", "image": 3}, "'image' is 3; expected a path, a picture's bytes, or a list of these"),
        ({"text": "a?", "image": ["a.png", None]}, "'image' is None; expected a path, a picture's bytes"),
        ({"text": "<image> a?", "images": ["a.png", "b.png"]}, "has 2 pictures and 1 <image> in its questions"),
        ({"image": "a.png"}, "has no 'text'"),
        ({"image": "a.png", "text": " "}, "'text' is empty"),
        ({"image": "a.png", "text": "<image>"}, "empty question"),
        (
            {"image": "a.png", "text": "<image> <image> a?"},
            "has one picture and 2 <image> in its questions; expected one or none",
        ),
        ({"image": "a.png", "text": "a\ud800"}, "half a character"),
        ({"image": "a\0.png", "text": "a?"}, "holds a NUL character"),
        ({"image": "a.png", "text": "a?", "id": [1]}, "'id' is [1]; expected text or a number"),
        ({"image": "a.png", "conversations": []}, "roles are none; expected human, gpt in turn"),
        ({"image": "a.png", "conversations": [{"from": "gpt", "value": "a"}]}, "roles are gpt; expected human"),
    ],
)
def test_a_record_that_is_wrong_keeps_its_place_and_says_why(item: Any, expected: str) -> None:
    question = read_question(item, "a.json", 7, "/pictures")
    assert expected in question.fault
    assert (question.record.source, question.record.index) == ("a.json", 7)


def test_the_last_human_message_is_asked_and_what_was_said_before_stands_before_it() -> None:
    said = ["<image>\nfirst?", "one ", "second?", "two"]
    talk = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(said)]
    turns = read_question({"image": "a.png", "conversations": talk}, "", 0, "").record.turns
    assert [(turn.question, turn.answer) for turn in turns] == [("<image>\nfirst?", "one"), ("second?", None)]


def test_a_question_has_no_picture_or_several_in_their_order(folder: Path) -> None:
    first = {"bytes": (folder / "2.png").read_bytes(), "path": "same.png"}
    second = {"bytes": (folder / "5.png").read_bytes(), "path": "same.png"}
    rows = [
        {"text": "a?"},
        {"text": "b?", "image": None},
        {"text": "<image> or <image>?", "image": ["3.png", "1.png"]},
        {"text": "c?", "images": [first, second, first]},
    ]
    questions = [read_question(row, "a.json", n, str(folder)) for n, row in enumerate(rows)]
    assert [question.fault for question in questions] == [""] * 4
    assert [question.record.images for question in questions] == [
        (), (), ("3.png", "1.png"), ("same.png", "same.png (1)", "same.png"),
    ]  # fmt: skip
    read = [[question.open(n).read() for n in range(len(question.pictures or ()))] for question in questions]
    made = {n: (folder / f"{n}.png").read_bytes() for n in range(7)}
    assert read == [[], [], [made[3], made[1]], [made[2], made[5], made[2]]]


def test_a_line_that_is_no_json_spoils_no_other(folder: Path) -> None:
    path = written(folder, "jsonl")
    good = path.read_text()
    path.write_text('{"image": \n' + good)
    faults = [question.fault for question in read(open_input(path, images=folder), 3)]
    assert faults[0].startswith("is not JSON: line 1, column 11")
    assert faults[1:] == [""] * len(TEXTS)


def test_a_picture_without_its_question_says_which_file_it_lacks(folder: Path) -> None:
    (folder / "3.txt").unlink()
    questions = read(open_input(folder), 2)
    assert [number for number, question in enumerate(questions) if question.fault] == [3]
    assert "no file 3.txt beside it" in questions[3].fault
    asked = read(open_input(folder, ask="What is it?"), 2)
    assert {question.record.turns[0].question for question in asked} == {"What is it?"}


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet-bytes", "pictures"])
def test_a_digest_tells_a_changed_input(folder: Path, kind: str) -> None:
    path = written(folder, kind)
    images = None if path == folder else folder
    before = open_input(path, images=images).digest
    assert open_input(path, images=images).digest == before
    if kind == "pictures":
        (folder / "0.txt").write_text("another question")
    elif kind == "parquet-bytes":
        os.utime(path, ns=(1, 1))
    else:
        path.write_text(path.read_text().replace("Which", "which"))
    assert open_input(path, images=images).digest != before


def test_records_of_a_benchmark_find_its_pictures_by_themselves(tmp_path: Path) -> None:
    from fcit_ray.data.miniature.writing import write_miniature

    write_miniature(tmp_path / "data", num_train=8, num_validation=2, num_test=2)
    records = load_test(fcit(tmp_path / "data"), "ArxivQA")
    [piece] = [piece_from_json(piece_to_json(RecordsPiece(tuple(records))))]
    assert [question.record for question in piece.read()] == records
    found = open_input(tmp_path / "data/instructions/ArxivQA/test_1w.json")
    for question, record in zip(read(found, 1), records, strict=True):
        assert (question.record.id, question.record.turns) == (record.id, record.turns)
        assert question.pictures == (str((tmp_path / "data" / record.images[0]).resolve()),)


def test_chat_messages_are_asked_as_a_data_sets_are_read():
    parts = [{"type": "image", "image": {"bytes": b"0", "path": None}}, {"type": "text", "text": "How many?"}]
    said = [{"role": "assistant", "content": "3"}, {"role": "user", "content": "And now?"}]
    question = read_question({"id": "a", "messages": [{"role": "user", "content": parts}, *said]}, "a.parquet", 0, ".")
    assert not question.fault
    assert question.pictures == (b"0",)
    assert question.record.turns == (Turn("<image>\nHow many?", "3"), Turn("And now?"))
