"""Conversion of checkpoints: the same logits before and after, and no result unless all of it is right."""

import json
import math
import pickle
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from clip_like import VISION, save_clip
from llama_like import llama_tokenizer, save_tokenizer
from repository import ROOT
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from fcit_ray.errors import ModelError
from fcit_ray.models.conversion import convert as conversion
from fcit_ray.models.conversion.convert import check, convert
from fcit_ray.models.conversion.llava_format import make_plan
from fcit_ray.models.identity.clip import load_clip_text_encoder
from fcit_ray.models.load import load_base, load_image_encoder, load_processor

TOWER = "model.vision_tower.vision_tower.vision_model."
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-05,
    "hidden_act": "silu",
}
PIPELINE = ROOT / "pipelines" / "convert.py"
VOCABULARY = len(llama_tokenizer(True))


def original() -> tuple[LlamaForCausalLM, CLIPVisionModel, nn.Sequential]:
    """The three parts of a LLaVA, as the original holds them, in random weights that all matter."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        llama = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.3, **LLAMA)).eval()
        tower = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
        for parameter in tower.parameters():
            nn.init.normal_(parameter, std=0.3)
        projector = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16))
    return llama, tower, projector


def original_logits(parts, before: list[int], pixels: Tensor, after: list[int]) -> Tensor:
    """LLaVA's own forward: patches of the last layer but one, projected, put between the embeddings of the words."""
    llama, tower, projector = parts
    with torch.no_grad():
        patches = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]  # without the class token
        words = [llama.get_input_embeddings()(torch.tensor([ids])) for ids in (before, after)]
        return llama(inputs_embeds=torch.cat([words[0], projector(patches), words[1]], dim=1)).logits[0]


def state_of(parts, tower: bool) -> dict[str, Tensor]:
    llama, vision, projector = parts
    state = dict(llama.state_dict())
    state |= {f"model.mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # files of then have it
    if tower:
        names = {name.removeprefix("vision_model."): tensor for name, tensor in vision.state_dict().items()}
        state |= {TOWER + name: tensor for name, tensor in names.items()}
    return state


def write(folder: Path, parts, *, tower: bool = True, shards: int = 1, safe: bool = False, **changes: object) -> Path:
    """An original checkpoint as downloaded."""
    folder.mkdir()
    config = {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "image_aspect_ratio": "pad",
        "mm_hidden_size": 8,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "nobody/no-such-clip",
        "tie_word_embeddings": False,
        **LLAMA,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder, legacy=False)
    store(folder, state_of(parts, tower), shards, safe)
    return folder


def store(folder: Path, state: dict[str, Tensor], shards: int = 1, safe: bool = False) -> None:
    stem, end = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    save = save_file if safe else torch.save
    if shards == 1:
        save(state, folder / f"{stem}.{end}")
        return
    names = sorted(state)
    of = {name: f"{stem}-{i % shards + 1:05}-of-{shards:05}.{end}" for i, name in enumerate(names)}
    for file in set(of.values()):
        save({name: state[name].clone() for name in names if of[name] == file}, folder / file)
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"weight_map": of}))


@pytest.fixture(scope="module")
def parts():
    return original()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory, parts) -> Path:
    return write(tmp_path_factory.mktemp("original") / "llava", parts, shards=2)


