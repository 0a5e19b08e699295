"""CLIP as the encoder of identity tokens: its pooled outputs, what is cut, what is loaded, what is refused."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_like import save_clip
from fcit_layout import fcit
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from fcit_ray.config.schema import parse_config, with_absolute_paths
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.records.layout import load_train
from fcit_ray.errors import ModelError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.opening import make_bank, open_experiment
from fcit_ray.models import load
from fcit_ray.models.folder import TINY
from fcit_ray.models.identity.clip import (
    check_clip,
    clip_widths,
    count_cut,
    load_clip_image_encoder,
    load_clip_text_encoder,
)
from fcit_ray.runtime.data import sample_encoder

QUESTION = "what colour is the dog ?"  # <|startoftext|>, six words, <|endoftext|>: 8 tokens, of which 6 are read


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("miniature") / "data"
    write_miniature(root, num_train=3, num_validation=1, num_test=1)
    return root


def config(root: Path, **model: object):
    benchmark = {"root": str(root), "tasks": ["AOKVQA"], "num_clients": 1, "clients_per_round": 1, "min_samples": 1}
    return parse_config({"benchmark": benchmark, "model": {"max_length": 512, **model}})


def test_a_texts_feature_is_the_text_encoders_pooled_output_before_projection(clip):
    model = CLIPModel.from_pretrained(clip).eval()
    encoder = load_clip_text_encoder(str(clip))
    ids = encoder.tokenizer("what dog ?")["input_ids"]
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == [
        *("<|startoftext|>", "what</w>", "dog</w>", "?</w>", "<|endoftext|>")
    ]
    with torch.no_grad():
        hidden = model.text_model(torch.tensor([ids])).last_hidden_state[0]
    feature = encoder.encode(["what dog ?"])
    assert (feature.shape, feature.dtype) == ((1, 12), torch.float32)
    torch.testing.assert_close(feature[0], hidden[-1])  # at the end-of-text token


def test_padding_as_the_paper_pads_changes_nothing(clip):
    # Attention is causal, and what comes after the end-of-text token is not pooled.
    model = CLIPModel.from_pretrained(clip).eval()
    encoder = load_clip_text_encoder(str(clip))
    padded = encoder.tokenizer(["what dog"], padding="max_length", max_length=6, return_tensors="pt")["input_ids"]
    assert padded.shape == (1, 6)
    with torch.no_grad():
        pooled = model.text_model(padded).pooler_output
    torch.testing.assert_close(encoder.encode(["what dog"]), pooled)


def test_a_long_text_is_cut_before_its_end_token_and_counted(clip):
    encoder = load_clip_text_encoder(str(clip))
    # The begin, four words and the end are left.
    assert torch.equal(encoder.encode([QUESTION]), encoder.encode(["what colour is the"]))
    assert not torch.equal(encoder.encode(["what colour is the"]), encoder.encode(["what colour is"]))
    assert count_cut(str(clip), [QUESTION, "what dog ?", "what colour is the", QUESTION]) == 2
    assert count_cut(str(clip), []) == 0


def test_a_texts_bits_and_shapes_do_not_depend_on_its_neighbours(clip):
    texts = ["what dog ?", "colour", "is the dog", "dog is the", "the dog is", "what is colour", "what dog ?"]
    encoder = load_clip_text_encoder(str(clip))
    shapes = []
    encoder.tower.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    together = encoder.encode(texts)
    # Four rows whatever there is: of five different texts of five tokens two batches, of the one of three another.
    assert sorted(shapes) == [(4, 3), (4, 5), (4, 5)]
    shapes.clear()
    assert torch.equal(encoder.encode(texts), together), "also when they are remembered"
    assert shapes == []
    alone = [load_clip_text_encoder(str(clip)).encode([text]) for text in texts]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(load_clip_text_encoder(str(clip)).encode(texts[::-1]).flip(0), together)


def test_a_pictures_feature_is_the_vision_encoders_pooled_output(clip, root):
    model = CLIPModel.from_pretrained(clip).eval()
    sample = SampleEncoder(str(root), "tiny", "bare", 512, "image", str(clip))
    record = load_train(fcit(root), "AOKVQA")[0]
    with Image.open(root / record.images[0]) as image:
        # square, 64 pixels wide: CLIP's own processor makes it 8 wide, the base takes it as it is
        pixels = AutoProcessor.from_pretrained(clip, backend="pil").image_processor(
            image.convert("RGB"), return_tensors="pt"
        )["pixel_values"]
    with torch.no_grad():
        pooled = model.vision_model(pixels).pooler_output[0]
    encoded = sample.encode_train(record)
    assert encoded["pixels"].shape == (1, 64, 64, 3)
    np.testing.assert_allclose(encoded["feature"], (pooled / pooled.norm()).numpy(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(sample.encode_feature(record), encoded["feature"])
    both = dataclasses.replace(sample, identity="both").encode_feature(record)
    assert both.shape == (12 + 8,)


def test_only_the_half_that_is_needed_is_read(clip, monkeypatch):
    real, read = load.safe_open, []

    class Spy:
        def __init__(self, *args, **kwargs):
            self.opened = real(*args, **kwargs)

        def __enter__(self):
            self.file = self.opened.__enter__()
            return self

        def __exit__(self, *error):
            return self.opened.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(load, "safe_open", Spy)
    assert not any(p.requires_grad for p in load_clip_text_encoder(str(clip)).tower.parameters())
    assert {name.split(".")[0] for name in read} == {"text_model"}
    read.clear()
    load_clip_image_encoder(str(clip))
    assert {name.split(".")[0] for name in read} == {"vision_model"}


def test_half_precision_files_give_float32_features(clip, tmp_path):
    shutil.copytree(clip, tmp_path / "half")
    CLIPModel.from_pretrained(clip).half().save_pretrained(tmp_path / "half")
    tower = load_clip_text_encoder(str(tmp_path / "half")).tower
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}


@pytest.mark.parametrize(("identity", "width"), [("text", 12), ("image", 8), ("both", 20)])
def test_a_run_is_as_wide_as_its_features(clip, root, identity, width, monkeypatch):
    monkeypatch.chdir(clip.parent)
    asked = config(root, identity=identity, identity_encoder=clip.name)
    experiment = open_experiment(asked)
    assert experiment.config.model.identity_encoder == str(clip), "workers have other working directories"
    feature = sample_encoder(experiment).encode_feature(experiment.stream.records[0][0])
    assert feature.shape == (width,)
    assert make_bank(experiment.config, make_algorithm(asked)).feature_dim == width


def test_the_default_is_the_base(root):
    assert config(root).model.identity_encoder == "base"
    assert with_absolute_paths(config(root)).model.identity_encoder == "base"
    assert sample_encoder(open_experiment(config(root))).identity_encoder == "base"


def test_a_run_says_how_many_instructions_are_cut(clip, root, caplog):
    # The miniature's questions are all longer than this CLIP's six tokens: three to train, one to test.
    with caplog.at_level(logging.WARNING):
        open_experiment(config(root, identity_encoder=str(clip)))
    assert "identity tokens: 4 of 4 instructions are longer than CLIP reads, and cut" in caplog.text


def test_models_that_will_not_do_are_refused_at_the_door(clip, root, tmp_path):
    with pytest.raises(ModelError, match=r"model\.identity_encoder='no/such': neither a folder nor a hub name"):
        open_experiment(config(root, identity_encoder="no/such"))
    with pytest.raises(ModelError, match=r"a model of type 'llava'; expected 'base' or a whole CLIP model"):
        open_experiment(config(root, identity_encoder=str(TINY)))
    binary = tmp_path / "binary"
    save_clip(binary, binary=True)
    with pytest.raises(ModelError, match=r"Convert pytorch_model\.bin once: fcit-ray convert .*binary OUT"):
        check_clip(str(binary), "text")
    bare = tmp_path / "bare"
    shutil.copytree(clip, bare)
    for path in bare.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"its processor does not load|has no tokenizer|its tokenizer has"):
        check_clip(str(bare), "text")
    assert clip_widths(str(clip)) == {"text": 12, "image": 8}
    settings = json.loads((clip / "config.json").read_text())
    assert (settings["text_config"]["hidden_size"], settings["vision_config"]["hidden_size"]) == (12, 8)
