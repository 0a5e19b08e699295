"""Five families of image-text models: the true classes under their true configurations, scaled down to train fast.

Every folder is what a user would download: weights, processor, tokenizer with the family's special tokens, chat
template in the family's format. Language models are 32 wide with two layers; pictures are a few dozen pixels. Text is
one token a byte, so what a record becomes can be followed by eye.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fcit_ray.models.processor import without_video

WIDTH, FFN, LAYERS = 32, 48, 2
_TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Family:
    """One family and what its published models do.

    Attributes:
        name: as docs/how-to/model.md has it.
        write: makes the model folder.
        question: what its template makes of the picture and the question "hi ?", the picture unexpanded, open for the
            answer.
        end: what its template ends an answer with.
        after: what its template puts behind that.
        projector: parameters between vision tower and language model, without their common start.
        language: module path of the language model.
    """

    name: str
    write: Callable[[Path], None]
    question: str
    end: str
    after: str
    projector: tuple[str, ...]
    language: str = "model.language_model"


def byte_tokenizer(specials: list[str], *, bos: str | None = None, **roles: Any) -> hf.PreTrainedTokenizerFast:
    """One token a byte behind the special tokens; `bos` is put in front of every text, as the family does."""
    pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, specials.index(bos))]
        )
        roles["bos_token"] = bos
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **roles)


def _save(folder: Path, model: Callable[[], Any], processor: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = model()
        # Biases and norms of a fresh model are 0 and 1: a layer that is never applied would go unnoticed.
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)


# LLaVA-1.5


def _write_llava(folder: Path) -> None:
    tokenizer = byte_tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        bos="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = hf.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    text = hf.LlamaConfig(vocab_size=len(tokenizer), pad_token_id=3, bos_token_id=1, eos_token_id=2, **_TEXT)
    vision = hf.CLIPVisionConfig(image_size=16, patch_size=8, **_VISION)
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    _save(folder, lambda: hf.LlavaForConditionalGeneration(config), processor)


# LLaVA-OneVision


_ONEVISION = """\
{%- macro turn(m) -%}
<|im_start|>{{ m.role }} {% for part in m.content if part.type == 'image' %}<image>{% endfor %}
{%- for part in m.content if part.type == 'text' %}{{ '\n' + part.text }}{% endfor %}<|im_end|>
{%- endmacro -%}
{%- for m in messages %}{{ turn(m) }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}
"""


def _write_onevision(folder: Path) -> None:
    tokenizer = byte_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )
    grid = [[16, 16], [16, 32], [32, 16], [32, 32]]
    images = LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=grid)
    processor = without_video(hf.LlavaOnevisionProcessor)(
        images, tokenizer, num_image_tokens=4, vision_feature_select_strategy="full", chat_template=_ONEVISION
    )
    text = hf.Qwen2Config(vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=0, bos_token_id=None, **_TEXT)
    vision = hf.SiglipVisionConfig(image_size=16, patch_size=8, vision_use_head=False, **_VISION)
    config = hf.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=3,
        video_token_index=4,
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    _save(folder, lambda: hf.LlavaOnevisionForConditionalGeneration(config), processor)


# Qwen2.5-VL


_QWEN = """\
{%- for m in messages -%}
{%- if loop.first and m.role != 'system' -%}
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif -%}
{{ '<|im_start|>' + m.role + '\n' }}
{%- for part in m.content -%}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif -%}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}
"""
_QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_QWEN_TOKENS += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def _write_qwen(folder: Path) -> None:
    tokenizer = byte_tokenizer(_QWEN_TOKENS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=64 * 12)
    processor = without_video(hf.Qwen2_5_VLProcessor)(images, tokenizer, chat_template=_QWEN)
    text = _TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4}
    vision |= {"out_hidden_size": WIDTH, "window_size": 16, "fullatt_block_indexes": [1]}
    config = hf.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text | {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2},
        vision_start_token_id=3,
        vision_end_token_id=4,
        image_token_id=5,
        video_token_id=6,
    )
    _save(folder, lambda: hf.Qwen2_5_VLForConditionalGeneration(config), processor)


# SmolVLM: Idefics 3 with a small language model


_IDEFICS = """\
<|im_start|>
{%- for m in messages -%}
{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}
{%- for part in m.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor -%}
{{ '<end_of_utterance>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}Assistant:{% endif -%}
"""


def _write_smolvlm(folder: Path) -> None:
    rows = [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    tokens = ["<|im_end|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
    tokenizer = byte_tokenizer(
        [*tokens, "<global-img>", *rows],
        eos_token="<end_of_utterance>",
        bos_token="<|im_start|>",
        pad_token="<|im_end|>",
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    processor = hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=_IDEFICS)
    text = _TEXT | {"model_type": "llama", "vocab_size": len(processor.tokenizer), "pad_token_id": 0}
    config = hf.Idefics3Config(
        vision_config={"image_size": 16, "patch_size": 4, **_VISION},
        text_config=text | {"bos_token_id": 1, "eos_token_id": 2},
        image_token_id=4,
        pad_token_id=0,
        scale_factor=2,
    )
    _save(folder, lambda: hf.Idefics3ForConditionalGeneration(config), processor)


# Gemma 3


_GEMMA = """\
{{- bos_token -}}
{%- for m in messages -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{%- for part in m.content -%}
{%- if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}{% endif -%}
{%- endfor -%}
{{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif -%}
"""
_GEMMA_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
_GEMMA_TOKENS += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]


def _write_gemma(folder: Path) -> None:
    images = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = byte_tokenizer(
        _GEMMA_TOKENS,
        bos="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=images,
    )
    processor = hf.Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer,
        image_seq_length=4,
        chat_template=_GEMMA,
    )
    text = _TEXT | {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8, "pad_token_id": 0}
    config = hf.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 4, **_VISION},
        text_config=text | {"vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 1},
        mm_tokens_per_image=4,
        boi_token_index=6,
        eoi_token_index=7,
        image_token_index=8,
        eos_token_id=[1, 5],
    )
    _save(folder, lambda: hf.Gemma3ForConditionalGeneration(config), processor)


_TWO_LAYERS = ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")
FAMILIES = (
    Family(
        "LLaVA-1.5",
        _write_llava,
        "USER: <image>\nhi ? ASSISTANT:",
        "</s>",
        "",
        tuple(f"model.multi_modal_projector.{name}" for name in _TWO_LAYERS),
    ),
    Family(
        "LLaVA-OneVision",
        _write_onevision,
        "<|im_start|>user <image>\nhi ?<|im_end|><|im_start|>assistant\n",
        "<|im_end|>",
        "",
        ("model.image_newline", *(f"model.multi_modal_projector.{name}" for name in _TWO_LAYERS)),
    ),
    Family(
        "Qwen2.5-VL",
        _write_qwen,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>hi ?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
        "\n",
        tuple(
            f"model.visual.merger.{name}"
            for name in ("ln_q.weight", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
        ),
    ),
    Family(
        "SmolVLM",
        _write_smolvlm,
        "<|im_start|>User:<image>hi ?<end_of_utterance>\nAssistant:",
        "<end_of_utterance>",
        "\n",
        ("model.connector.modality_projection.proj.weight",),
        language="model.text_model",
    ),
    Family(
        "Gemma 3",
        _write_gemma,
        "<bos><start_of_turn>user\n<start_of_image>hi ?<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
        "\n",
        tuple(
            f"model.multi_modal_projector.{name}" for name in ("mm_input_projection_weight", "mm_soft_emb_norm.weight")
        ),
    ),
)
