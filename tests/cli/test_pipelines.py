"""What a user meets at the door of `pipelines/run.py`: every message names what is wrong, before anything starts."""

import csv
import json
import re
import runpy
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from repository import ROOT

from fcit_ray.cli.page import leave_report
from fcit_ray.config.reading import load_config
from fcit_ray.config.schema import Config
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.errors import RunFolderError
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.results import checkpoint
from fcit_ray.results.figures import make_results
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.types import ServerState

BASE = [str(ROOT / "configs/miniature.yaml"), str(ROOT / "configs/methods/disco.yaml")]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "miniature"
    write_miniature(root, num_train=110, num_validation=8, num_test=8)
    return root


@pytest.fixture
def data(pristine, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(pristine, root)
    return root


def call(monkeypatch, pipeline, *arguments):
    monkeypatch.setattr(sys, "argv", [pipeline, *map(str, arguments)])
    try:
        runpy.run_path(str(ROOT / "pipelines" / pipeline), run_name="__main__")
    except SystemExit as exit:
        if exit.code:
            raise


def without_progress(said):
    """What was said on standard error, without the line that tells what a command does while it starts."""
    first, line, rest = said.partition("\n")
    return rest if first.endswith(" ...") else first + line + rest


def test_a_sweep_whose_last_trial_makes_no_sense_starts_none(monkeypatch, capsys, pristine, tmp_path):
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    file = tmp_path / "sweep.yaml"
    grid = {"lora": [{"name": "factors"}, {"name": "fedex"}]}  # DISCO has several adapters
    file.write_text(json.dumps({"config": BASE[:1], "methods": BASE[1:], "grid": grid}))
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, "sweep.py", file, f"benchmark.root={pristine}", "--out", tmp_path / "sweep")
    assert exit.value.code == 2
    assert "lora.name: its residual belongs to no adapter" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.fixture
def refused(monkeypatch, capsys, data, tmp_path):
    """Run `run.py` on the data and return its message; fails unless it exits with 2 and without a traceback."""

    def run(*arguments):
        # Ray starts beside the checks, and who passes them waits for it: in vain here.
        monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
        with pytest.raises(SystemExit) as exit:
            call(monkeypatch, "run.py", *BASE, f"benchmark.root={data}", "--out", tmp_path / "run", *arguments)
        message = without_progress(capsys.readouterr().err)
        assert exit.value.code == 2
        assert message.startswith("error: ")
        assert "Traceback" not in message
        return message

    return run


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.learning_rate=1", ["train.learning_rate", "unknown key"]),
        ("train.epochs=many", ["train.epochs", "expected a whole number", "many"]),
        ("train.lr=-1", ["train.lr", "expected a number above 0", "-1"]),
        ("method.tau=0.9", ["method.tau", "unknown key", "threshold"]),
        ("method.name=discco", ["method.name", "discco", "disco", "finetune"]),
        ("benchmark.tasks=[ArxivQ]", ["benchmark", "ArxivQ", "ArxivQA"]),
        ("method.num_subspaces=7", ["model.rank", "64", "7"]),
        ("benchmark.min_samples=12", ["ArxivQA", "benchmark.min_samples", "110"]),
    ],
)
def test_a_configuration_mistake_is_named_by_its_key(refused, override, parts):
    message = refused(override)
    for part in parts:
        assert part in message


def test_a_missing_data_root_is_named_with_what_to_do(refused, data):
    shutil.rmtree(data)
    assert str(data) in refused()


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("data/miniature", "`fcit-ray prepare miniature` draws it"),
        ("elsewhere/miniature", "`fcit-ray prepare miniature --out elsewhere/miniature` draws it"),
        ("data/fcit", "expected the folder from which the paths of its datasets lead to their files"),
    ],
)
def test_a_miniature_that_was_not_drawn_yet_is_told_with_the_command(monkeypatch, refused, tmp_path, root, told):
    monkeypatch.chdir(tmp_path)
    assert told in refused(f"benchmark.root={root}")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../../evil", "___.._evil-seed0"),
        ("/etc/x", "_etc_x-seed0"),
        (".hidden", "_hidden-seed0"),
        ("Plain", "plain-seed0"),
    ],
)
def test_a_name_gives_a_folder_below_runs_whatever_it_holds(monkeypatch, capsys, data, tmp_path, name, folder):
    monkeypatch.chdir(tmp_path)

    def stop(path, *_, **__):
        raise RunFolderError(f"opened {path}")

    monkeypatch.setattr("fcit_ray.results.opening.open_run", stop)
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))  # beside, for nothing
    with pytest.raises(SystemExit):
        call(monkeypatch, "run.py", *BASE, f"benchmark.root={data}", f"name={name}")
    message = capsys.readouterr().err
    assert f"error: opened runs/{folder}\n" in message
    assert (f"as the name {name!r} is none that a file can have" in message) == (name != "Plain")


