"""What becomes of a record: tokens and labels followed by hand, and images of every odd kind.

The stand-in's tokens (see stand_in.py): 0 <pad>, 1 <s>, 2 </s>, 3 <unk>, 4 <image>, 5 USER:, 6 ASSISTANT:, 7 which,
8 colour, 9 and, 10 shape, 11 ?, 12 red, 13 dark, 14 blue, 15 square. An image is 8 / 4 * 8 / 4 = 4 tokens.
"""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fcit_layout import FCIT, fcit
from PIL import Image

from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.pixels import pad_to_square, to_rgb
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.records.layout import Record, check_images, load_test, load_train
from fcit_ray.errors import DataError
from fcit_ray.models.load import load_base, load_processor
from fcit_ray.models.prompt import Turn

REAL = Path(__file__).parents[3] / "shared" / "real"


def place(root: Path, image: Image.Image, name: str = "a.png") -> Path:
    (root / "datasets").mkdir(exist_ok=True)
    image.save(root / "datasets" / name)
    return root


def record(*turns: Turn, image: str = "a.png") -> Record:
    return Record("DVQA", "q7", (f"datasets/{image}",), turns, source="instructions/DVQA/train.json", index=3)


ONE = record(Turn("<image>\nwhich colour ?", "dark red"))


@pytest.fixture
def encoder(tmp_path, model) -> SampleEncoder:
    place(tmp_path, Image.new("RGB", (8, 8), "red"))
    return SampleEncoder(str(tmp_path), model, "bare", 64)


def test_only_the_answer_and_its_end_are_labelled(encoder):
    sample = encoder.encode_train(ONE)
    # <s> USER: <image>*4 which colour ? ASSISTANT: dark red </s>
    assert sample["input_ids"].tolist() == [1, 5, 4, 4, 4, 4, 7, 8, 11, 6, 13, 12, 2]
    assert sample["labels"].tolist() == [-100] * 10 + [13, 12, 2]
    assert sample["input_ids"].dtype == sample["labels"].dtype == np.int64


def test_every_answer_of_a_conversation_is_labelled(encoder):
    turns = (Turn("<image>\nwhich colour ?", "dark red"), Turn("and shape ?", "square"))
    sample = encoder.encode_train(record(*turns))
    # ... dark red </s> USER: and shape ? ASSISTANT: square </s>
    assert sample["input_ids"].tolist() == [1, 5, 4, 4, 4, 4, 7, 8, 11, 6, 13, 12, 2, 5, 9, 10, 11, 6, 15, 2]
    assert sample["labels"].tolist() == [-100] * 10 + [13, 12, 2] + [-100] * 5 + [15, 2]


def test_an_answer_that_repeats_the_question_is_labelled_once(encoder):
    sample = encoder.encode_train(record(Turn("<image>\nred", "red")))
    # <s> USER: <image>*4 red ASSISTANT: red </s>: the same word, supervised only where it is the answer
    assert sample["labels"].tolist() == [-100] * 8 + [12, 2]


def test_tokens_that_take_the_space_along_are_labelled_alike(encoder, model_spaced):
    spaced = dataclasses.replace(encoder, model=model_spaced)
    turns = (Turn("<image>\nwhich colour ?", "dark red"), Turn("and shape ?", "square"))
    labels = spaced.encode_train(record(*turns))["labels"]
    assert labels[labels != -100].tolist() == [13, 12, 2, 15, 2]  # dark red </s> square </s>


def test_llamas_marks_and_bytes_are_labelled_alike(encoder, model_llama):
    # Llama's tokenizer rewrites the text before it cuts it; the offsets still have to be the original's.
    turns = (Turn("<image>\nwhich colour ?", "dark\u00e9"), Turn("and shape ?", "7"))
    sample = dataclasses.replace(encoder, model=model_llama, max_length=128).encode_train(record(*turns))
    tokens = load_processor(model_llama).tokenizer.convert_ids_to_tokens(sample["labels"][sample["labels"] != -100])
    # the mark of the space, four letters, the two bytes of e acute in UTF-8, the end; then the second answer
    assert tokens == ["\u2581", *"dark", "<0xC3>", "<0xA9>", "</s>", "\u2581", "7", "</s>"]


