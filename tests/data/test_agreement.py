"""Processor, tokenizer and config.json of one folder belong together, or the key that does not is named at the door.

The stand-in: 16 tokens and as many rows of embeddings, `<image>` is 4; pictures of 8 pixels in patches of 4.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from fcit_layout import fcit
from safetensors.torch import save_file
from stand_in import training, write_model
from tiny_llava15 import write_tiny_llava15

from fcit_ray.config.schema import parse_config
from fcit_ray.data.checking.agreement import check_agreement
from fcit_ray.data.checking.check import TokenLimit, check_data
from fcit_ray.errors import ModelError
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.models import load
from fcit_ray.models.chat import check_prompt

TABLE = "language_model.model.embed_tokens.weight"


def prompt_of(name: str) -> str:
    return "bare" if name == "LLaVA-1.5" else "chat"


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, Path]:
    folders = {family.name: tmp_path_factory.mktemp("family") for family in FAMILIES}
    for family in FAMILIES:
        family.write(folders[family.name])
    return folders


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_model(tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file, those of sections by `section__key`."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    path.write_text(json.dumps(content))


def test_what_belongs_together_is_taken_without_reading_a_tensor(families, folder, tmp_path, monkeypatch):
    llava15 = write_tiny_llava15(tmp_path / "llava15")
    monkeypatch.setattr(load, "safe_open", lambda *_, **__: 1 / 0)
    for path, prompt in (
        ("tiny", "bare"),
        (str(folder), "vicuna_v1"),
        (str(llava15), "vicuna_v1"),
        *((str(there), prompt_of(name)) for name, there in families.items()),
    ):
        check_prompt(path, prompt)
        check_agreement(path, prompt)


def add_token(folder: Path, **roles: str) -> None:
    """A special token behind the vocabulary, id 16."""
    processor = load.load_processor(str(folder))
    processor.tokenizer.add_tokens(["<more>"], special_tokens=True)
    processor.save_pretrained(folder)
    edit(folder / "tokenizer_config.json", **roles)


def test_a_special_token_that_nothing_writes_may_lie_beyond_the_embeddings(folder):
    add_token(folder)
    check_agreement(str(folder), "bare")


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (
            "config.json",
            {"image_token_index": 5},
            "config.json has image_token_index 5 ('USER:'), and its LlavaProcessor marks a picture with '<image>', "
            "token 4; expected the same token",
        ),
        (
            "config.json",
            {"text_config__vocab_size": 15},
            "its tokenizer has token 'square' as 15, and config.json has 15 rows of embeddings (vocab_size), from 0",
        ),
        (
            "config.json",
            {"text_config__vocab_size": 17},
            "model.safetensors has 16 rows of embeddings, and config.json has vocab_size 17",
        ),
        (
            "config.json",
            {"vision_config__image_size": 16},
            "its image processor makes pictures of 8 x 8 pixels, and config.json has vision_config.image_size 16",
        ),
        (
            "config.json",
            {"vision_config__patch_size": 2},
            "its processor has patch_size 4, and config.json has vision_config.patch_size 2",
        ),
        (
            "config.json",
            {"vision_feature_select_strategy": "full"},
            "its processor has vision_feature_select_strategy 'default', and config.json 'full'",
        ),
        (
            "processor_config.json",
            {"num_additional_image_tokens": 0},
            # 2 x 2 patches and a class token, without the class token: four; the processor takes one off too many.
            "its LlavaProcessor gives a picture 3 places among the tokens, and the vision tower of config.json makes 4 "
            "features of it",
        ),
        ("processor_config.json", {"patch_size": None}, "its LlavaProcessor has no patch_size; expected one"),
    ],
)
def test_what_disagrees_is_named_by_file_and_key(folder, file, changes, said):
    edit(folder / file, **changes)
    with pytest.raises(ModelError) as caught:
        check_agreement(str(folder), "bare")
    assert str(caught.value).startswith(f"model.path={str(folder)!r}: {said}")
    assert "\n" not in str(caught.value)


def test_padding_beyond_the_embeddings_is_refused(folder):
    add_token(folder, pad_token="<more>")
    with pytest.raises(ModelError, match=r"its tokenizer has pad_token '<more>' as 16, and config\.json has 16 rows"):
        check_agreement(str(folder), "bare")


@pytest.mark.parametrize(
    ("name", "file", "changes", "said"),
    [
        (
            "Qwen2.5-VL",
            "config.json",
            {"vision_config__spatial_merge_size": 1},
            "its processor has merge_size 2, and config.json has vision_config.spatial_merge_size 1",
        ),
        ("Qwen2.5-VL", "config.json", {"image_token_id": 6}, "config.json has image_token_id 6 ('<|video_pad|>'), and"),
        (
            "LLaVA-OneVision",
            "processor_config.json",
            {"num_image_tokens": 9},
            "its LlavaOnevisionProcessor gives a pict",
        ),
        (
            "SmolVLM",
            "processor_config.json",
            {"image_seq_len": 5},
            "its processor has image_seq_len 5, and config.json makes 4 of a tile",
        ),
        (
            "Gemma 3",
            "processor_config.json",
            {"image_seq_length": 9},
            "its Gemma3Processor gives a picture 9 places among the tokens, and the vision tower of config.json",
        ),
    ],
)
def test_what_disagrees_in_other_families_is_named(families, tmp_path, name, file, changes, said):
    shutil.copytree(families[name], tmp_path / "model")
    edit(tmp_path / "model" / file, **changes)
    with pytest.raises(ModelError) as caught:
        check_agreement(str(tmp_path / "model"), prompt_of(name))
    assert str(caught.value).startswith(f"model.path='{tmp_path}/model': {said}")


def test_it_is_compared_when_a_run_opens_and_when_data_is_checked_for_a_model(write, folder):
    root = write("train.json", [training()])
    (folder / "model.safetensors").unlink()
    save_file({TABLE: torch.eye(9)}, folder / "model.safetensors")
    said = r"model\.safetensors has 9 rows of embeddings, and config\.json has vocab_size 16"
    with pytest.raises(ModelError, match=said):
        check_data(fcit(root), limit=TokenLimit(str(folder), 99, "bare"))
    model = {"path": str(folder), "prompt": "bare"}
    with pytest.raises(ModelError, match=said):
        open_experiment(parse_config({"benchmark": {"root": str(root), "tasks": ["ImageNet-R"]}, "model": model}))
