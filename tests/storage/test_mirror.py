"""A folder in a store and its working copy, on an S3 server and on a file system of fsspec's."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import s3_server

from fcit_ray.errors import RunFolderError
from fcit_ray.storage import mirror, remote
from fcit_ray.storage.claims import claim
from fcit_ray.storage.mirror import Mirror, mirror_of


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["s3", "memory"])
def uri(
    request: pytest.FixtureRequest, server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    for key, value in {**server, "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    remote._file_system.cache_clear()
    yield f"{request.param}://bucket/{uuid.uuid4().hex}/a b"
    mirror._mirrors.clear()
    remote._file_system.cache_clear()


def test_what_is_brought_is_fetched_elsewhere_and_what_is_removed_is_gone(uri: str) -> None:
    here, there = Mirror(uri), Mirror(uri)
    (here.path / "sub").mkdir()
    (here.path / "sub" / "big").write_bytes(b"x" * 12_000_000)  # of several parts
    (here.path / "empty").write_bytes(b"")
    here.bring("sub/big", "empty")
    assert here.index == there.list() == {"sub/big": 12_000_000, "empty": 0}
    assert there.list("sub") == {"sub/big": 12_000_000}
    assert there.list("su") == {}
    assert there.fetch("sub/big")
    assert (there.path / "sub" / "big").read_bytes() == b"x" * 12_000_000
    here.remove("sub/big", "never/there")
    assert there.list() == {"empty": 0}
    assert not there.fetch("sub/big")
    assert not (there.path / "sub" / "big").exists()  # what the store does not have is not believed


def test_a_file_that_has_changed_in_the_store_is_fetched_again(uri: str) -> None:
    here, there = Mirror(uri), Mirror(uri)
    for content in ("one", "three"):
        (here.path / "file").write_text(content)
        here.bring("file")
        assert there.fetch("file")
        assert (there.path / "file").read_text() == content


def test_of_two_that_want_a_folder_one_has_it(uri: str) -> None:
    held = claim(Mirror(uri), "run", refuse_live=True)
    other = Mirror(uri)
    claim(other, "writer", refuse_live=True).release()
    assert list(other.list(".locks")) == [held.name]
    held.release()
    claim(other, "run", refuse_live=True).release()
    assert other.list() == {}


def test_a_write_that_breaks_off_leaves_no_object(server: dict[str, str], uri: str) -> None:
    here = Mirror(uri)

    def chunks() -> Iterator[bytes]:
        yield b"x" * 6_000_000
        raise OSError(5, "the disk", "a file of ours")

    with pytest.raises(OSError, match="the disk"):
        here._upload(here._at("half"), chunks())
    assert here.list() == {}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://KEY:hush@bucket/run", r"s3://\*\*\*@bucket/run: credentials in a URI end up in files and logs"),
        ("nowhere://bucket/run", "nowhere://bucket/run: .*expected a folder or a URI of s3://"),
    ],
)
def test_a_place_that_cannot_be_is_refused(uri: str, said: str) -> None:
    with pytest.raises(RunFolderError, match=said):
        mirror_of(uri)