def test_words_outside_the_vocabulary_are_labelled_too(encoder):
    assert encoder.encode_train(record(Turn("colour ?", "vermilion")))["labels"].tolist()[-2:] == [3, 2]


def test_a_question_stays_open_for_the_answer(encoder):
    sample = encoder.encode_test(record(Turn("which colour ?")))
    assert sample["input_ids"].tolist() == [1, 5, 4, 4, 4, 4, 7, 8, 11, 6]
    assert set(sample) == {"pixels", "input_ids", "feature"}


def test_prompts_begin_training_texts(encoder):
    # Where they differ the model would be asked in other words than it was taught in.
    asked = encoder.encode_test(record(Turn("which colour ?")))["input_ids"]
    assert encoder.encode_train(ONE)["input_ids"].tolist()[: len(asked)] == asked.tolist()


def test_the_feature_is_of_the_instruction_alone(encoder):
    feature = encoder.encode_train(ONE)["feature"]
    # Unit rows: a third each for which (7), colour (8), ? (11); nothing for roles, image or answer.
    expected = np.zeros(16, dtype=np.float32)
    expected[[7, 8, 11]] = 1 / 3
    np.testing.assert_allclose(feature, expected)
    assert feature.dtype == np.float32
    np.testing.assert_array_equal(feature, encoder.encode_test(record(Turn("which colour ?")))["feature"])
    np.testing.assert_array_equal(feature, encoder.encode_feature(ONE))


def test_a_sample_depends_on_its_record_alone(encoder):
    before = encoder.encode_train(ONE)
    encoder.encode_train(record(Turn("which colour and shape ?", "square")))
    after = encoder.encode_train(ONE)
    assert all((before[key] == after[key]).all() for key in before)


def test_the_processor_itself_gives_the_same_batch(tmp_path, model, encoder):
    image = Image.effect_noise((30, 30), 100).convert("RGB")
    place(tmp_path, image)
    processor = load_processor(model)
    sample = encoder.encode_test(record(Turn("which colour ?")))
    text = "USER: <image>\nwhich colour ? ASSISTANT:"
    expected = processor(text=[text], images=[image], return_tensors="pt")
    got = Collator.from_processor(processor).prompts([sample])
    assert got["input_ids"].tolist() == expected["input_ids"].tolist()
    torch.testing.assert_close(got["pixel_values"], expected["pixel_values"], atol=1e-6, rtol=0)


def test_a_record_too_long_names_lengths_and_the_key_to_change(encoder):
    # 13 tokens: fits in 13, not in 12.
    assert len(dataclasses.replace(encoder, max_length=13).encode_train(ONE)["labels"]) == 13
    with pytest.raises(
        DataError, match=r"DVQA/train\.json: record 3 \(id 'q7'\): 13 tokens.*exceed model\.max_length=12; raise"
    ):
        dataclasses.replace(encoder, max_length=12).encode_train(ONE)


def test_the_encoder_travels_as_its_settings(encoder):
    encoder.encode_train(ONE)  # what it has loaded must not come along
    assert len(pickle.dumps(encoder)) < 1000
    assert pickle.loads(pickle.dumps(encoder)) == encoder


def test_an_image_that_passes_the_door_but_does_not_decode(tmp_path, encoder):
    path = place(tmp_path, Image.effect_noise((64, 64), 90)) / "datasets" / "a.png"
    data = bytearray(path.read_bytes())
    data[200:260] = b"\0" * 60
    path.write_bytes(data)
    check_images(tmp_path, [ONE])
    with pytest.raises(DataError, match=r"train\.json: record 3 \(id 'q7'\): image datasets/a\.png: unreadable"):
        encoder.encode_train(ONE)
    with pytest.raises(DataError, match=r"image datasets/b\.png: no such file"):
        encoder.encode_train(record(*ONE.turns, image="b.png"))


def test_wide_images_are_centred_on_the_mean_colour():
    image = Image.new("RGB", (4, 2), "red")
    square = np.array(pad_to_square(image, (0.5, 0.25, 0.0)))
    # 4 wide, 2 high: one row above and one below, of int(0.5 * 255) = 127, int(0.25 * 255) = 63, 0
    assert square.shape == (4, 4, 3)
    assert square[[0, 3]].reshape(-1, 3).tolist() == [[127, 63, 0]] * 8
    assert square[[1, 2]].reshape(-1, 3).tolist() == [[255, 0, 0]] * 8


