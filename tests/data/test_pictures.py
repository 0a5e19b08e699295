"""Records without a picture and with several, from a file to what is found out about them."""

import json
from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES
from fcit_layout import fcit
from PIL import Image
from stand_in import question, training

from fcit_ray.data.checking.check import check_data
from fcit_ray.data.checking.check_table import report_lines
from fcit_ray.data.checking.several import check_pictures
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.parquet.writing import write_parquet
from fcit_ray.data.records.layout import Record, check_images, load_test, load_train
from fcit_ray.errors import DataError
from fcit_ray.models.identity.encoder import join
from fcit_ray.models.prompt import Turn

DATASET = "ImageNet-R"
A, B = f"{DATASET}/train/a.png", f"{DATASET}/train/b.png"


def talk(*questions: str) -> list[dict[str, str]]:
    pairs = [({"from": "human", "value": text}, {"from": "gpt", "value": "red"}) for text in questions]
    return [message for pair in pairs for message in pair]


MIXED = [
    training("one"),
    {"id": "absent", "conversations": talk("which ?")},
    training("null", image=None, conversations=talk("and shape ?")),
    training("empty", image=[], conversations=talk("square ?")),
    training("listed", image=[A]),  # "one" once more
    training("two", image=[A, f"./{B}"], conversations=talk("<image> or <image> ?", "why ?")),
    {"id": "plural", "images": [B, A, B], "conversations": talk("<image> ?", "<image> and <image> ?")},
    training("unmarked", image=[B, A], conversations=talk("which ?")),
]
AT_A, AT_B = f"datasets/{A}", f"datasets/{B}"
IMAGES = [(AT_A,), (), (), (), (AT_A,), (AT_A, AT_B), (AT_B, AT_A, AT_B), (AT_B, AT_A)]


@pytest.fixture
def root(write) -> Path:
    folder = write("train.json", MIXED)
    write(
        "test.json",
        [question("0", image=[A, B], text="<image> or <image> ?"), {**question("1"), "image": ""}, question("2")],
    )
    Image.new("RGB", (8, 8), "blue").save(folder / "datasets" / B)
    return folder


def test_a_record_names_no_picture_one_or_several(root):
    records = load_train(fcit(root), DATASET)
    assert [record.images for record in records] == IMAGES
    assert [record.images for record in load_test(fcit(root), DATASET)] == [(AT_A, AT_B), (), (AT_A,)]
    check_images(root, records)
    (root / "datasets" / B).unlink()
    with pytest.raises(
        DataError, match=rf"1 of 2 images cannot be used:\n.*record 5 \(id 'two'\): image {AT_B}: no such f"
    ):
        check_images(root, records)


def test_a_check_looks_at_every_picture_and_counts_those_who_have_none_and_several(root):
    train, test = check_data(fcit(root)).rows
    assert (train.num_records, train.num_without, train.num_several) == (8, 3, 3)
    assert (test.num_records, test.num_without, test.num_several) == (3, 1, 1)
    report = check_data(fcit(root))
    assert [(o.id, o.kind) for o in report.errors] == [("listed", "duplicate")]
    lines = [str(line) for line in report_lines(report, 5)]
    assert f"pictures: {DATASET} train: of 8 records 3 name no picture, 3 several" in lines
    # That of two pictures, which "two" asks of the same in the same order, and "which colour ?" of a.png; not the same
    # words of no picture.
    assert test.num_in_train == 2
    (root / "datasets" / B).write_bytes(b"none")
    found = [(o.id, o.kind) for o in check_data(fcit(root)).offences if o.kind == "image"]
    assert found == [("two", "image"), ("plural", "image"), ("unmarked", "image"), ("0", "image")]


def test_parquet_holds_the_same_records(root, tmp_path, model):
    out = str(tmp_path / "pq")
    manifest = write_parquet(fcit(root), out)
    assert [file.rows for file in manifest.tables["images"]] == [2]
    assert load_train(fcit(out), DATASET) == load_train(fcit(root), DATASET)
    assert load_test(fcit(out), DATASET) == load_test(fcit(root), DATASET)
    plain, converted = (SampleEncoder(str(place), model, "bare", 64) for place in (root, out))
    for record in load_train(fcit(out), DATASET):
        one, other = plain.encode_train(record), converted.encode_train(record)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_several_pictures_are_told_apart_by_the_mean_of_their_features(root):
    def feature(identity: str, *images: str) -> np.ndarray:
        encoder = SampleEncoder(str(root), "tiny", "bare", 512, identity)  # type: ignore[arg-type]
        return encoder.encode_train(
            Record(DATASET, "q", tuple(f"datasets/{image}" for image in images), (Turn("which ?", "red"),))
        )["feature"]

    a, b, both = feature("image", A), feature("image", B), feature("image", A, B)
    assert np.abs(a - b).max() > 0.01
    np.testing.assert_allclose(both, (a.astype(np.float64) + b) / 2, rtol=0, atol=1e-7)
    assert np.array_equal(feature("text", A, B), feature("text"))
    import torch

    text = torch.from_numpy(feature("text"))
    assert np.array_equal(feature("both", A, B), join(text, torch.from_numpy(both)).numpy())
    with pytest.raises(DataError, match=r"model\.identity=both tells records apart by their picture, and it has none"):
        feature("both")


def test_a_template_that_marks_one_picture_only_is_refused_with_the_record(root, tmp_path):
    [family] = [family for family in FAMILIES if family.name == "Qwen2.5-VL"]
    family.write(tmp_path / "model")
    file = tmp_path / "model" / "chat_template.jinja"
    template = file.read_text()
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    assert template.count(mark) == 1
    file.write_text(template.replace(mark, "{% if loop.first %}" + mark + "{% endif %}"))
    encoder = SampleEncoder(str(root), str(tmp_path / "model"), "chat", 400)
    records = load_train(fcit(root), DATASET)
    check_pictures(encoder, records[:5])
    with pytest.raises(DataError) as caught:
        check_pictures(encoder, records)
    said = str(caught.value)
    assert "train.json: record 5 (id 'two'): its 2 pictures cannot be prepared: model.prompt='chat': the chat" in said
    assert "writes <|image_pad|> 1 times for 2 pictures" in said
    assert said.endswith("expected a model that takes several, or only records of one picture")


def test_a_run_says_how_many_records_have_none_and_several(root, model, caplog):
    check_pictures(SampleEncoder(str(root), model, "bare", 64), load_train(fcit(root), DATASET))
    assert f"{DATASET}: of 8 records 3 name no picture, 3 several" in caplog.text
    caplog.clear()
    check_pictures(SampleEncoder(str(root), model, "bare", 64), load_train(fcit(root), DATASET)[:1])
    assert not caplog.text


def test_captions_of_a_question_without_a_picture_are_found_by_its_id(write):
    root = write("val_brief.json", [{"question_id": "7", "text": "say"}], "Flickr30k-cap")
    coco = {"images": [], "annotations": [{"image_id": 7, "caption": "a dog"}]}
    write("val_coco_type.json", json.dumps(coco), "Flickr30k-cap")
    assert load_test(fcit(root), "Flickr30k-cap")[0].references == ("a dog",)
