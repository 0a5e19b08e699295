"""What stands in the place of a file is told before it is read."""

import os

import pytest

from fcit_ray.storage.files import misfit, parse_json, read_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (POINTER, "is a Git LFS pointer"),
        (b"\xef\xbb\xbf \n<!DOCTYPE HTML>", "is a web page (HTML)"),
        (b"<html>", "is a web page (HTML)"),
        (b"{}", ""),
        (b"\x80\x02}q\x00.", ""),
    ],
)
def test_what_the_first_bytes_tell(tmp_path, content, said):
    path = tmp_path / "file"
    path.write_bytes(content)
    found = misfit(path)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_what_is_no_file_is_told_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert misfit(tmp_path / "pipe") == "is a named pipe (FIFO); expected a file"  # to open it would wait for ever
    assert misfit(tmp_path) == "is a folder; expected a file"
    assert misfit("/dev/null") == "is a device; expected a file"
    with pytest.raises(FileNotFoundError):
        misfit(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{not json", "is not JSON: line 1, column 2: "),
        ("[1,\n2", "is not JSON: line 2, column 2: "),
        (b'["\xff"]', "is not JSON: byte 2 is no UTF-8"),
        ("[" * 100_000, "is JSON that is nested too deeply to be read"),
        ('{"a":' * 100_000, "is JSON that is nested too deeply to be read"),
        ("1" * 5000, "is not JSON that can be read: "),
    ],
)
def test_text_that_is_no_json_is_told_in_one_line(text, said):
    with pytest.raises(ValueError, match=r"^is .*$") as caught:
        parse_json(text)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_json_is_read_in_any_encoding_of_unicode(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "file").write_bytes('["\u00e9"]'.encode(encoding))
        assert read_json(tmp_path / "file") == ["\u00e9"]
    (tmp_path / "file").write_bytes(POINTER)
    with pytest.raises(ValueError, match="is a Git LFS pointer"):
        read_json(tmp_path / "file")