def test_tall_images_with_an_odd_rest_put_the_larger_half_after():
    square = np.array(pad_to_square(Image.new("RGB", (2, 5), "white"), (0.0, 0.0, 0.0)))
    assert square[0, :, 0].tolist() == [0, 255, 255, 0, 0]  # 3 columns over: 3 // 2 = 1 before


def test_very_wide_and_single_pixels_become_squares_too():
    mean = (0.48145466, 0.4578275, 0.40821073)  # CLIP's; times 255: 122.77, 116.75, 104.09, of which the whole part
    ink = (1, 2, 3)
    single = Image.new("RGB", (1, 1), ink)
    assert np.array(pad_to_square(single, mean)).tolist() == [[[1, 2, 3]]]
    # 7 wide, 2 high: 5 rows over, 5 // 2 = 2 above and 3 below.
    square = np.array(pad_to_square(Image.new("RGB", (7, 2), ink), mean))
    assert square[:, 0].tolist() == [[122, 116, 104]] * 2 + [[1, 2, 3]] * 2 + [[122, 116, 104]] * 3
    assert (square == square[:, :1]).all()
    # 2001 wide, 1 high: (2001 - 1) // 2 = 1000 above and as many below.
    square = np.array(pad_to_square(Image.new("RGB", (2001, 1), ink), mean))
    assert square.shape == (2001, 2001, 3)
    assert np.flatnonzero(square[:, 5, 0] == 1).tolist() == [1000]


def test_a_wide_record_is_padded_before_it_is_resized(tmp_path, encoder):
    place(tmp_path, Image.new("RGB", (80, 20), (255, 255, 255)))
    pixels = encoder.encode_train(ONE)["pixels"][0]
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [122, 116, 104]  # CLIP's mean colour, 0.4815, 0.4578, 0.4082, times 255, cut
    assert (pixels[4, 4] > 240).all()  # white, but for what bicubic filtering mixes in


def reopened(tmp_path: Path, image: Image.Image, suffix: str = "png", **options: object) -> Image.Image:
    path = tmp_path / f"odd.{suffix}"
    image.save(path, **options)
    return Image.open(path)


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    return image


RED, WHITE, BLACK, GREY = [255, 0, 0], [255, 255, 255], [0, 0, 0], [128, 128, 128]


@pytest.mark.parametrize(
    ("image", "suffix", "options", "mode", "expected"),
    [
        (Image.new("L", (2, 1), 128), "png", {}, "L", [GREY, GREY]),
        (Image.new("1", (2, 1), 1), "png", {}, "1", [WHITE, WHITE]),
        (Image.new("RGBA", (2, 1), (255, 0, 0, 255)), "png", {}, "RGBA", [RED, RED]),
        # Invisible black is white paper, not black ink.
        (Image.new("RGBA", (2, 1), (0, 0, 0, 0)), "png", {}, "RGBA", [WHITE, WHITE]),
        (Image.new("LA", (2, 1), (0, 0)), "png", {}, "LA", [WHITE, WHITE]),
        (palette(), "png", {}, "P", [RED, [0, 255, 0]]),
        (palette(), "png", {"transparency": 1}, "P", [RED, WHITE]),
        (Image.new("RGB", (2, 1), "red"), "png", {"transparency": (255, 0, 0)}, "RGB", [WHITE, WHITE]),
        # 16 bits: 0x8080 = 32896 is 128 * 257; clipping would make it white.
        (Image.fromarray(np.array([[32896, 65535]], dtype=np.uint16)), "png", {}, "I;16", [GREY, WHITE]),
        (Image.fromarray(np.array([[32896, 0]], dtype=np.int32)), "tiff", {}, "I", [GREY, BLACK]),
        (Image.fromarray(np.array([[0.502, 1.0]], dtype=np.float32)), "tiff", {}, "F", [GREY, WHITE]),
        (Image.fromarray(np.array([[128.0, 255.0]], dtype=np.float32)), "tiff", {}, "F", [GREY, WHITE]),
        # No cyan, all magenta and yellow: red.
        (Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "tiff", {}, "CMYK", [RED, RED]),
    ],
)
def test_every_mode_becomes_the_colours_one_sees(tmp_path, image, suffix, options, mode, expected):
    odd = reopened(tmp_path, image, suffix, **options)
    assert odd.mode == mode
    assert np.array(to_rgb(odd)).tolist() == [expected]


