"""Pictures of every odd kind through LLaVA-1.5's processor: the pixels that come out, worked out by hand.

Pictures of 56 x 56 are the processor's own size and are not resized, so that colours stay exact but for JPEG's losses.
"""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from authors_root import ODD, write_authors_root
from fcit_layout import FCIT, fcit
from PIL import Image
from tiny_llava15 import IMAGE_SIDE, IMAGE_TOKENS, write_tiny_llava15

from fcit_ray.data.loading import pixels as to_pixels
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.records.layout import Record, check_images, load_test, load_train
from fcit_ray.models.load import load_processor
from fcit_ray.models.prompt import Turn

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
MEAN = (122, 116, 104)  # CLIP's 0.4815, 0.4578, 0.4082 times 255, cut: what a picture is padded with
FULL = (IMAGE_SIDE, IMAGE_SIDE)
LEFT = (0, 0, 28, 56)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_llava15(tmp_path_factory.mktemp("odd") / "llava-1.5-7b-hf"))


def pixels(root: Path, llava: str, image: Image.Image, suffix: str = "png", mode: str = "", **options: object):
    """(56, 56, 3) of a picture saved as a file of the given kind."""
    path = root / "datasets" / f"odd.{suffix}"
    path.parent.mkdir()
    image.save(path, **options)
    with Image.open(path) as opened:
        assert opened.mode == (mode or image.mode), "the file holds another kind of picture than the test is about"
    record = Record("DVQA", "q", (f"datasets/odd.{suffix}",), (Turn("What is it?"),))
    check_images(root, [record])
    found = SampleEncoder(str(root), llava, "vicuna_v1", 2048).encode_test(record)["pixels"][0]
    assert found.shape == (*FULL, 3)
    assert found.dtype == np.uint8
    return found.astype(int)


def halves(found: np.ndarray) -> tuple[list[int], list[int]]:
    """The colours of the left and the right half, which are each of one colour."""
    assert (found[:, :28] == found[0, 0]).all()
    assert (found[:, 28:] == found[0, 55]).all()
    return tuple(found[0, 0]), tuple(found[0, 55])


def test_transparent_parts_become_white_paper(tmp_path, llava):
    image = Image.new("RGBA", FULL, (*RED, 255))
    image.paste((0, 0, 0, 0), LEFT)
    assert halves(pixels(tmp_path, llava, image)) == (WHITE, RED)


def test_half_transparent_ink_is_half_white(tmp_path, llava):
    # black at alpha 51 / 255 = 0.2: 0.2 * 0 + 0.8 * 255 = 204
    image = Image.new("RGBA", FULL, (0, 0, 0, 51))
    assert halves(pixels(tmp_path, llava, image))[0] == (204, 204, 204)


def test_a_transparent_entry_of_a_palette_becomes_white_paper(tmp_path, llava):
    image = Image.new("P", FULL, 0)
    image.putpalette([*BLUE, *BLACK])
    image.paste(1, LEFT)
    assert halves(pixels(tmp_path, llava, image, transparency=1)) == (WHITE, BLUE)


def test_grey_with_alpha(tmp_path, llava):
    image = Image.new("LA", FULL, (90, 255))
    image.paste((0, 0), LEFT)
    assert halves(pixels(tmp_path, llava, image)) == (WHITE, (90, 90, 90))


def test_grey(tmp_path, llava):
    assert halves(pixels(tmp_path, llava, Image.new("L", FULL, 140), "jpg"))[0] == (140, 140, 140)


def test_sixteen_bits_are_scaled_down(tmp_path, llava):
    # 65535 is white; 25700 = 100 * 257 is 100 of 255. Clipped at 255, both would be white.
    values = np.full(FULL, 65535, dtype=np.uint16)
    values[:, :28] = 25700
    assert halves(pixels(tmp_path, llava, Image.fromarray(values), mode="I;16")) == ((100, 100, 100), WHITE)