def edit(file, change):
    records = json.loads(file.read_text())
    change(records[3])
    file.write_text(json.dumps(records))


def test_a_record_without_its_image_is_named(refused, data):
    file = data / "instructions/IconQA/train.json"
    image = json.loads(file.read_text())[3]["image"].removeprefix("./")
    (data / "datasets" / image).unlink()
    message = refused()
    assert "instructions/IconQA/train.json" in message
    assert image in message


def test_a_truncated_image_is_named(refused, data):
    file = data / "instructions/IconQA/train.json"
    image = data / "datasets" / json.loads(file.read_text())[3]["image"].removeprefix("./")
    image.write_bytes(image.read_bytes()[:-60])
    message = refused()
    assert image.name in message
    assert "truncated" in message


def test_a_record_without_a_conversation_is_named(refused, data):
    edit(data / "instructions/IconQA/train.json", lambda record: record.pop("conversations"))
    message = refused()
    assert "IconQA/train.json" in message
    assert "record 3" in message
    assert "conversations" in message


def test_a_human_turn_without_an_answer_is_named(refused, data):
    edit(data / "instructions/IconQA/train.json", lambda record: record["conversations"].pop())
    message = refused()
    assert "IconQA/train.json" in message
    assert "record 3" in message


def test_a_test_record_without_an_answer_is_named(refused, data):
    edit(data / "instructions/IconQA/val.json", lambda record: record.pop("answer"))
    message = refused()
    assert "IconQA/val.json" in message
    assert "record 3" in message
    assert "answer" in message


@pytest.fixture
def begun(data, tmp_path):
    """A run folder with two checkpoints of a run that was killed."""
    config = load_config(BASE, [f"benchmark.root={data}"])
    folder = open_run(tmp_path / "run", config, resume=False, overwrite=False)
    state = ServerState(stage=0, round=1, params={"a": torch.arange(6.0)}, knowledge={}, optimizer={}, memories={})
    for round in (1, 2):
        folder.save_checkpoint(replace(state, round=round, params={"a": torch.arange(6.0) + round}), keep=2)
    return folder


def test_a_run_is_neither_overwritten_nor_resumed_unasked(refused, begun):
    message = refused()
    assert "--resume" in message
    assert "--overwrite" in message
    assert begun.latest_checkpoint() is not None


def test_a_run_of_another_configuration_is_not_resumed(refused, begun):
    message = refused("--resume", "train.lr=0.001")
    assert "train.lr" in message
    assert str(load_config(BASE).train.lr) in message
    assert "0.001" in message


def test_a_flipped_byte_in_a_checkpoint_stops_the_resume_and_names_the_one_before(refused, begun):
    before, last = map(checkpoint.needed, begun.checkpoints())
    [name] = last - before
    file = begun.checkpoint_folder / "objects" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    message = refused("--resume")
    assert str(file) in message
    assert "sha256" in message
    assert "stage_0000_round_0001" in message


@pytest.mark.parametrize("pipeline", sorted(path.name for path in (ROOT / "pipelines").glob("*.py")))
def test_every_pipeline_explains_itself(monkeypatch, capsys, pipeline):
    call(monkeypatch, pipeline, "--help")
    text = capsys.readouterr().out
    assert f"Usage: python pipelines/{pipeline} " in text