def test_photographs_are_turned_upright(tmp_path):
    image = Image.new("RGB", (2, 1), "red")
    image.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes top
    upright = np.array(to_rgb(reopened(tmp_path, image, exif=exif)))
    assert upright.tolist() == [[RED], [[0, 0, 255]]]


def test_a_photograph_whose_exif_cannot_be_read_stays_as_it_is_stored(tmp_path):
    stored = Image.new("RGB", (2, 1), "red")
    options = {"exif": b"Exif\0\0neither II nor MM"}
    with pytest.raises(SyntaxError, match="not a TIFF file"):
        reopened(tmp_path, stored, **options).getexif()
    assert np.array(to_rgb(reopened(tmp_path, stored, **options))).tolist() == [[RED, RED]]


@pytest.mark.skipif(not REAL.exists(), reason="no real data beside this checkout")
@pytest.mark.parametrize("dataset", ["TabMWP", "ImageNet-R"])
def test_real_records_encode(dataset, model):
    encoder = SampleEncoder(str(REAL), model, "vicuna_v1", 512)
    for real in load_train(fcit(REAL), dataset)[:20]:
        sample = encoder.encode_train(real)
        labels = sample["labels"][sample["labels"] != -100]
        assert labels[-1] == 2  # the end is always taught
        assert len(labels) == len((real.turns[0].answer or "").split()) + 1  # one token a word here
    for real in load_test(fcit(REAL), dataset)[:20]:
        assert encoder.encode_test(real)["pixels"].shape == (1, 8, 8, 3)


def test_the_packaged_tokenizer_cuts_alike_in_one_go(tmp_path):
    # Before and after the image apart, as LLaVA does: the same for this tokenizer, which sets no mark before a text.
    root = tmp_path / "mini"
    write_miniature(root, num_train=8, num_validation=1, num_test=2)
    tiny = SampleEncoder(str(root), "tiny", "bare", 512)
    processor = load_processor("tiny")
    for dataset in FCIT:
        for item in load_test(fcit(root), dataset):
            text = f"USER: <image>\n{item.turns[0].question} ASSISTANT:".replace("<image>", "<image>" * 16)
            assert tiny.encode_test(item)["input_ids"].tolist() == processor.tokenizer(text)["input_ids"]
        for item in load_train(fcit(root), dataset):
            text = "".join(f"USER: {turn.question} ASSISTANT: {turn.answer}</s>" for turn in item.turns)
            ids = processor.tokenizer(text.replace("<image>", "<image>" * 16))["input_ids"]
            assert tiny.encode_train(item)["input_ids"].tolist() == ids


def test_the_packaged_model_takes_what_is_encoded_for_it(tmp_path):
    # Word pieces, newlines and capitals as they come: what is supervised reads back as the answers, and the model
    # finds as many image tokens as it has patches.
    root = tmp_path / "mini"
    write_miniature(root, num_train=3, num_validation=1, num_test=1)
    tiny = SampleEncoder(str(root), "tiny", "bare", 512)
    processor = load_processor("tiny")
    model = load_base("tiny")
    for dataset in FCIT:
        records = load_train(fcit(root), dataset)
        samples = [tiny.encode_train(item) for item in records]
        for item, sample in zip(records, samples, strict=True):
            taught = processor.tokenizer.decode(sample["labels"][sample["labels"] != -100])
            expected = processor.tokenizer.decode(
                [
                    token
                    for turn in item.turns
                    for token in processor.tokenizer(f" {turn.answer}</s>", add_special_tokens=False)["input_ids"]
                ]
            )
            assert taught.split() == expected.split()
        batch = Collator.from_processor(processor).train(samples)
        features = batch.pop("features")
        assert features.shape == (3, 128)
        with torch.no_grad():
            assert torch.isfinite(model(**batch).loss)
