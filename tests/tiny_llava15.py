"""A model folder with the files, settings and tensor names of `llava-hf/llava-1.5-7b-hf`, every size cut down.

As there: CLIP's tower read at its last but one layer without the class token, a projector of two layers with GELU, a
Llama, a SentencePiece-like vocabulary with bytes to fall back on, `<image>` and `<pad>` behind it, a table of
embeddings padded to a multiple of 64, weights in float16 in several files. Random weights, the same at every call.

Random weights would talk on until `max_new_tokens`. So one entry of the residual stream (`STOP`) is kept for the end
of an answer: no layer writes to it, the embedding of every token but the colon of "ASSISTANT:" says stop there, and
`</s>` alone listens. An answer is thus one token long (a little training does not change that).
"""

import json
import re
import string
from pathlib import Path
from typing import Any

import torch
from authors_root import texts
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fcit_ray.models.prompt import SYSTEM

SPACE = "\u2581"
UNK, BOS, EOS = 0, 1, 2
STOP = 0  # the entry of the residual stream that ends an answer
IMAGE_SIDE, PATCH = 56, 14
IMAGE_TOKENS = (IMAGE_SIDE // PATCH) ** 2
WIDTH, FFN, LAYERS, VISION_WIDTH = 64, 96, 2, 32


def write_tiny_llava15(folder: Path) -> Path:
    """Write the folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = _vocabulary()
    image, pad = len(vocabulary), len(vocabulary) + 1
    size = -(-(pad + 1) // 64) * 64
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=IMAGE_SIDE,
            patch_size=PATCH,
            projection_dim=24,
        ),
        text_config=LlamaConfig(
            vocab_size=size,
            hidden_size=WIDTH,
            intermediate_size=FFN,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            initializer_range=0.15,
            pad_token_id=pad,
        ),
        image_token_index=image,
        pad_token_id=pad,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    _save(_weights(config, vocabulary), folder)
    _dump(folder / "config.json", _config(config, size))
    _dump(
        folder / "generation_config.json",
        {"_from_model_config": True, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": pad},
    )
    _write_processor(folder, vocabulary, merges)
    return folder


def _weights(config: Any, vocabulary: dict[str, int]) -> LlavaForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(15)
        model = LlavaForConditionalGeneration(config)
    language = model.model.language_model
    with torch.no_grad():
        language.embed_tokens.weight.mul_(4)
        for layer in language.layers:
            layer.self_attn.o_proj.weight[STOP] = 0
            layer.mlp.down_proj.weight[STOP] = 0
        language.embed_tokens.weight[:, STOP] = 0.5
        language.embed_tokens.weight[vocabulary[f"{SPACE}ASSISTANT:"], STOP] = -0.5
        model.lm_head.weight[:, STOP] = 0
        model.lm_head.weight[EOS] = 0
        model.lm_head.weight[EOS, STOP] = 100
    return model


def _save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Float16 in two files with an index, under the names that the hub's files have, whatever transformers calls them
    today."""
    hub = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in model.state_dict().items():
        prefix = next(prefix for prefix in hub if name.startswith(prefix))
        published = hub[prefix] + name.removeprefix(prefix).removeprefix("vision_model.")
        number = 2 if ".layers.1." in published or "lm_head" in published else 1
        part = parts.setdefault(f"model-{number:05d}-of-00002.safetensors", {})
        part[published] = value.detach().half().contiguous()
    for file, tensors in parts.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    total = sum(value.nbytes for tensors in parts.values() for value in tensors.values())
    where = {name: file for file, tensors in parts.items() for name in tensors}
    _dump(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _config(config: Any, size: int) -> dict[str, Any]:
    """`config.json` with the entries that the hub's has, no others."""
    vision, text = config.vision_config, config.text_config
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": config.image_token_id,
        "model_type": "llava",
        "pad_token_id": text.pad_token_id,
        "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": text.max_position_embeddings,
            "model_type": "llama",
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "rms_norm_eps": text.rms_norm_eps,
            "torch_dtype": "float16",
            "vocab_size": size,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_config": {
            "hidden_size": vision.hidden_size,
            "image_size": vision.image_size,
            "intermediate_size": vision.intermediate_size,
            "model_type": "clip_vision_model",
            "num_attention_heads": vision.num_attention_heads,
            "num_hidden_layers": vision.num_hidden_layers,
            "patch_size": vision.patch_size,
            "projection_dim": vision.projection_dim,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": size,
    }


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Llama's order: specials, bytes, then pieces. Every word is merged letter by letter from its start."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [SPACE, *(c for c in string.printable if not c.isspace())]
    spaced: dict[str, None] = {}
    bare: dict[str, None] = {}
    for text in [*SYSTEM.values(), "USER: ASSISTANT:", *texts()]:
        for line in text.split("\n"):
            words = [word for part in line.split(" ") if (word := re.sub(r"[^A-Za-z:-].*", "", part))]
            spaced |= dict.fromkeys(words)
            bare |= dict.fromkeys(words[:1])
    merges: dict[tuple[str, str], None] = {}
    # The space goes to the word behind it before any letters join: all these merges come first.
    merges |= dict.fromkeys((SPACE, word[0]) for word in spaced)
    for word in [*(SPACE + word for word in spaced), *bare]:
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
    pieces += [left + right for left, right in merges]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, list(merges)


def _write_processor(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", BOS)])
    added = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    ids = {tokenizer.token_to_id(token): token for token in added}
    _dump(folder / "added_tokens.json", {token: tokenizer.token_to_id(token) for token in added[3:]})
    _dump(
        folder / "special_tokens_map.json",
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    )
    _dump(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {str(index): {"content": token, **flags} for index, token in ids.items()},
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": False,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": "<pad>",
            "padding_side": "left",
            "processor_class": "LlavaProcessor",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "trust_remote_code": False,
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
    )
    _dump(
        folder / "processor_config.json",
        {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "default",
        },
    )
    _dump(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "CLIPImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "processor_class": "LlavaProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": IMAGE_SIDE},
        },
    )


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))