def test_a_partition_is_written_and_read_back(monkeypatch, capsys, data, tmp_path):
    keys = [f"benchmark.root={data}", "benchmark.tasks=[ArxivQA, IconQA]"]
    call(monkeypatch, "prepare.py", "partition", *BASE, *keys, "--out", tmp_path / "split")
    said = capsys.readouterr().out
    assert "220, none held twice, none missing" in said  # 110 records of two datasets
    files = ["benchmark.partition=files", f"benchmark.partition_files={tmp_path / 'split'}"]
    again = open_experiment(load_config(BASE, [*keys, *files])).stream
    drawn = open_experiment(load_config(BASE, keys)).stream
    assert [[len(shard) for shard in part] for part in again.shards] == [[len(s) for s in p] for p in drawn.shards]
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, "prepare.py", "partition", *BASE, *keys, "seed=1", "--out", tmp_path / "split")
    assert exit.value.code == 2
    assert "holds another partition" in capsys.readouterr().err


@pytest.fixture
def prepare_refuses(monkeypatch, capsys, tmp_path):
    """Run `prepare.py` in an empty folder, where `file` is a file, and return its message; it must exit with 2."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "file").write_text("mine")
    monkeypatch.chdir(here)

    def run(*arguments):
        with pytest.raises(SystemExit) as exit:
            call(monkeypatch, "prepare.py", *arguments)
        message = without_progress(capsys.readouterr().err)
        assert exit.value.code == 2, message
        assert message.startswith("error: ")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "here"]
        assert [path.name for path in here.iterdir()] == ["file"]
        return message

    return run


def test_a_miniature_that_cannot_be_written_there_says_so(prepare_refuses, data):
    assert "holds a miniature made with" in prepare_refuses("miniature", "--seed", 1, "--out", data)
    assert "num_train: -5; must be at least 1" in prepare_refuses("miniature", "--num-train", -5, "--out", "new")
    for out in ("file", "."):
        assert "is not a miniature benchmark" in prepare_refuses("miniature", "--out", out)
    assert "cannot be written: " in prepare_refuses("miniature", "--num-train", 1, "--out", "file/new")
    (data / "miniature.json").write_text("{")
    assert "miniature.json is not JSON" in prepare_refuses("miniature", "--out", data)


def test_a_partition_that_cannot_be_written_there_says_so(prepare_refuses, data):
    keys = [f"benchmark.root={data}", "benchmark.tasks=[ArxivQA]"]
    assert "holds no manifest.json" in prepare_refuses("partition", *BASE, *keys, "--out", ".")
    assert "file/split: cannot be written" in prepare_refuses("partition", *BASE, *keys, "--out", "file/split")


def test_what_a_check_cannot_do_is_said_before_it_starts(prepare_refuses, data, monkeypatch):
    monkeypatch.setattr("fcit_ray.data.checking.check.check_data", lambda *a, **k: pytest.fail("the check was started"))
    assert "--report nope/x.json: expected a file" in prepare_refuses("check", data, "--report", "nope/x.json")
    assert "--report .: expected a file" in prepare_refuses("check", data, "--report", ".")
    assert "--show -1: expected at least 0" in prepare_refuses("check", data, "--show", -1)


def test_a_check_that_leaves_nothing_of_a_file_exits_with_1_and_names_it(monkeypatch, capsys, data):
    folder = data / "partitioned_data/Task-related/seq/1.0/Task1"
    folder.mkdir(parents=True)
    items = json.loads((data / "instructions/IconQA/train.json").read_text())
    (folder / "client_0.json").write_text(json.dumps(items[:3]))
    (folder / "client_1.json").write_text(json.dumps([{**items[3], "image": "IconQA/gone.png"}]))
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, "prepare.py", "check", data, "--quarantine", "--jobs", 1)
    assert exit.value.code == 1
    assert "Nothing left: all records of partitioned_data/Task-related/seq/1.0/Task1/client_1.json are" in (
        capsys.readouterr().out
    )


# report.py


def finished(path, seed=0, sha=None, **values):
    """A folder of a finished run, with the least that a table needs."""
    config = Config.model_validate(
        {"name": "DISCO", "seed": seed, "benchmark": {"tasks": ["ArxivQA", "IconQA"]}, **values}
    )
    folder = open_run(path, config, resume=False, overwrite=False)
    records = [
        {"kind": "evaluation", "stage": stage, "scores": scores}
        for stage, scores in enumerate([{"ArxivQA": 70.0}, {"ArxivQA": 60.0 + seed, "IconQA": 50.0}])
    ]
    results = make_results(
        label="DISCO", seed=seed, tasks=["ArxivQA", "IconQA"], num_stages=2, records=records,
        num_records={"ArxivQA": 1, "IconQA": 1}, params={"w": torch.tensor([float(seed)])},
    )  # fmt: skip
    folder.write_results({**results, "config": config.model_dump(mode="json"), "adapters_sha256": sha or f"{seed}"})
    return folder


def report(monkeypatch, capsys, *arguments):
    """Exit status, standard output and standard error of `report.py`."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    try:
        call(monkeypatch, "report.py", *arguments)
        status = 0
    except SystemExit as exit:
        status = exit.code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out, said.err