def test_printing_inks_become_light(tmp_path, llava):
    # All cyan takes the red out of white, and nothing else; JPEG may be a level or two off.
    found = pixels(tmp_path, llava, Image.new("CMYK", FULL, (255, 0, 0, 0)), "jpg", quality=100)
    assert np.abs(found - (0, 255, 255)).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "corners"),
    # Of the turned picture: top left, top right, bottom left, bottom right. As stored: red, green, blue, white.
    [
        (1, (RED, GREEN, BLUE, WHITE)),
        (2, (GREEN, RED, WHITE, BLUE)),  # mirrored left to right
        (3, (WHITE, BLUE, GREEN, RED)),  # turned by a half
        (4, (BLUE, WHITE, RED, GREEN)),  # mirrored top to bottom
        (5, (RED, BLUE, GREEN, WHITE)),  # mirrored at the main diagonal
        (6, (BLUE, RED, WHITE, GREEN)),  # a quarter clockwise: bottom left comes to the top left
        (7, (WHITE, GREEN, BLUE, RED)),  # mirrored at the other diagonal
        (8, (GREEN, WHITE, RED, BLUE)),  # a quarter anticlockwise: top right comes to the top left
    ],
)
def test_a_camera_held_otherwise_is_turned_back(tmp_path, llava, orientation, corners):
    image = Image.new("RGB", FULL, RED)
    image.paste(GREEN, (28, 0, 56, 28))
    image.paste(BLUE, (0, 28, 28, 56))
    image.paste(WHITE, (28, 28, 56, 56))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(tmp_path, llava, image, "jpg", exif=exif, quality=100, subsampling=0)
    got = [found[row, column] for row in (10, 45) for column in (10, 45)]  # far from the edges that JPEG blurs
    assert np.abs(np.array(got) - np.array(corners)).max() <= 3


def test_a_single_pixel_fills_the_picture(tmp_path, llava):
    assert halves(pixels(tmp_path, llava, Image.new("RGB", (1, 1), (10, 200, 30)))) == ((10, 200, 30),) * 2


@pytest.mark.parametrize("wide", [True, False])
def test_a_ribbon_is_padded_not_stretched(tmp_path, llava, wide):
    # 900 x 9 on a square of 900: a stripe of 9 / 900 * 56 = 0.56 pixels in the middle of the 56, all else the mean
    # colour. Across the stripe the excess of red adds up to 0.56 * (255 - 122) = 74.5.
    found = pixels(tmp_path, llava, Image.new("RGB", (900, 9) if wide else (9, 900), WHITE))
    across = found if wide else found.transpose(1, 0, 2)
    assert (across[:24] == MEAN).all()
    assert (across[32:] == MEAN).all()
    excess = (across[:, :, 0] - MEAN[0]).sum(0)  # of every column
    assert (abs(excess - 74.5) < 5).all()


def test_every_picture_of_the_authors_root_goes_through(tmp_path, llava):
    root = write_authors_root(tmp_path, num_train=2, num_test=2)
    encoder = SampleEncoder(str(root), llava, "vicuna_v1", 2048)
    image = load_processor(llava).image_token_id
    modes = set()
    for name in FCIT:
        train, test = load_train(fcit(root), name), load_test(fcit(root), name)
        check_images(root, [*train, *test])
        with Image.open(root / train[0].images[0]) as opened:
            modes.add(opened.mode)
        for record in train:
            sample = encoder.encode_train(record)
            assert sample["pixels"].shape == (1, *FULL, 3)
            assert (sample["input_ids"] == image).sum() == IMAGE_TOKENS
            ends = (sample["labels"] == 2).sum()
            assert ends == len(record.turns)  # every answer of a conversation is taught to its end
        for record in test:
            assert encoder.encode_test(record)["pixels"][0].shape == (*FULL, 3)
    assert modes == {"RGB", "RGBA", "P", "L", "LA", "I;16", "CMYK"}
    assert set(ODD) == set(FCIT) - {"Grounding"}


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA", "F"])
def test_what_a_picture_takes_on_its_way_to_rgb_is_of_a_band_alone(monkeypatch, mode):
    """1.6 million pixels: numbers of 64 bits, or a second picture to lay under it, would be 13 MB each."""
    composed = []
    compose = Image.alpha_composite

    def count(under, over):
        composed.append(over.size)
        return compose(under, over)

    monkeypatch.setattr(to_pixels, "_BAND", 2**16)
    monkeypatch.setattr(Image, "alpha_composite", count)
    image = Image.new(mode, (1600, 1000))
    tracemalloc.start()
    try:
        assert to_pixels.to_rgb(image).size == (1600, 1000)
        assert tracemalloc.get_traced_memory()[1] < 10 * 1600 * 1000  # what Pillow hands to numpy is most of it
    finally:
        tracemalloc.stop()
    if mode.endswith("A"):
        assert len(composed) == 25  # of 40 rows each
        assert set(composed) == {(1600, 40)}


def test_bands_leave_no_seam(monkeypatch):
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (37, 13, 4), dtype=np.uint8), "RGBA")
    deep = Image.fromarray(rng.integers(0, 2**16, (37, 13)).astype(np.uint16))
    whole = [to_pixels.to_rgb(image.copy()).tobytes() for image in (rgba, deep)]
    monkeypatch.setattr(to_pixels, "_BAND", 13 * 5)
    assert [to_pixels.to_rgb(image.copy()).tobytes() for image in (rgba, deep)] == whole
