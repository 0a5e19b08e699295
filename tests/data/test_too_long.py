"""Records over the limit are found before a run starts, in whatever task they are, and without decoding a picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES
from fcit_layout import fcit
from PIL import Image
from stand_in import question, training

from fcit_ray.config.schema import parse_config
from fcit_ray.data.checking.too_long import _Lengths, check_lengths, too_long
from fcit_ray.data.loading.lengths import LengthEncoder
from fcit_ray.data.parquet.writing import write_parquet
from fcit_ray.data.records.images import picture_size
from fcit_ray.data.records.layout import Record, load_train
from fcit_ray.errors import DataError
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.models.prompt import Turn

SIZES = {"wide.png": (40, 18), "tall.png": (9, 30), "small.png": (3, 2)}
TEXTS = ["hi ?", "which </s><|im_end|> <b>?", "\u4e94\u00e9\ufb01 \ufdfa", "a\n\nb  c", "x" * 300]


def record(image: str, *turns: Turn) -> Record:
    return Record("DVQA", "q", (f"datasets/{image}",), turns, source="instructions/DVQA/train.json", index=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    (folder / "datasets").mkdir()
    draw = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / "datasets" / name)
    return folder


def every_record():
    for image in SIZES:
        for text in TEXTS:
            yield record(image, Turn(text, "red"))
            yield record(image, Turn(text, text), Turn("sure ?", text))
            yield record(image, Turn(text))


def assert_as_encoded(encoder: LengthEncoder) -> None:
    lengths = _Lengths(encoder)
    for one in every_record():
        encode = encoder.encode_test if one.turns[-1].answer is None else encoder.encode_train
        expected = len(encode(one)["input_ids"])
        assert lengths.of(one) == expected
        assert lengths.at_most(one) >= expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_lengths_are_those_of_the_encoder_in_every_family(family, root, tmp_path):
    family.write(tmp_path)
    prompt = "bare" if family.name == "LLaVA-1.5" else "chat"
    assert_as_encoded(LengthEncoder(str(root), str(tmp_path), prompt, 9999))


def test_lengths_are_those_of_the_encoder_with_other_tokenizers(root, model_llama, model_spaced):
    for model, prompt in ((model_llama, "vicuna_v1"), (model_spaced, "bare"), ("tiny", "vicuna_v1")):
        assert_as_encoded(LengthEncoder(str(root), model, prompt, 9999))


def test_the_limit_is_met_exactly_and_no_picture_is_decoded(root, model, monkeypatch):
    # <s> USER: <image>*4 which colour ? ASSISTANT: red </s>: 12 tokens; open for its answer 10 (see test_samples.py).
    told, asked = record("wide.png", Turn("<image>\nwhich colour ?", "red")), record("tall.png", Turn("which colour ?"))
    encoder = LengthEncoder(str(root), model, "bare", 12)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: 1 / 0)
    check_lengths(encoder, [told, asked])
    assert list(too_long(replace(encoder, max_length=11), [told, asked])) == [(told, 12)]
    with pytest.raises(DataError) as caught:
        check_lengths(replace(encoder, max_length=9), [asked, *[told] * 6])
    assert str(caught.value).splitlines() == [
        "7 of 7 records exceed model.max_length=9; raise it, or set them aside with "
        f"`fcit-ray prepare check {root} --model {model} --max-length 9 --template bare --quarantine`:",
        "  instructions/DVQA/train.json: record 3 (id 'q'): 10 tokens, image included",
        *["  instructions/DVQA/train.json: record 3 (id 'q'): 12 tokens, image included"] * 4,
        "  and 2 more",
    ]


def test_a_record_that_the_processor_cannot_take_is_named(root, tmp_path):
    next(family for family in FAMILIES if family.name == "Qwen2.5-VL").write(tmp_path)
    Image.new("RGB", (201, 1)).save(root / "datasets" / "ribbon.bmp")
    one = record("wide.png", Turn("hi ?", "red"))
    encoder = LengthEncoder(str(root), str(tmp_path), "chat", 9)
    with pytest.raises(
        DataError, match=r"DVQA/train\.json: record 3 \(id 'q'\): image datasets/ribbon\.bmp: has 201 x 1"
    ):
        list(too_long(encoder, [one, replace(one, images=("datasets/ribbon.bmp",))]))


@pytest.mark.parametrize("late", ["train.json", "test.json"])
def test_a_long_record_of_a_later_task_stops_a_run_at_the_door(write, model, late):
    for dataset, file in (("ImageNet-R", ""), ("DVQA", late)):
        for name, item in (("train.json", training()), ("test.json", question())):
            if name == file:
                item = {**item, "conversations": None, "text": None}
                words = "which " * 90
                item |= {"text": words} if name == "test.json" else {"conversations": [
                    {"from": "human", "value": words}, {"from": "gpt", "value": "red"}]}  # fmt: skip
            root = write(name, [item], dataset)
    one = {"num_clients": 1, "clients_per_round": 1, "min_samples": 1}
    config = parse_config(
        {
            "benchmark": {"root": str(root), "tasks": ["ImageNet-R", "DVQA"], **one},
            "model": {"path": model, "max_length": 64},
        }
    )
    # 90 words and 7 or, with answer and end, 9 tokens around them: <s> USER: <image>*4 ... ASSISTANT: red </s>
    count = 97 if late == "test.json" else 99
    with pytest.raises(DataError, match=rf"DVQA/{late}: record 0 \(id '0'\): {count} tokens, image included$"):
        open_experiment(config)


def test_pictures_within_parquet_are_not_read_for_it(write, model, tmp_path, monkeypatch):
    root = write("train.json", [training()])
    write("test.json", [question()])
    write_parquet(fcit(root), str(tmp_path / "pq"), ["ImageNet-R"])
    records = load_train(fcit(str(tmp_path / "pq")), "ImageNet-R")
    monkeypatch.setattr("fcit_ray.data.parquet.reading.ParquetRoot.image", lambda *_: 1 / 0)
    family = next(family for family in FAMILIES if family.name == "Qwen2.5-VL")
    family.write(tmp_path / "qwen")
    for path, prompt in ((model, "bare"), (str(tmp_path / "qwen"), "chat")):
        encoder = LengthEncoder(str(tmp_path / "pq"), path, prompt, 9)
        assert [one for one, _ in too_long(encoder, records)] == records


def test_a_pictures_size_is_the_upright_one(tmp_path):
    (tmp_path / "datasets").mkdir()
    for orientation, expected in ((1, (4, 2)), (3, (4, 2)), (6, (2, 4)), (8, (2, 4))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (4, 2)).save(tmp_path / "datasets" / "a.jpg", exif=exif)
        assert picture_size(str(tmp_path), "datasets/a.jpg") == expected
    Image.new("RGB", (4, 2)).save(tmp_path / "datasets" / "a.jpg", exif=b"Exif\0\0neither II nor MM")
    assert picture_size(str(tmp_path), "datasets/a.jpg") == (4, 2)