def test_a_report_finds_run_folders_below_and_keeps_unlike_runs_apart(monkeypatch, capsys, tmp_path):
    finished(tmp_path / "runs/demo/disco")
    finished(tmp_path / "runs/more/deep/disco", seed=1)
    finished(tmp_path / "runs/other", seed=1, train={"epochs": 2})
    finished(tmp_path / "runs/a/b/c/too-deep", seed=5)
    folder = open_run(
        tmp_path / "runs/half", RunFolder(tmp_path / "runs/other").config(), resume=False, overwrite=False
    )
    (tmp_path / "runs/demo/curves.png").touch()
    shutil.copytree(tmp_path / "runs/demo/disco", tmp_path / "runs/copy")
    table = tmp_path / "table.md"
    paths = sorted((tmp_path / "runs").iterdir())
    status, out, err = report(monkeypatch, capsys, *paths, tmp_path / "runs/demo", "--markdown", table)
    assert status == 0
    lines = table.read_text().splitlines()
    # (60 + 50) / 2 and (61 + 50) / 2, deviation 0.5 / sqrt(2)
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [
        ["| DISCO (train.epochs=1)", "55.2±0.4"],
        ["| DISCO (train.epochs=2)", "55.5"],
    ]
    assert "DISCO" in out
    assert f"{folder.path}: left out, as its run is not finished" in err
    assert f"{tmp_path / 'runs/a'}: no run folder, nor a folder of them" in err
    assert "1 of 4 run folders are copies of others" in err


def test_an_empty_report_and_an_edited_one_are_errors(monkeypatch, capsys, tmp_path):
    (tmp_path / "runs").mkdir()
    status, _, err = report(monkeypatch, capsys, tmp_path / "runs")
    assert (status, f"error: no finished run in {tmp_path / 'runs'}" in err) == (2, True)
    folder = finished(tmp_path / "runs/disco")
    folder.results_file.write_text(folder.results_file.read_text().replace("50.0", "90.0"))
    status, out, err = report(monkeypatch, capsys, tmp_path / "runs")
    assert (status, out) == (2, "")
    assert f"error: {folder.results_file}: edited since it was written" in err


