"""The file of answers: killed anywhere it goes on to the same bytes, and nothing is lost or mixed unasked."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fcit_ray.errors import UserError
from fcit_ray.serving.answer_file import AnswerFile, Summary, block_size

ABOUT = {"model_sha256": "m", "input_sha256": "i", "ask": None, "images": None, "count": 23}
SIZE = 4


def block(number: int) -> list[dict[str, Any]]:
    return [
        {"index": index, "error": "no picture"} if index == 5 else {"index": index, "prediction": f"é\u2028{index}\n"}
        for index in range(number * SIZE, min(number * SIZE + SIZE, ABOUT["count"]))
    ]


def answer(out: Path, **how: Any) -> None:
    """Answer what is missing, from the last block to the first: the order of the lines is that of the input."""
    file = AnswerFile(out, ABOUT, SIZE, **how)
    try:
        for number in reversed(file.missing()):
            file.write(number, block(number))
        file.finish()
    finally:
        file.close()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    answer(tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


def test_lines_are_in_the_order_of_the_input_and_counted(tmp_path: Path, whole: bytes) -> None:
    lines = [json.loads(line) for line in whole.split(b"\n")[:-1]]
    assert [line["index"] for line in lines] == list(range(23))
    about = json.loads((tmp_path / "whole.jsonl.about.json").read_text())
    assert (about["count"], about["failed"]) == (23, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.jsonl", "whole.jsonl.about.json"]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_answer_file as t
print("begins", flush=True)
t.answer(Path(sys.argv[2]), resume=True)
"""


def test_killed_at_random_points_it_ends_in_the_same_bytes(tmp_path: Path, whole: bytes) -> None:
    draw, out, kills = random.Random(3), tmp_path / "out.jsonl", 0
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(out)]
    while not out.exists():
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begins\n"
            if kills < 6:  # all of it takes some tens of milliseconds
                time.sleep(draw.random() * 0.03)
                child.kill()
                kills += 1
        assert child.returncode in (0, -9)
    answer(out, resume=True)  # what a kill after the rename left behind goes
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == [
        "out.jsonl", "out.jsonl.about.json",
    ]  # fmt: skip


@pytest.mark.parametrize("step", range(9))
def test_stopped_between_any_two_steps_it_ends_in_the_same_bytes(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Steps are renames: five blocks more than `finish` needs are there, so the last ones fall into it."""
    out, left = tmp_path / "out.jsonl", step
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    try:
        answer(out)
    except KeyboardInterrupt:
        assert step < 10
    monkeypatch.setattr("os.replace", real)
    answer(out, resume=True)
    assert out.read_bytes() == whole
    assert not (tmp_path / "out.jsonl.parts").exists()


def begun(out: Path) -> AnswerFile:
    file = AnswerFile(out, ABOUT, SIZE)
    file.write(2, block(2))
    file.close()
    return file


def refused(out: Path, about: dict[str, Any] = {}, **how: Any) -> str:  # noqa: B006
    with pytest.raises(UserError) as error:
        AnswerFile(out, {**ABOUT, **about}, SIZE, **how)
    return str(error.value)


def test_what_is_there_is_neither_overwritten_nor_resumed_unasked(tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "whole.jsonl"
    assert refused(out) == f"{out}: exists; give another OUT, or --overwrite to answer anew"
    assert "give one of them" in refused(out, resume=True, overwrite=True)
    file = AnswerFile(out, ABOUT, SIZE, resume=True)
    assert file.missing() == []
    assert file.finish() == Summary(count=23, failed=1)
    unfinished = tmp_path / "unfinished.jsonl"
    begun(unfinished)
    assert "holds the answers of a prediction that did not come to its end" in refused(unfinished)
    assert AnswerFile(unfinished, ABOUT, SIZE, resume=True).missing() == [0, 1, 3, 4, 5]
    AnswerFile(unfinished, ABOUT, SIZE, overwrite=True).close()
    assert not list((tmp_path / "unfinished.jsonl.parts").glob("part-*"))
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("key", "what"),
    [("model_sha256", "the model"), ("input_sha256", "the input"), ("ask", "--ask"), ("images", "--images")],
)
@pytest.mark.parametrize("finished", [False, True])
def test_answers_of_two_models_or_inputs_are_never_mixed(tmp_path: Path, key: str, what: str, finished: bool) -> None:
    out = tmp_path / "out.jsonl"
    (answer if finished else begun)(out)
    message = refused(out, {key: "another"}, resume=True)
    assert message.startswith(f"{out}: {what}")
    assert f"has changed since it was begun ({key} {ABOUT[key]}, now another)" in message
    assert refused(out, {"count": 22}, resume=True)


def test_files_of_others_stay(tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "mine.jsonl"
    out.write_text("mine")
    for how in ({"resume": True}, {"overwrite": True}):
        assert "is no file of answers that fcit_ray wrote" in refused(out, **how)
    parts = tmp_path / "b.jsonl.parts"
    parts.mkdir()
    (parts / "mine").write_text("mine")
    assert "holds files that fcit_ray did not write" in refused(tmp_path / "b.jsonl", overwrite=True)
    assert "is a folder" in refused(tmp_path)
    assert f"there is no folder {tmp_path / 'none'}" in refused(tmp_path / "none" / "out.jsonl")
    edited = tmp_path / "whole.jsonl"
    edited.write_bytes(whole.replace(b"no picture", b"NO picture"))
    assert "edited since it was written" in refused(edited, resume=True)
    assert (out.read_text(), (parts / "mine").read_text()) == ("mine", "mine")


def test_a_part_that_lost_lines_is_answered_anew(tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "out.jsonl"
    begun(out)
    part = tmp_path / "out.jsonl.parts" / "part-000002.jsonl"
    part.write_text(part.read_text().partition("\n")[0])
    answer(out, resume=True)
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("count", "batch", "size"),
    # A window is of eight batches: 128, 24, 800 and 512 questions.
    [(1, 16, 128), (1000, 3, 72), (10**6, 100, 800), (10**7, 16, 1024), (1_280_000, 16, 128), (1_280_001, 16, 256)],
)
def test_blocks_are_whole_windows_and_at_most_ten_thousand(count: int, batch: int, size: int) -> None:
    assert block_size(count, batch) == size
    assert size % (8 * batch) == 0
    assert -(-count // size) <= 10_000
