"""What has to be known of the two formats of LLaVA-1.5, and CLIP's, to convert from one to the other.

Sources: `liuhaotian/llava-v1.5-7b` and `-13b` on the hub, whose names are those of haotian-liu/LLaVA's modules;
`llava-hf/llava-1.5-7b-hf`, whose names, token numbers (`<image>` 32000, `<pad>` 32001) and size of the vocabulary (the
next multiple of 64: 32064) the result has.

One thing differs from what is published there, on purpose. The rows that fill the vocabulary up are drawn at random
there; here each is the mean of the model's own rows, in the embeddings and in the head. So the same source gives the
same bytes, and the logit of such a row is the mean of the others: greedy decoding never picks it. The 32,000 logits of
the original stay what they are; in a loss the 64 new ones add at most 64 / 32000 to the softmax's denominator, 0.002.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
)

from fcit_ray.errors import ModelError
from fcit_ray.models.conversion.collecting import BUFFERS, collect, compare
from fcit_ray.models.conversion.convert import Plan
from fcit_ray.models.conversion.llava_processor import load_tokenizer, write_processor
from fcit_ray.models.conversion.tensor_files import reading, tensor_files
from fcit_ray.models.folder import check_folder, model_folder
from fcit_ray.models.identity.clip import load_clip_processor
from fcit_ray.storage.files import read_json

MULTIPLE = 64

_INNER = re.compile(r"^vision_model\.")
_TOWER = "model.vision_tower.vision_tower.vision_model."
_NAMES = {  # of the original to the result's; the first that fits counts
    "model.mm_projector.0.": "multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "multi_modal_projector.linear_2.",
    _TOWER: "vision_tower.vision_model.",
    "model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
_VOCABULARY = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_MEANT: dict[str, tuple[Any, ...]] = {  # keys of an original's config.json and what they are in LLaVA-1.5
    "model_type": ("llava", "llava_llama"),
    "architectures": (["LlavaLlamaForCausalLM"], None),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_layer": (-2,),
    "mm_vision_select_feature": ("patch", None),
    "mm_use_im_start_end": (False, None),
    "mm_use_im_patch_token": (False, None),
    "mm_patch_merge_type": ("flat", None),
    "mm_resampler_type": (None,),
    "use_mm_proj": (True, None),
    "image_aspect_ratio": ("pad",),
    **dict.fromkeys(("image_grid_pinpoints", "image_crop_resolution", "image_split_resolution"), (None,)),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"), (False, None)),
    **dict.fromkeys(("sliding_window", "head_dim", "quantization_config"), (None,)),
}
_LANGUAGE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("rope_theta", "rope_scaling", "bos_token_id", "eos_token_id"),
)
_HARMLESS = frozenset(  # what changes nothing of what the trained model computes: of training, generation, bookkeeping
    (
        *("_name_or_path", "_commit_hash", "_attn_implementation_autoset", "transformers_version"),
        *("torch_dtype", "dtype", "use_cache", "pretraining_tp", "pad_token_id", "attention_dropout"),
        *("max_length", "min_length", "do_sample", "temperature", "top_k", "top_p", "num_beams"),
        *("freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "freeze_backbone", "tune_mm_mlp_adapter"),
        *("tune_mm_vision_resampler", "mm_projector_lr", "mm_vision_tower_lr", "unfreeze_mm_vision_tower"),
        *("mm_tunable_parts", "tokenizer_model_max_length", "tokenizer_padding_side", "mm_hidden_size"),
        "mm_vision_tower",
    )
)
_VIT_L_336: dict[str, Any] = {  # openai/clip-vit-large-patch14-336, for a checkpoint that holds the tower itself
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_CLIP_FILES = (
    *("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "vocab.json", "merges.txt"),
)


def make_plan(source: Path, clip: str | None = None) -> Plan:
    """Plan the conversion of a folder, LLaVA or CLIP, and check every tensor's name and shape.

    Args:
        source: the folder.
        clip: folder or hub name of the CLIP whose vision half the LLaVA looks through; by default what its config.json
            names, if that is in the local cache. Its tensors serve where the LLaVA's files hold none of their own.

    Raises:
        ModelError: what cannot be converted, and why.
    """
    path = source / "config.json"
    if not source.is_dir():
        raise ModelError(f"{source}: no such folder; expected that of a checkpoint")
    check_folder(source, str(source))
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; expected the folder of a checkpoint") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: holds a JSON {type(config).__name__}; expected the settings of a model")
    if config.get("model_type") == "clip":
        return _clip_plan(source)
    if "mm_projector_type" in config:
        return _llava_plan(source, config, clip)
    raise ModelError(
        f"{path}: neither an original LLaVA-1.5 (no mm_projector_type) nor a CLIP model (model_type "
        f"{config.get('model_type')!r}); nothing to convert"
    )


def _llava_plan(source: Path, config: Mapping[str, Any], clip: str | None) -> Plan:
    _check_settings(source, config)
    language = LlamaConfig(**{key: config[key] for key in _LANGUAGE if config.get(key) is not None})
    shapes: dict[str, tuple[int, ...]] = {}
    origin: dict[str, tuple[Path, str]] = {}
    twice = collect(tensor_files(source), _renamed, origin, shapes)
    inside = any(name.startswith(_NAMES[_TOWER]) for name in origin)
    trained = config.get("unfreeze_mm_vision_tower") or "mm_vision_tower" in str(config.get("mm_tunable_parts"))
    if trained and not inside:
        raise ModelError(
            f"{source}: its vision tower was trained along (config.json), and is not among its tensors; that of "
            f"{config.get('mm_vision_tower')} would be another"
        )
    folder, vision = _vision(source, config, clip, inside)
    if not inside:
        assert folder is not None, "without the tower's tensors a CLIP folder was asked for"
        twice += collect(tensor_files(folder), _vision_alone, origin, shapes)

    with torch.device("meta"):
        towers = {
            "language_model.": LlamaForCausalLM(language).state_dict(),
            _NAMES[_TOWER]: {_INNER.sub("", k): v for k, v in CLIPVisionModel(vision).state_dict().items()},
        }
    expected = {prefix + name: tuple(t.shape) for prefix, state in towers.items() for name, t in state.items()}
    width, seen = language.hidden_size, vision.hidden_size
    for layer, size in (("linear_1", seen), ("linear_2", width)):
        expected |= {
            f"multi_modal_projector.{layer}.weight": (width, size),
            f"multi_modal_projector.{layer}.bias": (width,),
        }
    compare(source, expected, shapes, twice)

    vocabulary = language.vocab_size
    tokenizer = load_tokenizer(source, vocabulary)
    num_rows = -(-(vocabulary + 2) // MULTIPLE) * MULTIPLE
    file, name = origin["multi_modal_projector.linear_1.bias"]
    with reading(file) as tensors:
        dtype = tensors.tensor(name).dtype
    language.vocab_size = num_rows
    more: dict[str, Any] = {"pad_token_id": vocabulary + 1}  # not among the declared fields, but read by transformers
    whole = LlavaConfig(
        text_config=language,
        vision_config=vision,
        image_token_index=vocabulary,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
        dtype=dtype,
        **more,
    )
    ends = {"bos_token_id": language.bos_token_id, "eos_token_id": language.eos_token_id}

    def write_rest(out: Path) -> None:
        whole.save_pretrained(out)
        GenerationConfig(**ends, pad_token_id=vocabulary + 1).save_pretrained(out)
        write_processor(out, tokenizer, vision, folder)

    return Plan(origin, shapes, write_rest, dict.fromkeys(_VOCABULARY, num_rows))


def _check_settings(source: Path, config: Mapping[str, Any]) -> None:
    """Refuse what is not carried over and may matter: every key must be understood, or known to change nothing."""
    where = f"{source}/config.json"
    for key, meant in _MEANT.items():
        if config.get(key) not in meant:
            raise ModelError(f"{where}: {key} is {config.get(key)!r}; expected {meant[0]!r}, LLaVA-1.5's")
    if unknown := sorted(config.keys() - {*_MEANT, *_LANGUAGE, *_HARMLESS}):
        raise ModelError(
            f"{where}: {unknown[0]} is {config[unknown[0]]!r:.80}, a key that no LLaVA-1.5 has and that may change "
            f"what the model computes{f' ({len(unknown) - 1} more)' if unknown[1:] else ''}; remove what does not"
        )
    scaling = config.get("rope_scaling")
    if scaling is not None and not _is_linear(scaling):
        raise ModelError(f"{where}: rope_scaling is {scaling!r:.80}; expected null, or type 'linear' and a factor")


def _is_linear(scaling: Any) -> bool:
    """Whether positions are divided by a factor and nothing else, the one way that LLaVA's Llama and today's share."""
    if not isinstance(scaling, dict) or not scaling.keys() <= {"type", "rope_type", "factor"}:
        return False
    kinds = {scaling[key] for key in ("type", "rope_type") if key in scaling}
    return kinds == {"linear"} and isinstance(scaling.get("factor"), int | float) and scaling["factor"] >= 1


def _clip_plan(source: Path) -> Plan:
    config = AutoConfig.from_pretrained(source, local_files_only=True)
    load_clip_processor(str(source))  # as good in the result, where the same files are
    shapes: dict[str, tuple[int, ...]] = {}
    origin: dict[str, tuple[Path, str]] = {}
    twice = collect(tensor_files(source), lambda name: None if BUFFERS.search(name) else name, origin, shapes)
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in CLIPModel(config).state_dict().items()}
    compare(source, expected, shapes, twice)

    def write_rest(out: Path) -> None:
        for name in _CLIP_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, out / name)

    return Plan(origin, shapes, write_rest)


def _renamed(name: str) -> str | None:
    """The result's name of an original's tensor, None for what is not copied; unknown names stay as they are."""
    if BUFFERS.search(name):
        return None
    for old, new in _NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _vision_alone(name: str) -> str | None:
    """The same of a CLIP model's tensor: its vision half, without the projection."""
    if BUFFERS.search(name) or not _INNER.search(name):
        return None
    return _NAMES[_TOWER] + _INNER.sub("", name)


def _vision(source: Path, config: Mapping[str, Any], clip: str | None, inside: bool) -> tuple[Path | None, Any]:
    """The CLIP folder, if one is at hand, and its vision half's configuration."""
    named = str(config.get("mm_vision_tower"))
    folder: Path | None = None
    if clip is not None:
        folder = model_folder(clip, "--clip")
    else:
        try:
            folder = model_folder(named, "mm_vision_tower")
        except ModelError as error:
            if not inside:
                raise ModelError(f"{source}: holds no vision tower of its own; name it by --clip ({error})") from None
    if folder is not None:
        vision = getattr(AutoConfig.from_pretrained(folder, local_files_only=True), "vision_config", None)
        if not isinstance(vision, CLIPVisionConfig):
            raise ModelError(f"{folder}: no CLIP model; expected the one of {named}")
        return folder, vision
    if named.rsplit("/", 1)[-1] != "clip-vit-large-patch14-336":
        raise ModelError(f"{source}: the sizes of its vision tower {named} are not known here; name it by --clip")
    return None, CLIPVisionConfig(**_VIT_L_336)
