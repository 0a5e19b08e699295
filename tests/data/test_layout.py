"""The door: what a file may hold, and what is said when it does not."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fcit_layout import FCIT, fcit
from stand_in import question, training

from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.records.layout import Record, check_images, load_test, load_train, parse_box
from fcit_ray.data.records.parsing import holds_box
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn

REAL = Path(__file__).parents[3] / "shared" / "real"
NAN, INF = float("nan"), float("inf")


def messages(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": role, "value": value} for role, value in pairs]


def test_a_training_record_keeps_turns_and_place_and_loses_the_leading_dot(write):
    item = training("7", "./ImageNet-R/train/a.png")
    item["conversations"] += messages(("human", "and shape ?"), ("gpt", "square"))
    root = write("train.json", [training("3"), item])
    record = load_train(fcit(root), "ImageNet-R")[1]
    assert record == Record(
        "ImageNet-R",
        "7",
        ("datasets/ImageNet-R/train/a.png",),
        (Turn("<image>\nwhich colour ?", "red"), Turn("and shape ?", "square")),
        source="instructions/ImageNet-R/train.json",
        index=1,
    )
    assert record.where == "instructions/ImageNet-R/train.json: record 1 (id '7')"


def test_a_training_record_without_id_is_named_by_position(write):
    item = training()
    del item["id"]
    assert load_train(fcit(write("train.json", [training("x"), item])), "ImageNet-R")[1].id == "1"


def test_a_test_record_has_one_open_turn_and_its_answer(write):
    root = write("test.json", [question("q", answer=3)])  # some files hold numbers where others hold text
    (record,) = load_test(fcit(root), "ImageNet-R")
    assert (record.turns, record.answer) == ((Turn("which colour ?"),), "3")


def test_limit_keeps_the_first_in_file_order(write):
    root = write("test.json", [question(str(n)) for n in (5, 2, 9)])
    assert [record.id for record in load_test(fcit(root), "ImageNet-R", "test", 2)] == ["5", "2"]


def test_validation_reads_its_own_file(write):
    root = write("validation.json", [question("v")])
    assert load_test(fcit(root), "ImageNet-R", "validation")[0].id == "v"


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("text", "is a JSON str; expected an object"),
        (training(conversations=None), "has no conversations; expected a list of human and gpt messages"),
        (training(conversations=[]), "has no conversations"),
        (training(conversations=messages(("human", "a"))), "message 0: a human turn without an answer"),
        (
            training(conversations=messages(("human", "a"), ("gpt", "b"), ("human", "c"))),
            "message 2: a human turn without an answer",
        ),
        (training(conversations=messages(("gpt", "a"), ("human", "b"))), "roles are gpt, human; expected human, gpt"),
        (training(conversations=["hello"]), "roles are None"),
        (training(conversations=messages(("human", "<image>\n "), ("gpt", "b"))), "message 0: empty question"),
        (training(conversations=messages(("human", "a"), ("gpt", " "))), "message 1: empty answer"),
        (training(conversations=messages(("human", "a"), ("gpt", 3))), "message 1: value is 3; expected text"),
        (training(conversations=messages(("human", "a"), ("gpt", "<image>"))), "<image> in an answer"),
        (
            training(conversations=messages(("human", "<image><image>a"), ("gpt", "b"))),
            "has one picture and 2 <image> in its questions; expected one or none",
        ),
        (
            training(conversations=messages(("human", "<image>a"), ("gpt", "b"), ("human", "<image>c"), ("gpt", "d"))),
            "has one picture and 2 <image> in its questions; expected one or none",
        ),
        (training(image="../../etc/passwd"), "image '../../etc/passwd' leaves the folder of pictures"),
        (training(image="a/../../b.png"), "leaves the folder of pictures"),
        (training(image="/etc/passwd"), "leaves the folder of pictures"),
        (training(image=None), "has no picture and 1 <image> in its questions; expected 'image' with the path of one"),
        (
            training(image=["a.png", "b.png"]),
            "has 2 pictures and 1 <image> in its questions; expected 2, one for each, or",
        ),
        (training(image=["a.png", None]), "'image' is None; expected the path of a picture, or a list of paths"),
        (training(image=["a.png", "../b.png"]), "image '../b.png' leaves the folder of pictures"),
        (
            training(images=["a.png"]),
            "'image' is 'ImageNet-R/train/a.png' and 'images' is ['a.png']; expected one of them",
        ),
        (
            training(image="", img="a.png"),
            "has 'img' and no 'image'; expected 'image' or 'images', or neither if it has",
        ),
        (training(image="a\0b.png"), "image 'a\\x00b.png' holds a NUL character"),
        (training(image="a\ud83d.png"), "'image' is 'a\\ud83d.png', which holds half a character"),
        (training(conversations=messages(("human", "a"), ("gpt", "\ud83d"))), "message 1: value is '\\ud83d', which"),
        (training(conversations=messages(("human", "a"), ("gpt", NAN))), "message 1: value is NaN; expected text"),
        (training(conversations=messages(("human", INF), ("gpt", "b"))), "message 0: value is Infinity; expected text"),
        (training(conversations=messages(("human", "a\ufdd0"), ("gpt", "b"))), "holds U+FDD0, no character but a code"),
        (training(image=-INF), "'image' is -Infinity; expected the path of a picture"),
        (training(conversations=messages(("\ud83d", "a"))), "roles are \\ud83d; expected human, gpt in turn"),
        ({"id": "0", "conversations": []}, "has no conversations; expected a list"),
    ],
)
def test_a_broken_training_record_is_placed_and_explained(write, item, said):
    root = write("train.json", [training("first"), item])
    with pytest.raises(DataError) as caught:
        load_train(fcit(root), "ImageNet-R")
    text = str(caught.value)
    assert "instructions/ImageNet-R/train.json: 1 of 2 records cannot be used" in text
    assert f"\n  record 1 (id {'0' if isinstance(item, dict) else '1'!r}): " in text
    assert said in text


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"question_id": "1", "image": "a.png", "text": "a ?"}, "has no 'answer' (only question_id, image, text)"),
        (question("1", answer=" "), "'answer' is empty; expected text"),
        (question("1", answer=True), "'answer' is True; expected text"),
        (question("1", answer=NAN), "'answer' is NaN; expected text"),
        (question("1", answer=INF), "'answer' is Infinity; expected text"),
        (question("1", text=NAN), "'text' is NaN; expected text"),
        (question("1", text="<image>\n"), "empty question"),
        (question("1", answer="\udc00"), "'answer' is '\\udc00', which holds half a character"),
        ({"question_id": "1", "\ud83d": 0}, "(only question_id, \\ud83d)"),
        (question("0"), "has the id of record 0; expected ids to differ"),
        (question(""), "has neither question_id nor id"),
    ],
)
def test_a_broken_test_record_is_placed_and_explained(write, item, said):
    with pytest.raises(DataError, match=r"test\.json: 1 of 2 records cannot be used:\n  record 1 ") as caught:
        load_test(fcit(write("test.json", [question("0"), item])), "ImageNet-R")
    assert said in str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("key", ["id", "question_id"])
@pytest.mark.parametrize(("value", "said"), [(NAN, "NaN"), (INF, "Infinity"), ([1], "[1]"), ({}, "{}"), (True, "True")])
def test_an_id_is_a_text_or_a_number(write, split, key, value, said):
    item = {**(training() if split == "train" else question()), "id": None, "question_id": None, key: value}
    root = write(f"{split}.json", [item])
    with pytest.raises(DataError, match=re.escape(f"{key!r} is {said}; expected text or a number")):
        (load_train if split == "train" else load_test)(fcit(root), "ImageNet-R")
    kept = write(f"{split}.json", [{**item, key: 10**400}])  # as text it needs no float to hold it
    (record,) = (load_train if split == "train" else load_test)(fcit(kept), "ImageNet-R")
    assert record.id == "1" + "0" * 400


def test_five_offenders_are_shown_and_all_are_counted(write):
    root = write("train.json", [training(image="/x") for _ in range(8)])
    with pytest.raises(DataError) as caught:
        load_train(fcit(root), "ImageNet-R")
    text = str(caught.value)
    assert "8 of 8 records" in text
    assert "record 4 (id" in text
    assert "record 5 (id" not in text
    assert text.endswith("and 3 more")


def test_whole_files_that_cannot_be_used(write, tmp_path):
    with pytest.raises(DataError, match=r"benchmark\.root='.*nowhere': no such folder"):
        load_train(fcit(tmp_path / "nowhere"), "ImageNet-R")
    with pytest.raises(DataError, match=r"unknown dataset 'imagenet'; known: ArxivQA, "):
        load_train(fcit(tmp_path), "imagenet")
    with pytest.raises(DataError, match=r"train\.json: no such file; nor is its folder there"):
        load_train(fcit(tmp_path), "DVQA")
    root = write("test.json", "{not json")
    with pytest.raises(DataError, match=r"train\.json: no such file; the folder holds test\.json"):
        load_train(fcit(root), "ImageNet-R")
    with pytest.raises(DataError, match=r"test\.json: is not JSON: line 1, column 2"):
        load_test(fcit(root), "ImageNet-R")
    with pytest.raises(DataError, match=r"test\.json: is JSON that is nested too deeply"):
        load_test(fcit(write("test.json", "[" * 10**5)), "ImageNet-R")
    with pytest.raises(DataError, match="holds a JSON dict; expected a list of records"):
        load_test(fcit(write("test.json", {"data": []})), "ImageNet-R")
    with pytest.raises(DataError, match="holds no records"):
        load_test(fcit(write("test.json", [])), "ImageNet-R")
    with pytest.raises(DataError, match="split 'train': expected 'test' or 'validation'"):
        load_test(fcit(root), "ImageNet-R", "train")


def coco(*annotations: tuple[Any, str], images: tuple[tuple[int, str], ...] = ()) -> dict[str, Any]:
    return {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": [{"image_id": image, "caption": caption} for image, caption in annotations],
    }


@pytest.mark.parametrize(
    "references",
    [
        # The released predictions are numbered by position, so a question_id that happens to be some other image's id
        # (here "1") must not win over the file name.
        coco((2, "a dog"), (2, "one dog"), (1, "a cat"), images=((2, "77.jpg"), (1, "78.jpg"))),
        coco((1, "a dog"), ("1", "one dog")),
        coco((77, "a dog"), (77, "one dog")),
    ],
    ids=["by file name", "by question_id", "by the image's name"],
)
def test_captions_find_their_references(write, references):
    write("val_coco_type.json", references, "Flickr30k-cap")
    item = question("1", "Flickr30k/val/77.jpg")
    del item["answer"]
    (record,) = load_test(fcit(write("val_brief.json", [item], "Flickr30k-cap")), "Flickr30k-cap")
    assert record.references == ("a dog", "one dog")
    assert record.answer == "a dog"


def test_captions_without_references_are_refused(write):
    root = write("val_brief.json", [question("1", "Flickr30k/val/77.jpg")], "Flickr30k-cap")
    with pytest.raises(DataError, match=r"val_coco_type\.json: no such file"):
        load_test(fcit(root), "Flickr30k-cap")
    write("val_coco_type.json", coco((5, "a dog")), "Flickr30k-cap")
    with pytest.raises(DataError, match=r"val_coco_type\.json has no caption for it; expected image id '1' or '77'"):
        load_test(fcit(root), "Flickr30k-cap")
    for images in (5, {"id": 1}, [{"id": 1, "file_name": "77.jpg"}, "77.jpg"]):
        write("val_coco_type.json", {**coco((1, "a dog")), "images": images}, "Flickr30k-cap")
        with pytest.raises(DataError, match=r"val_coco_type\.json: 'images' is no list of objects"):
            load_test(fcit(root), "Flickr30k-cap")
    write("val_coco_type.json", [], "Flickr30k-cap")
    with pytest.raises(DataError, match="no list 'annotations'; expected COCO caption format"):
        load_test(fcit(root), "Flickr30k-cap")


@pytest.mark.parametrize(("caption", "said"), [(NAN, "NaN"), (INF, "Infinity"), (" ", "empty"), (None, "None")])
def test_a_caption_that_is_no_text_breaks_the_record_whose_picture_it_is_of(write, caption, said):
    # Not the file: then one of 155,000 captions would stop the run, and no quarantine could help.
    write("val_coco_type.json", coco((1, "a dog"), (2, "a cat"), (2, caption)), "Flickr30k-cap")
    items = [question(name, f"Flickr30k/val/{name}.jpg") for name in ("1", "2")]
    root = write("val_brief.json", items, "Flickr30k-cap")
    with pytest.raises(DataError) as caught:
        load_test(fcit(root), "Flickr30k-cap")
    assert str(caught.value).splitlines()[1:] == [
        f"  record 1 (id '2'): val_coco_type.json: image id '2', annotation 2: 'caption' is {said}; expected text"
    ]
    write("val_brief.json", items[:1], "Flickr30k-cap")
    assert load_test(fcit(root), "Flickr30k-cap")[0].references == ("a dog",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations": [{"image_id": NAN, "caption": "a"}]}, "annotation 0: 'image_id' is NaN; expected text or a"),
        ({"annotations": [{"caption": "a"}]}, "annotation 0: has no image_id; expected image_id and caption"),
        ({"images": [{"id": INF, "file_name": "1.jpg"}]}, "image 0: 'id' is Infinity; expected text or a number"),
        ({"images": [{"id": 1, "file_name": NAN}]}, "image 0: 'file_name' is NaN; expected text"),
    ],
)
def test_a_coco_file_whose_ids_cannot_be_read_is_refused(write, changes, said):
    write("val_coco_type.json", {**coco((1, "a dog")), **changes}, "Flickr30k-cap")
    root = write("val_brief.json", [question("1", "Flickr30k/val/1.jpg")], "Flickr30k-cap")
    with pytest.raises(DataError, match=rf"val_coco_type\.json: 1 of \d annotations and images .*\n.*{said}"):
        load_test(fcit(root), "Flickr30k-cap")


def region(**changes: Any) -> dict[str, Any]:
    item = question("g", answer="[0.1,0.2,0.3,0.4]", answer_bbox="[0.1,0.2,0.3,0.4]", size=[640, 480])
    item.update(changes)
    return item


def test_grounding_reads_box_and_size(write):
    (record,) = load_test(fcit(write("test_6000.json", [region()], "Grounding")), "Grounding")
    assert record.box == (0.1, 0.2, 0.3, 0.4)
    assert record.size == (640, 480)
    item = region(answer_bbox=[0.1, 0.2, 0.3, 0.4])
    del item["answer"]
    (record,) = load_test(fcit(write("test_6000.json", [item], "Grounding")), "Grounding")
    assert record.answer == "[0.1, 0.2, 0.3, 0.4]"
    long = [1 / 3, 1 / 7, 2 / 3, 6 / 7]  # some eighteen digits each
    collection = fcit(write("test_6000.json", [region(answer_bbox=long)], "Grounding"))
    assert load_test(collection, "Grounding")[0].box == (*long,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer_bbox": "[0.1,0.2]"}, "expected [x1, y1, x2, y2]"),
        ({"answer_bbox": "[0.3,0.2,0.1,0.4]"}, "x1 < x2, y1 < y2"),
        ({"answer_bbox": [0.1, 0.2, NAN, 0.4]}, "answer_bbox is [0.1, 0.2, nan, 0.4]; expected [x1, y1, x2, y2]"),
        ({"answer_bbox": [0.1, 0.2, 0.3, INF]}, "answer_bbox is [0.1, 0.2, 0.3, inf]; expected [x1, y1, x2, y2]"),
        ({"answer_bbox": NAN}, "answer_bbox is NaN; expected [x1, y1, x2, y2]"),
        ({"answer": [0.1, 0.2, 0.3, NAN]}, "'answer' is [0.1, 0.2, 0.3, nan]; expected [x1, y1, x2, y2]"),
        ({"size": None}, "size is None; expected [width, height] in pixels"),
        ({"size": [640, 0]}, "size is [640, 0]"),
        ({"size": [640, 0.5]}, "size is [640, 0.5]"),
        ({"size": [float("inf"), 480]}, "size is [inf, 480]"),
        ({"size": [float("nan"), 480]}, "size is [nan, 480]"),
    ],
)
def test_a_broken_region_is_refused(write, changes, said):
    with pytest.raises(DataError) as caught:
        load_test(fcit(write("test_6000.json", [region(**changes)], "Grounding")), "Grounding")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.1, 0.2, .5, 1]", (0.1, 0.2, 0.5, 1.0)),
        (" [0,0,1,1]. ", (0, 0, 1, 1)),
        ("[1e-1,0,1,1]", (0.1, 0, 1, 1)),
        ("[0.1,0.2,0.3]", None),
        ("[0.1,0.2,0.3,0.4,0.5]", None),
        ("0.1,0.2,0.3,0.4", None),
        ("[a,b,c,d]", None),
        ("[0,0,1,1] [0,0,1,1]", None),  # two boxes: no telling which is meant
        ("[0,0,1,1e999]", None),
        ("[0,0,1,NaN]", None),
        (f"[0,0,1,{'1' * 41}]", None),  # no coordinate has so many digits
        ("", None),
    ],
)
def test_a_box_is_read_only_if_it_is_the_whole_text(text, box):
    assert parse_box(text) == box


@pytest.mark.parametrize(
    "text",
    ["[" + "1" * 32_000, "[0.1, 0.2, 0.3, 0." + "1" * 32_000, "1" * 32_000, "[ " * 16_000, "[1," * 10_000],
    ids=["one number", "last number", "digits", "brackets", "commas"],
)
def test_a_box_of_many_digits_is_seen_not_to_be_one_at_once(text):
    begun = time.perf_counter()
    assert parse_box(text) is None
    assert not holds_box(text)
    # A pattern that takes up every digit anew needs 25 s for the digits; this one microseconds.
    assert time.perf_counter() - begun < 0.5


def test_every_file_of_the_miniature_loads(tmp_path):
    write_miniature(tmp_path / "mini", num_train=4, num_validation=2, num_test=2)
    for name, spec in FCIT.items():
        records = load_train(fcit(tmp_path / "mini"), name)
        assert len(records) == 4
        for split in ("test", "validation"):
            asked = load_test(fcit(tmp_path / "mini"), name, split)
            assert [bool(record.references) for record in asked] == [spec.answer.kind == "caption"] * 2
            records += asked
        check_images(tmp_path / "mini", records)


@pytest.mark.skipif(not REAL.exists(), reason="no real data beside this checkout")
@pytest.mark.parametrize("dataset", ["TabMWP", "ImageNet-R"])
def test_real_files_load(dataset):
    train, test = load_train(fcit(REAL), dataset), load_test(fcit(REAL), dataset)
    assert len(train) == len(json.loads((REAL / "instructions" / dataset / "train.json").read_text()))
    assert not any(record.images[0].startswith("./") for record in train + test)
    check_images(REAL, train + test)
