"""Features on disk by content: several writers, damage, the limit, joining, and what makes two encoders one."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clip_like import save_clip

from fcit_ray.data.loading.features import FeatureTable
from fcit_ray.models.identity import digest
from fcit_ray.models.identity.cache import FeatureCache, default_folder
from fcit_ray.models.identity.digest import encoder_digest

LIMIT = 2**30


def key(number: int) -> bytes:
    """32 bytes that end in zeros, as a byte string of NumPy would lose."""
    return number.to_bytes(2, "big").ljust(32, b"\0")


def features(*numbers: int, width: int = 3) -> dict[bytes, np.ndarray]:
    return {key(number): np.full(width, number, np.float32) for number in numbers}


def numbers(found: dict[bytes, np.ndarray]) -> list[int]:
    assert all(
        (row == int.from_bytes(name[:2], "big")).all() and row.dtype == np.float32 for name, row in found.items()
    )
    return sorted(int.from_bytes(name[:2], "big") for name in found)


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.safetensors"))


def test_what_was_kept_is_found_and_nothing_else(tmp_path):
    cache = FeatureCache(tmp_path, "clip", LIMIT)
    assert cache.find([key(1)]) == {}
    cache.add(features(1, 2))
    cache.add(features(3))
    cache.add({})
    again = FeatureCache(tmp_path, "clip", LIMIT)
    assert numbers(again.find([key(1), key(3), key(4)])) == [1, 3]
    assert FeatureCache(tmp_path, "other", LIMIT).find([key(1)]) == {}, "the same text under two encoders"


def test_several_processes_write_and_tidy_at_once_and_nothing_is_lost(tmp_path):
    code = """
import sys, numpy as np
from pathlib import Path
from fcit_ray.models.identity.cache import FeatureCache
first = int(sys.argv[2])
cache = FeatureCache(Path(sys.argv[1]), "clip", 2**30)
for start in range(first, first + 60, 2):  # half of each is the next process's too
    keys = [number.to_bytes(2, "big").ljust(32, b"\\0") for number in (start, start + 1)]
    cache.add({key: np.full(3, n, np.float32) for n, key in enumerate(keys, start)})
    cache.tidy()
    assert len(cache.find(keys)) == 2
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen([*command, str(first)], stderr=subprocess.PIPE, text=True) for first in (0, 30, 60, 90)]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    cache = FeatureCache(tmp_path, "clip", LIMIT)
    assert numbers(cache.find([key(n) for n in range(200)])) == list(range(150))
    assert len(files(tmp_path)) < 60, "they were joined meanwhile"
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".partial", ".damaged")]


def test_small_segments_are_joined(tmp_path):
    cache = FeatureCache(tmp_path, "clip", LIMIT)
    for number in range(15):
        cache.add(features(number))
    cache.tidy()
    assert len(files(tmp_path)) == 15, "not worth it yet"
    cache.add(features(15))
    cache.tidy()
    assert len(files(tmp_path)) == 1
    assert numbers(cache.find([key(n) for n in range(16)])) == list(range(16))


def test_who_had_looked_before_others_joined_finds_all_the_same(tmp_path, monkeypatch):
    cache, other = FeatureCache(tmp_path, "clip", LIMIT), FeatureCache(tmp_path, "clip", LIMIT)
    for number in range(16):
        cache.add(features(number))
    real, joined = FeatureCache._read, []

    def read(self, path):
        if self is cache and not joined:
            joined.append(True)
            other.tidy()  # between our look at the folder and our first segment
        return real(self, path)

    monkeypatch.setattr(FeatureCache, "_read", read)
    assert numbers(cache.find([key(n) for n in range(16)])) == list(range(16))


@pytest.mark.parametrize("damage", ["a bit", "cut short"])
def test_a_damaged_segment_is_never_believed(tmp_path, caplog, damage):
    cache = FeatureCache(tmp_path, "clip", LIMIT)
    cache.add(features(1))
    cache.add(features(2))
    path = next(path for path in files(tmp_path) if FeatureCache._read(cache, path)[0] == [key(1)])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:-7] if damage == "cut short" else content)
    with caplog.at_level(logging.WARNING):
        assert numbers(cache.find([key(1), key(2)])) == [2]
    assert "is not what its name says" in caplog.text
    assert str(path) in caplog.text
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").exists()
    cache.add(features(1))  # computed again
    assert numbers(FeatureCache(tmp_path, "clip", LIMIT).find([key(1), key(2)])) == [1, 2]


