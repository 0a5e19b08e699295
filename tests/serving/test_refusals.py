"""What cannot be exported, or not like that; what became of an export on the disk; what a card says."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import yaml
from finished import KNOWLEDGE, config_of, finished, write_run
from typer.testing import CliRunner

from fcit_ray.cli.app import app
from fcit_ray.errors import CheckpointError, ExportError, RunFolderError
from fcit_ray.results.opening import open_run
from fcit_ray.serving import adapter
from fcit_ray.serving.card import in_markdown
from fcit_ray.serving.export import export
from fcit_ray.serving.exported import read_export

DISCO = {"name": "disco", "num_subspaces": 2}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def disco(tmp_path_factory) -> Path:
    return finished(tmp_path_factory.mktemp("run") / "disco", DISCO).path


@pytest.fixture(scope="module")
def finetune(tmp_path_factory) -> Path:
    return finished(tmp_path_factory.mktemp("run") / "finetune", {"name": "finetune"}).path


@pytest.fixture(scope="module")
def exported(disco, tmp_path_factory) -> Path:
    return export(disco, tmp_path_factory.mktemp("out") / "disco", per_task=True)


# Runs that have nothing to export


@pytest.mark.parametrize(
    ("name", "trains"), [("l2p", r"pool.prompts, pool.keys"), ("modal_prompt", r"prompt.s0.tokens, .* …")]
)
def test_a_method_without_adapters_is_told_what_to_do_instead(name, trains, tmp_path):
    run = finished(tmp_path / "run", {"name": name}).path
    with pytest.raises(ExportError, match=rf"method.name={name} trains no LoRA but {trains}.*fcit-ray predict {run}"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_trained_not_finished_and_no_run_are_three_things(tmp_path):
    trained_nothing = write_run(tmp_path / "zero", config_of({"name": "finetune"}, regime="zero_shot"), None)
    open_run(tmp_path / "begun", config_of(DISCO), resume=False, overwrite=False).release()
    for run, words in (
        (trained_nothing, "nothing was trained"),
        (tmp_path / "begun", "the run is not finished"),
        (tmp_path, "no folder of a run"),
    ):
        with pytest.raises(RunFolderError, match=words):
            export(run, tmp_path / "out")


@pytest.mark.parametrize("name", ["own_methods:Silent", "few_subspaces:FewSubspaces"])
def test_a_method_of_the_users_own_has_to_say_how_it_answers(name, tmp_path, monkeypatch):
    # The latter inherits what DISCO says of a gate that it does not have any more.
    for folder in (HERE, HERE.parent / "user_method"):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(KNOWLEDGE, name, KNOWLEDGE["disco"])
    given = {"name": name, **({"num_subspaces": 2} if "Few" in name else {})}
    run = finished(tmp_path / "run", given).path
    with pytest.raises(ExportError, match=rf"{name.partition(':')[2]} overrides `gate`.*override `portable_gate`"):
        export(run, tmp_path / "out")


# What a run is asked for that it cannot give

ASKED = {
    "merged without a task": (
        {"merge": True},
        r"method.name=disco weighs its 2 adapters for every question anew.*--task with one of ArxivQA, IconQA",
    ),
    "merged and by task": ({"merge": True, "per_task": True}, "--merge makes one model"),
    "merged with its base": ({"merge": True, "task": "IconQA", "with_base": True}, "a merged model holds its base"),
    "a task alone": ({"task": "IconQA"}, "--task: says whose weights --merge takes"),
    "another task": ({"merge": True, "task": "VQA"}, "'VQA': no task of this run; there are ArxivQA, IconQA"),
    "a client": ({"client": 1}, "one model for all clients"),
    "a licence": ({"license": "Apache 2"}, "--license 'Apache 2': expected one of the hub's identifiers"),
}


@pytest.mark.parametrize(("options", "words"), ASKED.values(), ids=ASKED)
def test_what_disco_cannot_give_is_refused_before_anything_is_written(options, words, disco, tmp_path):
    with pytest.raises(ExportError, match=words):
        export(disco, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_mixes_nothing_has_no_adapters_by_task(finetune, tmp_path):
    with pytest.raises(ExportError, match=r"--per-task: method\.name=finetune answers all tasks with the same weights"):
        export(finetune, tmp_path / "out", per_task=True)
    with pytest.raises(ExportError, match=r"--task: method\.name=finetune answers all tasks with the same weights"):
        export(finetune, tmp_path / "out", merge=True, task="IconQA")


def test_a_router_is_neither_merged_nor_folded(tmp_path):
    run = finished(tmp_path / "run", {"name": "moelora", "num_experts": 2}).path
    with pytest.raises(ExportError, match="weighs its 2 adapters for every token anew"):
        export(run, tmp_path / "out", merge=True)
    with pytest.raises(ExportError, match=r"--per-task: method\.name=moelora weighs every token by itself"):
        export(run, tmp_path / "out", per_task=True)


def test_four_bits_are_not_merged_and_the_loader_wants_them_said(finetune, tmp_path, monkeypatch):
    run = shutil.copytree(finetune, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"] |= {"quantize": "4bit", "dtype": "bfloat16"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ExportError, match=r"model\.quantize=4bit: .* export the adapter"):
        export(run, tmp_path / "out", merge=True)
    assert "load it so" in (export(run, tmp_path / "out") / "README.md").read_text()


# The folder


def test_a_folder_in_use_is_kept(disco, finetune, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    out = export(disco, mine)  # an empty one does
    for path, options, words in (
        (out, {}, "holds an export already; --overwrite replaces it"),
        (disco, {"overwrite": True}, "is the run itself"),
        (finetune, {"overwrite": True}, "holds something else than an export"),
        (out / "gate.json", {"overwrite": True}, "is a file"),
    ):
        with pytest.raises(ExportError, match=words):
            export(disco, path, **options)
    export(finetune, out, overwrite=True)
    assert not (out / "gate.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_on_a_full_disk_the_folder_is_as_it_was(disco, finetune, tmp_path, monkeypatch):
    out = export(finetune, tmp_path / "out")
    before = (out / "fcit_ray.json").read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(adapter, "save_tensors", full)
    told = CliRunner().invoke(app, ["export", str(disco), str(out), "--overwrite"])
    assert told.exit_code == 2
    assert "the disk is full; make room: nothing was left" in told.output
    assert (out / "fcit_ray.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "state/state.safetensors"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_export_is_named_by_file(name, how, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-5] ^= 1
    (copy / name).write_bytes(content if how == "flipped" else content[:-9])
    if how == "gone":
        (copy / name).unlink()
    with pytest.raises(ExportError, match=rf"{name}: {'missing' if how == 'gone' else 'damaged: expected'}"):
        read_export(copy)


def test_an_edited_manifest_a_newer_one_and_none(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    file = copy / "fcit_ray.json"
    said = json.loads(file.read_text())
    said["config"]["model"]["alpha"] = 1.0
    file.write_text(json.dumps(said))
    with pytest.raises(ExportError, match="edited since it was written"):
        read_export(copy)
    file.write_text(json.dumps({**said, "version": 2, "fcit_ray": "9.0"}))
    with pytest.raises(ExportError, match=r"format version 2, this program reads version 1; .*\(9.0\)"):
        read_export(copy)
    file.unlink()
    with pytest.raises(ExportError, match="no export"):
        read_export(copy)


def test_a_card_may_be_edited(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "README.md").write_text("mine")
    assert read_export(copy).state.params


def test_a_damaged_run_is_not_exported(disco, tmp_path):
    run = shutil.copytree(disco, tmp_path / "run")
    for file in run.glob("checkpoints/objects/*"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"objects/[0-9a-f]{64}\.safetensors: damaged"):
        export(run, tmp_path / "out")


# The card


def test_the_card_is_the_hubs_format_and_tells_the_runs_figures(exported):
    _, metadata, text = (exported / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(metadata)
    assert said["library_name"] == "peft"
    assert said["license"] == "unknown"
    assert "base_model" not in said  # tiny has no name on the hub
    [model] = said["model-index"]
    assert {r["dataset"]["name"]: r["metrics"][0]["value"] for r in model["results"]} == {"ArxivQA": 60, "IconQA": 90}
    assert "| ArxivQA | 80.0 | 60.0 | 48 |" in text
    assert "| 75.0 | 77.5 | 20.0 | -20.0 |" in text  # (60 + 90) / 2, (80 + 75) / 2, 80 - 60
    for words in ("This adapter has a gate", "load_gated.py", "Not evaluated", "arXiv 2503.12897", "divided by 0.05"):
        assert words in text
    assert "| [IconQA](tasks/IconQA) | 0.125 | 0.875 |" in text


def test_a_card_keeps_other_peoples_signs_as_they_are(finetune, tmp_path):
    assert in_markdown("a|b *c* <img src=x>\n# d") == r"a\|b \*c\* \<img src=x\> \# d"
    out = export(finetune, tmp_path / "out", license="cc-by-nc-4.0")
    text = (out / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n", 2)[1])["license"] == "cc-by-nc-4.0"
    assert "has a gate" not in text
    assert "\n\n\n" not in text


def test_nothing_is_public_without_being_pushed(disco, tmp_path):
    told = CliRunner().invoke(app, ["export", str(disco), str(tmp_path / "out"), "--public"])
    assert told.exit_code == 2
    assert "error: --public: says how --push makes a repository" in told.output


def test_the_command_writes_an_export(disco, tmp_path):
    told = CliRunner().invoke(app, ["export", str(disco), str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "README.md says how to load it" in told.output