def test_a_report_writes_every_form_that_is_asked_for(monkeypatch, capsys, tmp_path):
    finished(tmp_path / "runs/disco")
    files = {kind: tmp_path / f"out.{kind}" for kind in ("markdown", "latex", "csv", "html")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", file)]
    status, out, err = report(monkeypatch, capsys, tmp_path / "runs", *options)
    assert (status, "DISCO" in out) == (0, True)
    assert f"wrote {files['html']}" in err
    assert files["markdown"].read_text().startswith("| Method | Last |")
    assert "\\toprule" in files["latex"].read_text()
    # (60 + 50) / 2
    assert next(csv.DictReader(files["csv"].open()))["last"] == "55.0"
    assert files["html"].read_text().startswith("<!doctype html>")


def test_of_an_unfinished_run_there_is_a_page_but_no_table(monkeypatch, capsys, tmp_path):
    config = finished(tmp_path / "runs/other").config()
    folder = open_run(tmp_path / "half", config, resume=False, overwrite=False)
    status, _, err = report(monkeypatch, capsys, folder.path)
    assert status == 2
    assert f"error: no finished run in {folder.path}: there is nothing to put into a table; --html FILE shows" in err
    status, out, err = report(monkeypatch, capsys, folder.path, "--html", tmp_path / "half.html")
    assert (status, out) == (0, "")
    assert f"{folder.path}: left out, as its run is not finished; the page shows it as far as it is" in err
    assert "This run is not finished" in (tmp_path / "half.html").read_text()
    status, _, err = report(
        monkeypatch, capsys, folder.path, "--html", tmp_path / "x.html", "--csv", tmp_path / "x.csv"
    )
    assert status == 2
    assert f"error: {tmp_path / 'x.csv'}: a table holds finished runs alone, and there is none" in err
    assert not (tmp_path / "x.html").exists()


def test_a_page_that_cannot_be_made_loses_no_run(capsys, monkeypatch, tmp_path):
    folder = finished(tmp_path / "run")
    assert leave_report([folder.path], folder.path) == folder.path / "report.html"
    (folder.path / "report.html").unlink()
    (folder.path / "report.html").mkdir()
    assert leave_report([folder.path], folder.path) is None
    said = capsys.readouterr().err
    assert said.startswith(f"report.html was not written: {folder.path / 'report.html'}: cannot be written: ")
    assert f"`fcit-ray report {folder.path} --html FILE` tries again" in said

    def mistaken(*_):
        raise KeyError("lost")

    monkeypatch.setattr("fcit_ray.report.writing.make_page", mistaken)
    assert leave_report([folder.path], tmp_path) is None
    assert "report.html was not written: KeyError: 'lost'; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "reason"), [("file/x.md", "a part of the path is a file"), ("m" * 300, "longer than")]
)
def test_a_table_that_cannot_be_written_is_told_in_one_line(monkeypatch, capsys, tmp_path, place, reason):
    finished(tmp_path / "run")
    (tmp_path / "file").touch()
    status, _, err = report(monkeypatch, capsys, tmp_path / "run", "--markdown", tmp_path / place)
    err = without_progress(err)
    assert status == 2
    assert err.startswith("error: ")
    assert reason in err
    assert len(err.splitlines()) == 1


# Places that cannot be used

PLACES = {
    "file": "is a file|is there and holds no|not a miniature|a part of the path is a file",
    "file/x": "a part of the path is a file",
    "dangling": "is a link to .*gone, which is not there",
    "circle": "its links lead in a circle|which leads nowhere",
    "circle/x": "its links lead in a circle",
    "n" * 300: "longer than the file system takes",
}
WRITES = {
    "run": ["run.py", *BASE, "benchmark.root={data}", "benchmark.tasks=[ArxivQA]", "--out"],
    "compare": [
        "compare.py",
        BASE[0],
        "benchmark.root={data}",
        "benchmark.tasks=[ArxivQA]",
        "--methods",
        "disco",
        "--out",
    ],
    "sweep": ["sweep.py", "{sweep}", "--out"],
    "miniature": ["prepare.py", "miniature", "--num-train", "1", "--out"],
    "partition": ["prepare.py", "partition", *BASE, "benchmark.root={data}", "benchmark.tasks=[ArxivQA]", "--out"],
    "parquet": ["prepare.py", "parquet", "--datasets=ArxivQA", "{data}"],
    "report": ["report.py", "{run}", "--markdown"],
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[:10])
@pytest.mark.parametrize("pipeline", WRITES)
def test_a_place_that_cannot_be_written_to_is_told_in_one_line(
    monkeypatch, capsys, pristine, tmp_path, pipeline, place
):
    if pipeline == "report" and place in ("file", "circle"):
        return  # it replaces them
    if place == "dangling" and pipeline in ("miniature", "partition", "parquet", "report"):
        return  # they write what it points to
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    finished(tmp_path / "run")
    sweep = tmp_path / "sweep.yaml"
    keys = [f"benchmark.root={pristine}", "benchmark.tasks=[ArxivQA]"]
    sweep.write_text(json.dumps({"config": BASE[:1], "methods": BASE[1:], "overrides": keys}))
    filled = [part.format(data=pristine, sweep=sweep, run=tmp_path / "run") for part in WRITES[pipeline]]
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, *filled, tmp_path / place)
    message = without_progress(capsys.readouterr().err)
    assert exit.value.code == 2
    assert message.startswith("error: ")
    assert str(tmp_path / place) in message
    assert re.search(PLACES[place], message)
    assert len(message.splitlines()) == 1
