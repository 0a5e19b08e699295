"""Who is told of a run's records when, and that what is there only to look at ends nothing."""

import threading
from pathlib import Path
from typing import Any

import pytest
from in_process import run

from fcit_ray.errors import RunFolderError
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.so_far import SoFar
from fcit_ray.runtime.driver import Driver
from fcit_ray.runtime.journal import Journal, nobody

EVALUATION: dict[str, Any] = {"kind": "evaluation", "stage": 0, "scores": {"a": 80.0}}
ROUND: dict[str, Any] = {"kind": "round", "stage": 0, "round": 0, "loss": 1.0}


class Pictures(SoFar):
    """Scores and pictures of a folder; a picture takes until it is let go."""

    may_go = threading.Event()

    def draw(self) -> None:
        assert self.may_go.wait(10.0)
        super().draw()


def journal(folder: Path, watcher: Any = nobody, warn: Any = pytest.fail, kind: type[SoFar] = SoFar) -> Journal:
    run_folder = RunFolder(folder)
    return Journal(run_folder, kind(run_folder, "x", ["a", "b"], 2), watcher, warn)


def test_whoever_watches_a_resumed_run_is_told_of_its_whole(tmp_path: Path) -> None:
    journal(tmp_path).log(ROUND)
    told: list[Any] = []
    second = journal(tmp_path, told.append)
    second.begin()
    second.log({**ROUND, "round": 1})
    assert told == [ROUND, {**ROUND, "round": 1}]
    assert not (tmp_path / "scores.json").exists()  # a round brings no score


def test_the_scores_are_there_at_once_and_nobody_waits_for_the_pictures(tmp_path: Path) -> None:
    Pictures.may_go.clear()
    kept = journal(tmp_path, kind=Pictures)
    kept.log(EVALUATION)
    assert (tmp_path / "scores.json").exists()
    assert not (tmp_path / "accuracy_matrix.png").exists()
    kept.log(ROUND)
    Pictures.may_go.set()
    kept.wait()
    assert (tmp_path / "accuracy_matrix.png").exists()


def test_what_cannot_be_written_is_told_once_and_counts_at_the_end_alone(tmp_path: Path) -> None:
    for name in ("scores.json", "accuracy_matrix.png"):
        (tmp_path / name).mkdir()  # in the place of the file
    told: list[str] = []
    kept = journal(tmp_path, warn=told.append)
    for stage in range(2):
        kept.log({**EVALUATION, "stage": stage})
        kept.wait()
    assert len(told) == 1
    assert told[0].startswith(f"scores or pictures so far could not be written: {tmp_path}: is a folder, not a file")
    assert len(RunFolder(tmp_path).records()) == 2
    with pytest.raises(RunFolderError):
        kept.close()


def test_a_run_shows_its_first_stage_while_the_second_trains(configure: Any, tmp_path: Path) -> None:
    seen: dict[tuple[int, int], bool] = {}

    def look(driver: Driver) -> None:
        status = driver.status()
        seen[status.stage, status.round] = (tmp_path / "run/scores.json").exists()

    results = run(configure(), tmp_path / "run", watch=look, draws=True)
    assert not seen[0, 1]
    assert seen[1, 1]
    folder = RunFolder(tmp_path / "run")
    so_far = SoFar(folder, "small", ["ArxivQA", "IconQA"], 2)
    assert so_far.scores()["matrix"] == results["matrix"]
    pictures = {name: (folder.path / name).read_bytes() for name in ("accuracy_matrix.png", "curves.png")}
    so_far.draw()
    assert {name: (folder.path / name).read_bytes() for name in pictures} == pictures  # of records alone
