"""Pictures at the door: what can be used, and what is said of what cannot, before a pixel is unfolded."""

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fcit_ray.data.records.images import image_faults
from fcit_ray.data.records.layout import Record, check_images
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn


def spoil(root: Path, name: str, data: bytes) -> Record:
    path = root / "datasets" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Record(
        "ImageNet-R", name, (f"datasets/{name}",), (Turn("a ?"),), source="instructions/ImageNet-R/test.json", index=4
    )


def saved(tmp_path: Path, suffix: str) -> bytes:
    path = tmp_path / f"sound.{suffix}"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    return path.read_bytes()


def test_sound_images_pass_whatever_their_suffix_says(tmp_path):
    png, jpeg = saved(tmp_path, "png"), saved(tmp_path, "jpg")
    sound = [
        spoil(tmp_path, "a.png", png),
        spoil(tmp_path, "b.jpg", png),  # the content counts
        spoil(tmp_path, "c.JPEG", jpeg + b"\0" * 100),  # some cameras append bytes after the end marker
        spoil(tmp_path, "d.gif", saved(tmp_path, "gif")),
        spoil(tmp_path, "e.jpg", jpeg + b"\0" * 10_000),  # a motion photo's film is long
        spoil(tmp_path, "f.png", png[:-12]),  # every pixel is there, only IEND is not
    ]
    check_images(tmp_path, sound)
    assert image_faults(str(tmp_path), [record.images[0] for record in sound], decode=True) == {}


BROKEN = [
    ("png", slice(None, -60), "truncated: no end marker in this PNG file"),
    ("jpg", slice(None, -20), "truncated: no end marker in this JPEG file"),
    ("gif", slice(None, -500), "unreadable as GIF, cut short or broken"),
    ("bmp", slice(None, -1), "unreadable as BMP, cut short or broken"),
    ("tiff", slice(None, -1), "unreadable as TIFF, cut short or broken"),
    ("webp", slice(None, -1), "cannot be opened, cut short or broken"),
    ("png", slice(0, 0), "is empty, as a copy or download that broke off leaves it; fetch it again"),
    ("jpg", slice(0, 12), "cannot be opened, cut short or broken"),
    ("png", slice(7, None), "is no picture of a format that is known here (PNG, JPEG, GIF, WebP, BMP ...)"),
]


@pytest.mark.parametrize(("suffix", "cut", "said"), BROKEN)
def test_a_broken_image_is_refused_at_the_door(tmp_path, suffix, cut, said):
    # What a file is counts, not what it is called: every one of them is called a JPEG, too.
    for name in (f"x.{suffix}", "y.jpg"):
        record = spoil(tmp_path, name, saved(tmp_path, suffix)[cut])
        with pytest.raises(DataError) as caught:
            check_images(tmp_path, [record])
        assert f"test.json: record 4 (id {name!r}): image datasets/{name}: {said}" in str(caught.value)


def black(width: int, height: int, rows: int) -> bytes:
    """A PNG of one bit a pixel, which is a thousand times smaller than its pixels; never held in memory as such."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    squeeze = zlib.compressobj(9)
    body = b"".join(squeeze.compress(bytes(1 + (width + 7) // 8)) for _ in range(rows)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (1, 60_000, "has 1 x 60000 pixels; at most 16,384 a side are taken"),  # 196 bytes; as a square 10.8 GB
        (201, 1, "has 201 x 1 pixels; sides of at most 200 to 1 are taken"),
        (8192, 16_385, "has 8192 x 16385 pixels; at most 134,217,728 in all are taken"),  # 2^13 * (2^14 + 1) > 2^27
        (60_000, 60_000, "unfolds to more than 134,217,728 pixels"),
        (200, 1, None),
    ],
)
def test_a_picture_is_measured_before_it_is_unfolded(tmp_path, monkeypatch, width, height, said):
    def refuse(*_):
        raise AssertionError("its pixels were unfolded")

    if said:
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    spoil(tmp_path, "x.png", black(width, height, rows=min(height, 2**28 // width)))  # to write all takes a while
    for decode in (False, True):
        found = image_faults(str(tmp_path), ["datasets/x.png"], decode)
        assert found.get("datasets/x.png", "").startswith(said) if said else not found


def test_what_stands_in_the_place_of_a_picture_is_told(tmp_path):
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n")
    (folder / "page.jpg").write_text("\n<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")  # to open it would wait for ever
    (folder / "dangling.png").symlink_to("nowhere")
    assert image_faults(str(tmp_path), sorted(f"datasets/{name}" for name in os.listdir(folder))) == {
        "datasets/dangling.png": "no such file",
        "datasets/folder.png": "is a folder; expected a file",
        "datasets/page.jpg": "is a web page (HTML), as a failed download leaves it; fetch the file again",
        "datasets/pipe.png": "is a named pipe (FIFO); expected a file",
        "datasets/pointer.png": "is a Git LFS pointer in the place of the file, which was never fetched; run "
        "`git lfs pull` there",
    }


def test_an_image_shared_by_records_is_reported_once(tmp_path):
    (tmp_path / "datasets").mkdir()
    missing = [Record("DVQA", str(n), (f"datasets/{n // 2}.png",), (Turn("a ?"),), index=n) for n in range(4)]
    with pytest.raises(DataError, match=r"2 of 2 images cannot be used:(?s:.*)no such file") as caught:
        check_images(tmp_path, missing)
    assert "record 2 (id '2'): image datasets/1.png" in str(caught.value)


def test_a_format_whose_reader_starts_a_program_is_none(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    for decode in (False, True):
        assert image_faults(str(tmp_path), ["x.png"], decode)["x.png"].startswith("is no picture of a format that is")


def test_a_text_that_unfolds_in_a_picture_is_refused_and_takes_no_memory(tmp_path):
    """A PNG's comment of 128 MB, zeros packed a thousandfold: Pillow takes a megabyte of it."""
    whole = black(8, 8, rows=8)
    squeeze = zlib.compressobj(9)
    words = b"Comment\0\0" + b"".join(squeeze.compress(bytes(2**20)) for _ in range(128)) + squeeze.flush()
    chunk = struct.pack(">I", len(words)) + b"zTXt" + words + struct.pack(">I", zlib.crc32(b"zTXt" + words))
    (tmp_path / "x.png").write_bytes(whole[:33] + chunk + whole[33:])  # after the header
    tracemalloc.start()
    try:
        for decode in (False, True):
            assert image_faults(str(tmp_path), ["x.png"], decode)["x.png"].startswith("unreadable")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