def logits_after(out: Path, before: list[int], pixels: Tensor, after: list[int]) -> Tensor:
    model, info = LlavaForConditionalGeneration.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.tensor([[*before, *[model.config.image_token_index] * 4, *after]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, pixel_values=pixels).logits[0]


@pytest.mark.parametrize(
    ("shards", "safe", "tower"), [(1, False, True), (3, True, True), (2, False, False)], ids=["bin", "safe", "clip"]
)
def test_logits_are_equal_before_and_after(tmp_path, parts, clip, shards, safe, tower):
    source = write(tmp_path / "llava", parts, shards=shards, safe=safe, tower=tower)
    if not tower:  # then it is the CLIP model's
        parts = (parts[0], CLIPVisionModel.from_pretrained(clip).eval(), parts[2])
    out = tmp_path / "converted"
    convert(make_plan(source, str(clip)), out)
    before, after = [1, 283, 284, 286, 287], [287, 13, 289, 290, 291, 288, 286, 292, 293, 2]
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = original_logits(parts, before, pixels, after)
    got = logits_after(out, before, pixels, after)
    assert expected.std() > 0.1
    torch.testing.assert_close(got[:, :VOCABULARY], expected, rtol=1e-5, atol=1e-5)
    # The rows that fill up: every logit is the mean of the others, so none is ever the largest.
    assert got.shape[1] == math.ceil((VOCABULARY + 2) / 64) * 64
    mean = expected.mean(1, keepdim=True).expand(-1, got.shape[1] - VOCABULARY)
    torch.testing.assert_close(got[:, VOCABULARY:], mean, rtol=1e-4, atol=1e-4)
    assert (got.argmax(1) < VOCABULARY).all()


def test_the_result_is_what_runs_read(tmp_path, source, clip, parts):
    out = tmp_path / "converted"
    convert(make_plan(source, str(clip)), out)
    processor = load_processor(str(out))
    assert (processor.image_token, processor.patch_size, processor.num_additional_image_tokens) == ("<image>", 4, 1)
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [VOCABULARY, VOCABULARY + 1]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<pad>", "</s>", "<s>")
    text = "USER: which colour? ASSISTANT: red</s>"
    assert tokenizer(text)["input_ids"] == llama_tokenizer(False)(text)["input_ids"]
    base = load_base(str(out))
    assert base.config.image_token_index == VOCABULARY
    assert (base.config.vision_feature_layer, base.config.vision_feature_select_strategy) == (-2, "default")
    assert load_image_encoder(str(out)).tower.config.hidden_size == 8
    torch.testing.assert_close(base.get_input_embeddings().weight[:VOCABULARY], parts[0].get_input_embeddings().weight)


def test_names_and_types_are_those_that_llava_hf_publishes(tmp_path, parts):
    source = write(tmp_path / "llava", tuple(part.half() for part in original()))
    convert(make_plan(source, str(save_clip_at(tmp_path / "clip"))), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert {
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.mlp.gate_proj.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
        "multi_modal_projector.linear_1.bias",
        "multi_modal_projector.linear_2.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight",
        "vision_tower.vision_model.post_layernorm.bias",
    } <= tensors.keys()
    assert not any("inv_freq" in name or "position_ids" in name for name in tensors)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["vocab_size"] % 64 == 0
    assert (config["dtype"], config["pad_token_id"]) == ("float16", VOCABULARY + 1)


def save_clip_at(folder: Path) -> Path:
    save_clip(folder)
    return folder


def test_every_wrong_tensor_is_named_before_a_byte_is_written(tmp_path, parts, clip):
    source = write(tmp_path / "llava", parts)
    state = state_of(parts, tower=True)
    del state["model.norm.weight"], state[TOWER + "post_layernorm.bias"]
    state["model.layers.7.mlp.up_proj.weight"] = torch.ones(2)
    state["model.mm_projector.0.weight"] = torch.ones(16, 9)
    store(source, state)
    with pytest.raises(ModelError) as error:
        make_plan(source, str(clip))
    assert "2 missing: language_model.model.norm.weight, vision_tower.vision_model.post_layernorm.bias" in str(
        error.value
    )
    assert "1 unexpected: language_model.model.layers.7.mlp.up_proj.weight" in str(error.value)
    assert "multi_modal_projector.linear_1.weight (16, 9) for (16, 8)" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["llava"]


def test_what_is_no_llava_1_5_is_refused(tmp_path, parts, clip):
    for number, (key, value, said) in enumerate(
        [
            ("mm_projector_type", "linear", "mm_projector_type is 'linear'; expected 'mlp2x_gelu'"),
            ("image_aspect_ratio", "anyres", "image_aspect_ratio is 'anyres'; expected 'pad'"),
            ("mm_use_im_start_end", True, "mm_use_im_start_end is True; expected False"),
            ("model_type", "llava_mistral", "model_type is 'llava_mistral'; expected 'llava'"),
            ("architectures", ["LlavaMptForCausalLM"], r"architectures is \['LlavaMptForCausalLM'\]; expected"),
            ("sliding_window", 4096, "sliding_window is 4096; expected None"),
            ("attention_bias", True, "attention_bias is True; expected False"),
            ("mlp_bias", True, "mlp_bias is True; expected False"),
            ("tie_word_embeddings", True, "tie_word_embeddings is True; expected False"),
            ("quantization_config", {"bits": 4}, r"quantization_config is \{'bits': 4\}; expected None"),
            ("mm_patch_merge_type", "spatial", "mm_patch_merge_type is 'spatial'; expected 'flat'"),
            ("head_dim", 32, "head_dim is 32; expected None"),
            ("rope_scaling", {"type": "dynamic", "factor": 2.0}, "rope_scaling is .*; expected null, or type 'linear'"),
            ("rope_scaling", {"type": "linear", "factor": 2.0, "low": 1}, "rope_scaling is .*; expected null"),
            ("rope_parameters", {"rope_type": "yarn"}, "rope_parameters is .*, a key that no LLaVA-1.5 has"),
            ("logit_softcap", 30, "logit_softcap is 30, a key that no LLaVA-1.5 has and that may change what the"),
            ("vocab_size", VOCABULARY + 1, r"2 of another shape: language_model\.lm_head\.weight"),
        ]
    ):
        source = write(tmp_path / str(number), parts, **{key: value})
        with pytest.raises(ModelError, match=said):
            make_plan(source, str(clip))
    with pytest.raises(ModelError, match="sizes of its vision tower nobody/no-such-clip are not known"):
        make_plan(write(tmp_path / "a", parts))
    with pytest.raises(ModelError, match="holds no vision tower of its own; name it by --clip"):
        make_plan(write(tmp_path / "b", parts, tower=False))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"neither an original LLaVA-1\.5 .* nor a CLIP model"):
        make_plan(tmp_path / "c")
    source = write(tmp_path / "d", parts)
    (source / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"neither tokenizer\.model nor tokenizer\.json"):
        make_plan(source, str(clip))


PUBLISHED = {  # the keys of liuhaotian/llava-v1.5-7b's config.json, and those that newer code of theirs writes
    "_name_or_path": "llava-v1.5-7b", "freeze_mm_mlp_adapter": False, "freeze_mm_vision_resampler": False,
    "initializer_range": 0.02, "max_length": 4096, "mm_resampler_type": None, "pad_token_id": 0, "pretraining_tp": 1,
    "rope_scaling": None, "torch_dtype": "float16", "transformers_version": "4.31.0", "tune_mm_mlp_adapter": False,
    "tune_mm_vision_resampler": False, "unfreeze_mm_vision_tower": False, "use_cache": True, "use_mm_proj": True,
    "attention_bias": False, "attention_dropout": 0.0, "mm_patch_merge_type": "flat", "mm_projector_lr": None,
    "rope_theta": 10000.0, "tokenizer_model_max_length": 2048, "tokenizer_padding_side": "right",
    "image_crop_resolution": None, "image_grid_pinpoints": None, "image_split_resolution": None,
}  # fmt: skip


def test_every_key_that_is_published_is_known_and_positions_may_be_scaled(tmp_path, parts, clip):
    make_plan(write(tmp_path / "a", parts, **PUBLISHED), str(clip))
    scaled = {"type": "linear", "factor": 4.0}
    source = write(tmp_path / "b", parts, **{**PUBLISHED, "rope_scaling": scaled, "rope_theta": 5000.0})
    convert(make_plan(source, str(clip)), tmp_path / "out")
    # Positions divided by four: the first pair of a head of 8 turns by position / 4, the second slower by 5000^(2/8).
    rotary = load_base(str(tmp_path / "out")).model.language_model.rotary_emb
    expected = [5000 ** (-2 * pair / 8) / 4 for pair in range(4)]
    torch.testing.assert_close(rotary.inv_freq, torch.tensor(expected))


@pytest.mark.parametrize("sign", [{"unfreeze_mm_vision_tower": True}, {"mm_tunable_parts": "mm_vision_tower,mm_mlp"}])
def test_a_tower_that_was_trained_along_must_be_there(tmp_path, parts, clip, sign):
    make_plan(write(tmp_path / "a", parts, **sign), str(clip))
    with pytest.raises(ModelError, match=r"its vision tower was trained along \(config\.json\), and is not among its"):
        make_plan(write(tmp_path / "b", parts, tower=False, **sign), str(clip))


def test_a_tower_of_its_own_needs_no_clip_folder_where_its_sizes_are_known(tmp_path, parts):
    # Those of ViT-L/14-336: 24 layers where this tower has 3, of 16 tensors each (four projections of attention, two of
    # the feed-forward part, two norms, each with a bias): 21 * 16 = 336 missing. The projector takes 1024 from it.
    source = write(tmp_path / "llava", parts, mm_vision_tower="openai/clip-vit-large-patch14-336")
    with pytest.raises(ModelError) as error:
        make_plan(source)
    assert "336 missing" in str(error.value)
    assert "multi_modal_projector.linear_1.weight (16, 8) for (16, 1024)" in str(error.value)


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_a_file_with_more_than_tensors_in_it_is_refused_and_not_run(tmp_path, parts, clip, capsys):
    source = write(tmp_path / "llava", parts)
    torch.save({**state_of(parts, True), "harm": Harm()}, source / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"is a pickle of more than tensors, .*; expected named tensors and nothing else$"
    ):
        make_plan(source, str(clip))
    assert "harm" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("legacy", "cut", "said"),
    [
        (False, lambda whole: whole[: len(whole) // 2], "is cut short, an archive without its end; fetch it again"),
        (True, lambda whole: whole[:-1], r"is cut short or broken \(\w+\); fetch it again"),
        (True, lambda whole: whole[:20], r"is cut short or broken \(\w+\); fetch it again"),
        (False, lambda whole: b"", "is empty, as a copy or download that broke off"),
        (False, lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (False, lambda whole: b"<html>", "is a web page"),
        (False, lambda whole: b"words", "is no file of weights as PyTorch writes them"),
        (False, lambda whole: pickle.dumps({"a": 1}), "is a pickle of more than tensors, which is not read"),
    ],
)
def test_a_bin_file_that_is_not_whole_is_told_in_one_line(tmp_path, parts, clip, legacy, cut, said):
    source = write(tmp_path / "llava", parts)
    torch.save(state_of(parts, True), source / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    whole = (source / "pytorch_model.bin").read_bytes()
    (source / "pytorch_model.bin").write_bytes(cut(whole))
    with pytest.raises(ModelError, match=rf"pytorch_model\.bin: ({said})") as caught:
        make_plan(source, str(clip))
    assert "\n" not in str(caught.value)


def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(tmp_path, source, clip, monkeypatch):
    out = tmp_path / "converted"
    plan = make_plan(source, str(clip))
    written = []

    def break_down(tensors, path, metadata):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        save_file(tensors, path, metadata)

    monkeypatch.setattr(conversion, "save_tensors", break_down)
    with pytest.raises(KeyboardInterrupt):
        convert(plan, out)
    assert written
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".converted.partial"]
    monkeypatch.undo()
    said: list[str] = []
    convert(make_plan(source, str(clip)), out, said.append)
    assert said[0].startswith("starting anew")
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]
    assert check(plan, out) == len(plan.origin)
    with pytest.raises(ModelError, match="exists already"):
        convert(plan, out)


def test_the_same_source_gives_the_same_bytes_however_it_is_split(tmp_path, source, clip, monkeypatch):
    plan = make_plan(source, str(clip))
    convert(plan, tmp_path / "one")
    convert(plan, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    monkeypatch.setattr(conversion, "SHARD_NUMBERS", 2000)
    convert(plan, tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > len(list((tmp_path / "one").glob("*.safetensors")))
    assert check(plan, tmp_path / "many") == check(plan, tmp_path / "one")


def test_check_finds_a_changed_and_a_missing_tensor(tmp_path, parts, clip):
    source = write(tmp_path / "llava", parts)
    plan = make_plan(source, str(clip))
    convert(plan, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # not mapped to what is overwritten
    tensors["language_model.model.norm.weight"][3] += 1e-6
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"1 different: language_model\.model\.norm\.weight"):
        check(plan, tmp_path / "out")
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"1 missing: language_model\.lm_head\.weight"):
        check(plan, tmp_path / "out")


def test_the_pipeline_converts_checks_and_says_what_is_wrong(tmp_path, source, clip, monkeypatch, capsys):
    def run(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["convert.py", *map(str, arguments)])
        runpy.run_path(str(PIPELINE), run_name="__main__")

    out = tmp_path / "converted"
    for more in ((), ("--check",)):
        with pytest.raises(SystemExit, match="0"):
            run(source, out, "--clip", clip, *more)
    assert len(re.findall(r"\d+ tensors, all as in", capsys.readouterr().out.replace("\n", " "))) == 2
    with pytest.raises(SystemExit, match="2"):
        run(source, out, "--clip", clip)
    assert "exists already" in capsys.readouterr().err


def test_clips_pickle_becomes_safetensors(tmp_path):
    source = tmp_path / "clip"
    model = save_clip(source, binary=True)
    out = tmp_path / "converted"
    convert(make_plan(source), out)
    written = load_file(out / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in model.state_dict().items())
    assert torch.isfinite(load_clip_text_encoder(str(out)).encode(["what dog ?"])).all()
    shutil.rmtree(out)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "logit_scale"}
    torch.save(state, source / "pytorch_model.bin")
    with pytest.raises(ModelError, match="1 missing: logit_scale"):
        make_plan(source)


def test_vicunas_sentencepiece_model_becomes_a_fast_tokenizer(tmp_path, clip):
    sentencepiece = pytest.importorskip("sentencepiece")
    source = write(tmp_path / "llava", original())
    words = "A chat between a curious human and an assistant . USER : ASSISTANT : what colour is the dog ? 0123456789"
    text = tmp_path / "text"
    text.write_text("\n".join([words, words.lower(), "The assistant gives helpful, detailed answers"] * 50))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(source / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (source / "tokenizer.json").unlink()
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=340, **LLAMA))
    store(source, state_of((llama, *original()[1:]), tower=True))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": 340}))
    convert(make_plan(source, str(clip)), tmp_path / "out")
    fast = load_processor(str(tmp_path / "out")).tokenizer
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    for probe in ("USER: what colour?", "\n12 caf\u00e9  dog", "The dog."):
        assert fast(probe)["input_ids"] == [1, *pieces.encode(probe)]
