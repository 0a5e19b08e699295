"""A command that Ray runs as a job: results and data must not lie in the copy of the directory that Ray deletes."""

import sys
from pathlib import Path

import pytest
from repository import ROOT

from fcit_ray.cli import app
from fcit_ray.cli.job import copy_of_upload

COPY = Path("session_1/runtime_resources/working_dir_files/_ray_pkg_0a")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which Ray runs a job, with what a clone uploads of data: none."""
    folder = tmp_path / COPY
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["fcit-ray", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_place_in_the_copy_is_told_from_others(job: Path) -> None:
    assert copy_of_upload("runs/a") == copy_of_upload(job / "runs") == copy_of_upload(job) == job
    assert copy_of_upload("/shared/runs/a") is None
    assert copy_of_upload(job.parent / "../other") is None
    assert copy_of_upload("s3://bucket/runtime_resources/working_dir_files/a") is None


def test_a_run_says_both_places_that_are_to_be_given(job: Path, monkeypatch, capsys) -> None:
    said = refused(monkeypatch, capsys, "run", "miniature", "disco", "seed=3")
    assert said.splitlines() == [
        f"error: --out: runs/disco-seed3 would lie in the job's copy of the working directory, {job}, which Ray "
        "deletes after the job; give an absolute place that stays and that every machine sees, such as --out "
        "/shared/runs/disco-seed3",
        f"benchmark.root: data/miniature is not in the job's copy of the working directory, {job}: what .gitignore and "
        ".rayignore name is not uploaded; give a folder or URI that every machine sees, such as "
        "benchmark.root=/shared/data/miniature",
    ]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("compare", "miniature", "--methods", "disco"), "--out: runs/compare"),
        (("sweep", "sweeps/miniature"), "--out: runs/sweep-miniature"),
        (("evaluate", "/runs/a", "--out", "b"), "--out: b"),
        (("predict", "/runs/a", "q.jsonl", "answers.jsonl"), "OUT: answers.jsonl"),
        (("export", "/runs/a", "exported"), "OUT: exported"),
    ],
)
def test_whatever_a_job_leaves_is_refused_there(job, words, place, monkeypatch, capsys) -> None:
    assert f"error: {place} would lie in the job's copy" in refused(monkeypatch, capsys, *words)
    assert not list(job.iterdir())


def test_data_that_was_uploaded_is_taken_and_said(job: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))  # beside, for nothing
    Path("mine").mkdir()
    # Nothing is in it: that is what ends the run, behind the note.
    said = refused(monkeypatch, capsys, "run", "miniature", "disco", "benchmark.root=mine", "--out", "/nowhere/x")
    assert said.startswith("note: benchmark.root=mine was uploaded with the job, and another upload has it elsewhere: ")
    assert "job's copy" not in said


def test_the_upload_leaves_out_what_no_job_needs_and_nothing_else() -> None:
    left_out = (ROOT / ".rayignore").read_text().splitlines()
    assert {"/tests/", "/docs/", ".git/", "/benchmarks/"} <= set(left_out)
    assert not {"/fcit_ray/", "/configs/", "/pipelines/", "/examples/"} & set(left_out)
