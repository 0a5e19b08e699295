"""What a user meets at the door of `pipelines/run.py`: every message names what is wrong, before anything starts."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fcit_ray.config import load_config
from fcit_ray.data.miniature import write_miniature
from fcit_ray.experiment import open_experiment
from fcit_ray.run_folder import RunFolder
from fcit_ray.types import ServerState

ROOT = Path(__file__).resolve().parent.parent
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
    runpy.run_path(str(ROOT / "pipelines" / pipeline), run_name="__main__")


@pytest.fixture
def refused(monkeypatch, capsys, data, tmp_path):
    """Run `run.py` on the data and return its message; fails unless it exits with 2 and without a traceback."""

    def run(*arguments):
        # If the door lets it through, Ray must not start: the test would only get slower.
        monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
        with pytest.raises(SystemExit) as exit:
            call(monkeypatch, "run.py", *BASE, f"benchmark.root={data}", "--out", tmp_path / "run", *arguments)
        message = capsys.readouterr().err
        assert exit.value.code == 2
        assert message.startswith("error: ")
        assert "Traceback" not in message
        return message

    return run


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.learning_rate=1", ["train.learning_rate", "unknown key"]),
        ("train.epochs=many", ["train.epochs", "integer", "many"]),
        ("train.lr=-1", ["train.lr", "greater than 0", "-1"]),
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
    folder = RunFolder.open(tmp_path / "run", config, resume=False, overwrite=False)
    state = ServerState(stage=0, round=1, params={"a": torch.arange(6.0)}, knowledge={}, optimizer={}, memories={})
    for round in (1, 2):
        folder.save_checkpoint(replace(state, round=round), keep=2)
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
    file = begun.checkpoints()[-1] / "params.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    message = refused("--resume")
    assert str(file) in message
    assert "sha256" in message
    assert "stage_0000_round_0001" in message


@pytest.mark.parametrize("pipeline", sorted(path.name for path in (ROOT / "pipelines").glob("*.py")))
def test_every_pipeline_explains_itself(monkeypatch, capsys, pipeline):
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, pipeline, "--help")
    text = capsys.readouterr().out
    assert exit.value.code == 0
    assert f"python pipelines/{pipeline}" in text, "no example of how it is called"


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
