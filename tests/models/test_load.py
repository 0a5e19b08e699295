"""Loading from folders alone: what is found, what is frozen, and what is said of folders that will not do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fcit_ray.errors import ModelError
from fcit_ray.models import folder as model_folders
from fcit_ray.models import load
from fcit_ray.models.folder import TINY, model_folder
from fcit_ray.models.load import (
    load_base,
    load_image_encoder,
    load_processor,
    load_text_encoder,
)

TABLE = "language_model.model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The packaged model's processor without its weights."""
    shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "model"


@pytest.fixture
def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The packaged model's weights, to be written beside its processor."""
    return load_file(TINY / "model.safetensors")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_base_comes_frozen_and_in_evaluation_mode():
    model = load_base("tiny")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert next(load_base("tiny", "bfloat16").parameters()).dtype == torch.bfloat16


def test_the_image_processor_is_always_the_pil_one():
    assert load_processor("tiny").image_processor.backend == "pil"


def test_the_encoder_reads_the_embeddings_of_the_base():
    table = load_base("tiny").get_input_embeddings().weight
    encoder = load_text_encoder("tiny")
    ids = load_processor("tiny").tokenizer("what colour", add_special_tokens=False)["input_ids"]
    expected = torch.nn.functional.normalize(table[ids], dim=1).mean(0)
    torch.testing.assert_close(encoder.encode(["what colour"])[0], expected)


def test_only_one_tensor_is_read(folder, monkeypatch):
    read = []
    real = load.safe_open

    class Spy:
        def __init__(self, *args, **kwargs):
            self.manager = real(*args, **kwargs)

        def __enter__(self):
            self.file = self.manager.__enter__()
            return self

        def __exit__(self, *error):
            return self.manager.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

    save_file({TABLE: torch.eye(4), "big": torch.ones(3), "vision.embed": torch.ones(2)}, folder / "model.safetensors")
    monkeypatch.setattr(load, "safe_open", Spy)
    load_text_encoder(str(folder))
    assert read == [TABLE]


def test_embeddings_are_found_in_a_sharded_checkpoint(folder):
    table = load_file(TINY / "model.safetensors")
    (name,) = (name for name in table if name.endswith("embed_tokens.weight"))
    save_file({name: table[name]}, folder / "model-00002-of-00002.safetensors")
    # the other shard is not even there: it need not be opened
    weight_map = {"lm_head.weight": "model-00001-of-00002.safetensors", name: "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    texts = ["which colour is it ?"]
    assert torch.equal(load_text_encoder(str(folder)).encode(texts), load_text_encoder("tiny").encode(texts))


def test_checkpoints_without_one_embedding_table_are_refused(folder):
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_text_encoder(str(folder))
    save_file({"lm_head.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"0 tensors end in embed_tokens\.weight"):
        load_text_encoder(str(folder))


@pytest.mark.parametrize("path", ["no/such/folder", "nobody/no-such-model", "/no/such/folder"])
def test_a_missing_model_says_where_models_come_from(path, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for loader in (model_folder, load_processor, load_base, load_text_encoder):
        with pytest.raises(ModelError, match=rf"model\.path='{path}': neither a folder nor a hub name"):
            loader(path)


def test_folders_that_will_not_do(folder, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"no config\.json in this folder; expected a Hugging Face model"):
        load_base(str(tmp_path))
    with pytest.raises(ModelError, match=r"model\.dtype='float8': expected float32 or bfloat16"):
        load_base("tiny", "float8")
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor .*index\.json; .*fcit-ray convert"):
        load_base(str(folder))  # no weights
    shutil.copy(TINY / "model.safetensors", folder)
    edit(folder / "config.json", model_type="bert")
    with pytest.raises(ModelError, match="does not load"):
        load_base(str(folder))
    monkeypatch.setattr(model_folders, "TINY", tmp_path / "gone")
    with pytest.raises(ModelError, match=r"model\.path='tiny': .*gone is incomplete; reinstall"):
        load_base("tiny")


# What is not there would be filled with random numbers, others in every worker


def test_missing_weights_are_refused_by_name(folder, weights):
    for name in [name for name in weights if name.startswith("multi_modal_projector.")]:
        del weights[name]
    del weights["language_model.model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights are not whole: model\..*weight is missing.* and 2 more"):
        load_base(str(folder))  # five in all: two biases, two weights and the FFN's


def test_weights_of_another_shape_are_refused_by_name(folder, weights):
    weights["language_model.model.layers.1.mlp.down_proj.weight"] = torch.zeros(3, 3)
    weights["vision_tower.post_layernorm.weight"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"mlp\.down_proj\.weight is \(3, 3\) where config\.json says \(128, 3"):
        load_base(str(folder))
    with pytest.raises(ModelError, match=r"(?s)its vision tower does not load: .*post_layernorm"):
        load_image_encoder(str(folder))


def test_a_head_tied_to_the_embeddings_is_not_missing(folder, weights):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder / "config.json", text_config={**text, "tie_word_embeddings": True}, tie_word_embeddings=True)
    del weights["language_model.lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = load_base(str(folder))
    assert torch.equal(model.get_output_embeddings().weight, weights[TABLE])


def test_a_download_that_was_cut_off_is_refused(folder):
    whole = (TINY / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes()[:50_000])
    for loader in (load_base, load_text_encoder, load_image_encoder):
        with pytest.raises(ModelError, match=rf"is cut short: 50,000 bytes, and its header says {whole:,};"):
            loader(str(folder))


def test_a_shard_that_is_not_there_is_named(folder):
    index = {"weight_map": {TABLE: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for loader in (load_base, load_text_encoder):
        with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors: not there; fetch it again"):
            loader(str(folder))


def test_a_checkpoints_decoding_settings_are_not_taken_over(folder):
    shutil.copy(TINY / "model.safetensors", folder)
    penalty = {"repetition_penalty": 1.05, "num_beams": 3, "no_repeat_ngram_size": 2, "do_sample": True}
    edit(folder / "generation_config.json", eos_token_id=[2, 7], **penalty)
    kept = load_base(str(folder)).generation_config.to_diff_dict()
    assert {name: value for name, value in kept.items() if name != "transformers_version"} == {
        "bos_token_id": 1,
        "eos_token_id": [2, 7],
        "pad_token_id": 0,
    }


@pytest.mark.parametrize("setting", ["patch_size", "vision_feature_select_strategy"])
def test_a_processor_that_cannot_count_image_tokens_is_refused(folder, setting):
    edit(folder / "processor_config.json", **{setting: None})
    with pytest.raises(ModelError, match=f"its LlavaProcessor has no {setting}"):
        load_processor(str(folder))


def test_a_tokenizer_without_an_end_is_refused(folder):
    edit(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="its tokenizer has no eos_token"):
        load_processor(str(folder))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", (TINY / "tokenizer.json").read_text()[:5000], r"tokenizer\.json is not JSON: line \d+"),
        ("tokenizer.json", "[" * 100_000, r"tokenizer\.json is JSON that is nested too deeply"),
        ("tokenizer.json", "[1]", ""),
        ("tokenizer_config.json", '{"bos_token": ["a"]}', ""),
        ("config.json", '{"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": "x"}}', ""),
    ],
)
def test_settings_that_a_processor_trips_over_are_one_line(folder, file, content, said):
    (folder / file).write_text(content)
    with pytest.raises(ModelError, match=rf"^model\.path='{folder}': its processor does not load: {said}") as caught:
        load_processor(str(folder))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_processor_is_refused(folder):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="its processor does not load"):
        load_processor(str(folder))
