"""Features of pictures: what the base's vision tower makes of them, joined to the instructions' or alone."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fcit_layout import fcit
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, CLIPVisionModel, LlavaForConditionalGeneration, SiglipVisionConfig
from transformers.models.siglip import SiglipVisionModel

from fcit_ray.config.schema import parse_config
from fcit_ray.data.loading import samples
from fcit_ray.data.loading.pixels import normalise, pixel_scaling
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.shards import LocalShards
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.records.layout import Record, load_train
from fcit_ray.errors import DataError, ModelError
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.models.folder import TINY
from fcit_ray.models.identity.encoder import VisionTowerEncoder, join
from fcit_ray.models.load import find_vision_tower, load_base, load_image_encoder, load_processor
from fcit_ray.models.prompt import Turn
from fcit_ray.runtime.data import sample_encoder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("miniature") / "data"
    write_miniature(root, num_train=6, num_validation=1, num_test=1)
    return root


@pytest.fixture
def encode(root):
    def encoder(identity: str, model: str = "tiny") -> SampleEncoder:
        return SampleEncoder(str(root), model, "bare", 512, identity)  # type: ignore[arg-type]

    return encoder


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


# The encoder


def test_a_pictures_feature_is_the_towers_pooled_output_of_length_one(root, encode):
    # Independently: the processor's own pixels, the whole model as transformers loads it, its tower's class token
    # behind the last layer norm.
    model = LlavaForConditionalGeneration.from_pretrained(TINY).eval()
    processor = AutoProcessor.from_pretrained(TINY, backend="pil")
    for record in load_train(fcit(root), "AOKVQA")[:3]:
        with Image.open(root / record.images[0]) as image:
            pixels = processor.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            pooled = model.model.vision_tower(pixels).pooler_output[0]
        feature = encode("image").encode_train(record)["feature"]
        assert (feature.shape, feature.dtype) == ((96,), np.float32)
        np.testing.assert_allclose(feature, (pooled / pooled.norm()).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("identity", ["text", "image", "both"])
def test_the_feature_alone_is_that_of_the_whole_sample(root, encode, identity):
    encoder = encode(identity)
    for record in load_train(fcit(root), "IconQA")[:2]:
        alone = encoder.encode_feature(record)
        np.testing.assert_array_equal(alone, encoder.encode_train(record)["feature"])
        asked = dataclasses.replace(record, turns=(Turn(record.turns[0].question),))
        np.testing.assert_array_equal(alone, encoder.encode_test(asked)["feature"])


def test_a_pictures_bits_do_not_depend_on_its_neighbours():
    encoder = load_image_encoder("tiny")
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sizes = []
    encoder.tower.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["pixel_values"])), with_kwargs=True
    )
    together = encoder.encode(images)
    assert sizes == [1] * 5  # a matrix product may round otherwise for another batch; on some CPUs it does not
    assert torch.equal(together, torch.cat([encoder.encode(image[None]) for image in images]))
    assert torch.equal(together.flip(0), encoder.encode(images.flip(0)))


def test_a_tower_without_a_head_gives_the_mean_of_its_tokens():
    config = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config.vision_use_head = False
    tower = SiglipVisionModel(config).eval()
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        mean = tower(image).last_hidden_state[0].mean(0)
    assert mean.abs().sum() > 0
    torch.testing.assert_close(VisionTowerEncoder(tower).encode(image)[0], mean / mean.norm())


def test_pixels_are_scaled_as_the_collator_scales_them():
    # (255 / 255 - 0.5) / 0.5 = 1, (0 - 0.5) / 0.5 = -1; channels come first
    mean, std, rescale = pixel_scaling(load_processor("tiny"))
    pixels = torch.tensor([[[[255, 0, 255]]]], dtype=torch.uint8)
    torch.testing.assert_close(normalise(pixels, mean, std, rescale)[0, :, 0, 0], torch.tensor([1.0, -1.0, 1.0]))


# Both


def test_the_cosine_of_both_is_the_mean_of_the_two_cosines():
    # Texts (3, 0) and (4, 3): 0.8. Images (0, 0, 5) and (0, 8, 6): 0.6. Their mean is 0.7. Left at their lengths, 3 and
    # 5, 5 and 10, they would give (3 * 5 * 0.8 + 5 * 10 * 0.6) / sqrt(3^2 + 5^2) / sqrt(5^2 + 10^2) = 0.64.
    one = join(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0, 5.0]))
    other = join(torch.tensor([4.0, 3.0]), torch.tensor([0.0, 8.0, 6.0]))
    torch.testing.assert_close(one @ other, torch.tensor(0.7))
    torch.testing.assert_close(torch.stack([one.norm(), other.norm()]), torch.ones(2))


def test_both_of_real_records_are_as_alike_as_their_texts_and_pictures_on_average(root, encode):
    records = [*load_train(fcit(root), "AOKVQA")[:2], *load_train(fcit(root), "FigureQA")[:2]]
    text, image, both = (
        [encode(identity).encode_feature(r) for r in records] for identity in ("text", "image", "both")
    )
    assert both[0].shape == (128 + 96,)
    for i in range(4):
        for j in range(i):
            mean = (cosine(text[i], text[j]) + cosine(image[i], image[j])) / 2
            assert cosine(both[i], both[j]) == pytest.approx(mean, abs=1e-6)


# What tells tasks apart


def test_tasks_of_the_same_pictures_differ_in_their_words_alone(root, encode):
    # The miniature's Grounding asks about AOKVQA's photographs.
    asked, located = load_train(fcit(root), "AOKVQA"), load_train(fcit(root), "Grounding")
    of = {record.images[0]: record for record in located}
    shared = [(record, of[record.images[0]]) for record in asked if record.images[0] in of]
    assert len(shared) >= 3
    for one, other in shared:
        np.testing.assert_array_equal(encode("image").encode_feature(one), encode("image").encode_feature(other))
        assert cosine(encode("text").encode_feature(one), encode("text").encode_feature(other)) < 0.9
        assert cosine(encode("both").encode_feature(one), encode("both").encode_feature(other)) < 0.95


def test_identity_tokens_follow_the_configuration(root):
    def tokens(identity):
        values = {
            "benchmark": {
                "root": str(root),
                "tasks": ["AOKVQA", "Grounding"],
                "num_clients": 1,
                "clients_per_round": 1,
                "min_samples": 1,
            },
            "model": {"identity": identity, "max_length": 512},
        }
        experiment = open_experiment(parse_config(values))
        shards = LocalShards(experiment.stream, experiment.tests, sample_encoder(experiment))
        return [shards.feature(task, 0) for task in (0, 1)]

    text, image = tokens("text"), tokens("image")
    # One client holds all of a task's records, so both hold the same pictures; summed in other orders, to float32.
    torch.testing.assert_close(image[0], image[1], rtol=0, atol=1e-6)
    assert torch.nn.functional.cosine_similarity(text[0], text[1], dim=0) < 0.9
    assert [token.shape for token in tokens("both")] == [(224,), (224,)]


# What is loaded, and what is refused


@pytest.fixture
def nothing_loaded():
    for cached in (samples._processor, samples._text_encoder, samples._image_encoder):
        cached.cache_clear()
    yield
    for cached in (samples._processor, samples._text_encoder, samples._image_encoder):
        cached.cache_clear()


@pytest.mark.usefixtures("nothing_loaded")
def test_only_what_the_identity_needs_is_loaded_and_that_once(root, encode, monkeypatch):
    loaded = []
    for name in ("load_text_encoder", "load_image_encoder"):
        real = getattr(samples, name)
        monkeypatch.setattr(samples, name, lambda path, name=name, real=real: loaded.append(name) or real(path))
    record = load_train(fcit(root), "ArxivQA")[0]
    for identity, expected in [("text", ["load_text_encoder"]), ("image", ["load_image_encoder"])]:
        loaded.clear()
        encode(identity).encode_train(record)
        encode(identity).encode_feature(record)
        assert loaded == expected


def test_the_words_need_no_picture(tmp_path, encode):
    gone = Record("ArxivQA", "q", ("gone.png",), (Turn("which ?", "red"),), source="train.json", index=0)
    assert encode("text").encode_feature(gone).shape == (128,)
    with pytest.raises(DataError, match=r"image gone\.png: no such file"):
        encode("image").encode_feature(gone)


def saved(folder: Path, drop: str = "", prefix: str = "", files: int = 1) -> str:
    """A copy of the packaged model: without the tensors that begin with `drop`, their names changed, in shards."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(TINY / "model.safetensors")
    tensors = {name.replace("vision_tower.", prefix or "vision_tower."): t for name, t in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not (drop and name.startswith(drop))}
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
        return str(folder)
    of = {name: f"model-{index % files}.safetensors" for index, name in enumerate(sorted(tensors))}
    for file in set(of.values()):
        save_file({name: tensors[name] for name in tensors if of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": of}))
    return str(folder)


@pytest.mark.parametrize(
    ("prefix", "files"), [("vision_tower.vision_model.", 1), ("model.vision_tower.", 3), ("vision_tower.", 2)]
)
def test_the_tower_is_found_however_the_checkpoint_names_and_splits_it(tmp_path, prefix, files):
    # LLaVA-1.5's own files say `vision_tower.vision_model.`; transformers 5 writes them without the latter.
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    there = load_image_encoder(saved(tmp_path / "model", prefix=prefix, files=files)).encode(image)
    assert torch.equal(there, load_image_encoder("tiny").encode(image))


def test_the_tower_is_the_bases_and_frozen_in_float32():
    before = torch.get_rng_state()
    tower = load_image_encoder("tiny").tower
    assert torch.equal(torch.get_rng_state(), before), "loading draws no numbers"
    assert isinstance(tower, CLIPVisionModel)
    assert not tower.training
    base = load_base("tiny", "bfloat16")
    own = dict(base.model.vision_tower.named_parameters())
    for name, parameter in tower.named_parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad
        assert torch.equal(parameter.bfloat16(), own[name])


def test_a_model_without_a_vision_tower_is_refused_at_the_door(tmp_path, root):
    blind = saved(tmp_path / "blind", drop="vision_tower.")
    values = {"benchmark": {"root": str(root), "tasks": ["ArxivQA"], "num_clients": 1, "clients_per_round": 1}}
    values["benchmark"]["min_samples"] = 1
    for identity in ("image", "both"):
        with pytest.raises(ModelError, match=r"blind': no vision tower .* or else model\.identity=text"):
            open_experiment(parse_config({**values, "model": {"path": blind, "identity": identity}}))
    open_experiment(parse_config({**values, "model": {"path": blind, "identity": "text"}}))
    unsaid = Path(saved(tmp_path / "unsaid"))
    config = json.loads((unsaid / "config.json").read_text())
    del config["vision_config"]
    (unsaid / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no vision tower"):
        find_vision_tower(str(unsaid))


def test_a_tower_with_a_piece_missing_is_refused(tmp_path):
    # Left at its random start it would give features of nothing, another in every process.
    folder = saved(tmp_path / "model", drop="vision_tower.post_layernorm")
    with pytest.raises(ModelError, match=r"its vision tower lacks 2 tensors, one is post_layernorm\.bias"):
        load_image_encoder(folder)
