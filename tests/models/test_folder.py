"""A model's folder looked over: files that are not what they seem, weights that are not whole, code of its own."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from clip_like import save_clip
from safetensors.torch import load_file

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ModelError
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.models.conversion.llava_format import make_plan
from fcit_ray.models.folder import TINY, check_folder, check_weights, model_folder, read_header, weight_files
from fcit_ray.models.identity.clip import check_clip, load_clip_text_encoder
from fcit_ray.models.load import load_base, load_processor, load_text_encoder

CODE = {"AutoConfig": "configuration_own.OwnConfig"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **changes}))


@pytest.fixture
def no_question(monkeypatch):
    """Nobody is asked in the terminal whether to run code."""

    def ask(*_):
        raise AssertionError("asked in the terminal")

    monkeypatch.setattr("builtins.input", ask)


@pytest.mark.usefixtures("no_question")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"auto_map": CODE}),
        ("config.json", {"text_config": {"auto_map": CODE}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["configuration_own.OwnConfig", None]}}),
        ("processor_config.json", {"image_processor": {"auto_map": CODE}}),
        ("preprocessor_config.json", {"auto_map": CODE}),
        ("some_other.json", {"list": [{"auto_map": CODE}]}),
    ],
)
def test_code_of_a_models_own_is_refused_by_name_and_nobody_is_asked(folder, name, changes):
    edit(folder / name, **changes)
    for loader in (model_folder, load_processor, load_base, load_text_encoder):
        with pytest.raises(
            ModelError, match=rf"model\.path='{folder}': {name} names code .*configuration_own\.OwnConf"
        ):
            loader(str(folder))
    edit(folder / name, **dict.fromkeys(changes))  # null names nothing
    check_folder(folder, "model")


@pytest.mark.usefixtures("no_question")
def test_code_is_refused_wherever_a_model_is_named(folder, tmp_path):
    clip = tmp_path / "clip"
    save_clip(clip)
    edit(clip / "preprocessor_config.json", auto_map=CODE)
    for loader in (lambda path: check_clip(path, "text"), load_clip_text_encoder):
        with pytest.raises(ModelError, match=r"model\.identity_encoder='.*clip': preprocessor_config\.json names code"):
            loader(str(clip))
    with pytest.raises(ModelError, match=r"clip: preprocessor_config\.json names code"):
        make_plan(clip)
    edit(folder / "config.json", mm_projector_type="mlp2x_gelu", auto_map=CODE)
    with pytest.raises(ModelError, match=r"model: config\.json names code"):
        make_plan(folder)
    with pytest.raises(ModelError, match=r"model\.path='.*': config\.json names code"):
        open_experiment(parse_config({"benchmark": {"tasks": ["ArxivQA"]}, "model": {"path": str(folder)}}))


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", WEIGHTS, "model-1.safetensors",
     "generation_config.json", "chat_template.jinja", "model.safetensors.index.json"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "is a Git LFS pointer in the place of the file"),
        ("", "is empty, as a copy or download that broke off"),
        ("<!DOCTYPE html>", "is a web page"),
        (None, r"is a named pipe \(FIFO\); expected a file"),
    ],
    ids=["pointer", "empty", "page", "pipe"],
)
def test_what_stands_in_the_place_of_a_file_is_told(folder, name, content, said):
    (folder / name).unlink(missing_ok=True)
    if content is None:
        os.mkfifo(folder / name)
    else:
        (folder / name).write_text(content)
    with pytest.raises(ModelError, match=rf"model\.path='{folder}': {name} {said}"):
        load_processor(str(folder))


def test_settings_that_cannot_be_read_are_told(folder):
    nested = ("[" * 100_000, "is JSON that is nested too deeply")
    for content, said in (("{", "is not JSON"), nested, ("[]", "holds a JSON list; expected settings by name")):
        (folder / "processor_config.json").write_text(content)
        with pytest.raises(ModelError, match=rf"processor_config\.json {said}"):
            model_folder(str(folder))
    (folder / "processor_config.json").unlink()
    (folder / "processor_config.json").symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"processor_config\.json is a link to a file that is not there"):
        model_folder(str(folder))
    (folder / "processor_config.json").unlink()
    (folder / "notes.json").write_text("not even JSON")  # nobody reads it
    (folder / "README.md").write_text("")
    model_folder(str(folder))
    with pytest.raises(ModelError, match=r"model\.path='a{300}': cannot be looked at: "):
        model_folder("a" * 300)


def test_adapters_in_the_place_of_a_model_are_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds adapters \(adapter_config\.json\), beneath which .* another base"):
        load_base(str(folder))


# Weights by their headers


def test_the_header_tells_names_and_whether_the_file_is_whole(folder):
    assert read_header(folder / WEIGHTS).keys() == load_file(folder / WEIGHTS).keys()
    assert weight_files(folder) == dict.fromkeys(load_file(folder / WEIGHTS), WEIGHTS)
    check_weights(folder)
    whole = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for cut, said in (
        (len(whole) - 1, f"is cut short: {len(whole) - 1:,} bytes, and its header says {len(whole):,}; fetch it again"),
        (length, f"is cut short: {length:,} bytes, and its header says {8 + length:,}; fetch it again"),
        (8, "is no safetensors file; fetch"),
    ):
        (folder / WEIGHTS).write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=rf"{WEIGHTS}: {said}"):
            check_weights(folder)
    (folder / WEIGHTS).write_bytes(whole[:8] + b"{" + b"x" * (len(whole) - 9))
    with pytest.raises(ModelError, match=rf"{WEIGHTS}: is no safetensors file, its header makes no sense"):
        check_weights(folder)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_by_another_name_is_told(folder, legacy):
    torch.save({"weight": torch.ones(2)}, folder / WEIGHTS, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=rf"{WEIGHTS}: is a pickle, as PyTorch writes it, under another name"):
        load_base(str(folder))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "no 'weight_map' from names of tensors to files"),
        ({"weight_map": {"a": 1}}, "no 'weight_map'"),
        ({"weight_map": {"a": "../model.safetensors"}}, r"names '\.\./model\.safetensors'; expected files beside it"),
        ({"weight_map": {"a": "gone.safetensors"}}, r"gone\.safetensors: not there"),
    ],
)
def test_an_index_that_leads_nowhere_is_told(folder, index, said):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=said):
        check_weights(folder)
