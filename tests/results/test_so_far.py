"""The scores so far: of the records alone, so that who resumes writes the same bytes; replaced as wholes."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.so_far import SoFar

FIRST: dict[str, Any] = {"kind": "evaluation", "stage": 0, "scores": {"a": 80.0}}
SECOND: dict[str, Any] = {
    "kind": "evaluation", "stage": 1, "scores": {"a": 50.0, "b": 70.0}, "transfer": {"unseen": 12.5},
}  # fmt: skip
ROUND: dict[str, Any] = {"kind": "round", "stage": 0, "round": 0, "loss": 1.0}


def so_far(folder: Path, *records: dict[str, Any], num_stages: int = 2) -> SoFar:
    run = RunFolder(folder)
    for record in records:
        run.log(record)
    return SoFar(run, "x", ["a", "b"], num_stages)


def test_after_the_first_stage_the_others_are_open(tmp_path: Path) -> None:
    so_far(tmp_path, ROUND, FIRST).write_scores()
    assert json.loads((tmp_path / "scores.json").read_text()) == {
        "label": "x", "tasks": ["a", "b"], "matrix": [[80.0, None], [None, None]], "means": [80.0, None],
    }  # fmt: skip


def test_the_last_stage_completes_it_and_brings_what_nobody_trained_on(tmp_path: Path) -> None:
    scores = so_far(tmp_path, ROUND, FIRST, SECOND).scores()
    assert scores["matrix"] == [[80.0, None], [50.0, 70.0]]
    assert scores["means"] == [80.0, 60.0]
    assert scores["transfer"] == {"unseen": 12.5}


def test_a_run_that_trains_nothing_has_one_row(tmp_path: Path) -> None:
    zero_shot = {"kind": "evaluation", "stage": -1, "scores": {"a": 1.0, "b": 3.0}}
    assert so_far(tmp_path, zero_shot, num_stages=0).scores()["means"] == [2.0]


def test_pictures_are_drawn_of_half_a_run_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    so_far(tmp_path, ROUND, FIRST).draw()
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.jsonl", "accuracy_matrix.png", "curves.png"}
    before = (tmp_path / "accuracy_matrix.png").read_bytes()
    so_far(tmp_path).draw()  # by another process, of the same records
    assert (tmp_path / "accuracy_matrix.png").read_bytes() == before
    so_far(tmp_path, SECOND).draw()
    assert (tmp_path / "accuracy_matrix.png").read_bytes() != before
    Image.open(tmp_path / "accuracy_matrix.png").verify()