def test_beyond_the_limit_the_longest_unused_go_whosever_they_are(tmp_path):
    one, other = FeatureCache(tmp_path, "one", LIMIT), FeatureCache(tmp_path, "other", LIMIT)
    for age, (cache, number) in enumerate([(one, 1), (other, 2), (one, 3)]):
        before = set(files(tmp_path))
        cache.add(features(number))
        [path] = set(files(tmp_path)) - before
        os.utime(path, (1000 + age, 1000 + age))
    size = files(tmp_path)[0].stat().st_size
    assert numbers(one.find([key(1)])) == [1]  # the oldest is used again
    FeatureCache(tmp_path, "one", 2 * size).tidy()
    assert numbers(one.find([key(1), key(3)])) == [1, 3]
    assert other.find([key(2)]) == {}


@pytest.mark.parametrize("step", ["add", "find", "tidy", "lock"])
def test_a_folder_that_cannot_be_used_ends_nothing_and_is_told_of_once(tmp_path, caplog, step):
    (tmp_path / "file").write_text("in the place of a folder")
    cache = FeatureCache(tmp_path / "file" / "features", "clip", LIMIT)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            {
                "add": lambda: cache.add(features(1)),
                "find": lambda: cache.find([key(1)]),
                "tidy": cache.tidy,
                "lock": cache.lock,
            }[step]()
    told = [record.message for record in caplog.records if "runtime.feature_cache" in record.message]
    assert len(told) == (1 if step in ("add", "lock") else 0)
    assert all("cannot be written, so the next run computes again" in message for message in told)


def test_a_table_finds_each_key_and_no_other():
    table = FeatureTable.of({"text": features(5, 1, 256), "image": {}})
    assert [table.row("text", key(n)).tolist() for n in (1, 5, 256)] == [[1.0] * 3, [5.0] * 3, [256.0] * 3]
    for half, absent in (("text", key(2)), ("text", b"\xff" * 32), ("image", key(1))):
        with pytest.raises(KeyError, match=f"no feature of this {half}"):
            table.row(half, absent)


def test_the_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fcit_ray" / "features"
    monkeypatch.setenv("HOME", "/home/somebody")
    for unset in ("", "relative/folder"):  # as the XDG base directories have it
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_folder() == Path("/home/somebody/.cache/fcit_ray/features")


# What makes two encoders one


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


def of(folder: Path, half: str = "text", device: str = "cpu", memo: Path | None = None) -> str:
    return encoder_digest("tiny", str(folder), half, device, memo)


def test_equal_files_are_one_encoder_wherever_they_lie(clip, tmp_path):
    shutil.copytree(clip, tmp_path / "copy")
    assert of(tmp_path / "copy") == of(clip)
    (tmp_path / "copy" / "README.md").write_text("says nothing of the values")
    assert of(tmp_path / "copy") == of(clip)


def test_whatever_may_change_a_value_makes_another_encoder(clip, tmp_path):
    digests = [of(clip), of(clip, "image"), of(clip, device="cuda"), encoder_digest("tiny", "base", "image", "cpu")]
    weights = bytearray((clip / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(weights[:8], "little")
    entry = json.loads(weights[8:header])["text_model.final_layer_norm.weight"]
    weights[header + entry["data_offsets"][0]] ^= 1
    for name, content in {
        "model.safetensors": bytes(weights),
        "tokenizer.json": (clip / "tokenizer.json").read_bytes() + b" ",
    }.items():
        shutil.copytree(clip, tmp_path / name)
        (tmp_path / name / name).write_bytes(content)
        digests.append(of(tmp_path / name))
    assert len(set(digests)) == 6
    assert of(tmp_path / "model.safetensors", "image") == of(clip, "image"), "a text's tensor is none of a picture's"


def test_weights_are_read_once_until_they_change(clip, tmp_path, monkeypatch):
    folder, memo = tmp_path / "clip", tmp_path / "memo"
    shutil.copytree(clip, folder)
    monkeypatch.setattr(digest, "_SETTLED_S", -1.0)  # as if the files had been there for a while
    real, read = digest._of_tensors, []
    monkeypatch.setattr(digest, "_of_tensors", lambda *args: read.append(True) or real(*args))
    assert of(folder, memo=memo) == of(folder, memo=memo) == of(clip)
    assert len(read) == 2  # and once without a memo
    save_clip(folder)  # of the same size, perhaps the same bytes: looked at again
    of(folder, memo=memo)
    assert len(read) == 3


def test_weights_that_have_just_been_written_are_not_remembered(clip, tmp_path):
    shutil.copytree(clip, tmp_path / "clip")
    of(tmp_path / "clip", memo=tmp_path / "memo")
    assert not (tmp_path / "memo").exists()  # they may change again within a tick of the file system's clock
