"""A stand-in model folder whose tokenizer can be followed by hand, and faultless records to spoil one at a time."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
WORDS = ["USER:", "ASSISTANT:", "which", "colour", "and", "shape", "?", "red", "dark", "blue", "square"]
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}


def write_model(folder: Path, style: str = "words") -> Path:
    """Write a processor and its embeddings: 8 px images in patches of 4 (so 4 image tokens), one token a word.

    In style `spaced` a token takes the space before it along; in style `llama` there is a token a character, a mark
    for every space and one more before every piece of text, and several byte tokens for a character unheard of.
    """
    if style == "llama":
        pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127)), "\u2581"]
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        spaced = style == "spaced"
        vocabulary = {f" {word}" if spaced and word in WORDS else word: index for word, index in VOCABULARY.items()}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = (
            pre_tokenizers.Split(Regex(r"\s?\S+"), "isolated") if spaced else pre_tokenizers.WhitespaceSplit()
        )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = LlavaProcessor(
        images, fast, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.save_pretrained(folder)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {
        "model_type": "llava",
        "image_token_index": 4,
        "text_config": {"model_type": "llama", "vocab_size": len(vocabulary), "pad_token_id": 0, **small},
        "vision_config": {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **small},
    }
    (folder / "config.json").write_text(json.dumps(config))
    table = torch.eye(len(vocabulary))  # a text's feature is then its word counts over its length
    save_file({"language_model.model.embed_tokens.weight": table}, folder / "model.safetensors")
    return folder


def training(name: str = "0", image: str = "ImageNet-R/train/a.png", **changes: Any) -> dict[str, Any]:
    """One faultless training record of the authors' format, with changes."""
    conversation = [{"from": "human", "value": "<image>\nwhich colour ?"}, {"from": "gpt", "value": "red"}]
    return {"id": name, "image": image, "conversations": conversation, **changes}


def question(name: str = "0", image: str = "ImageNet-R/train/a.png", **changes: Any) -> dict[str, Any]:
    """One faultless test record of the authors' format, with changes."""
    return {"question_id": name, "image": image, "text": "which colour ?", "answer": "red", **changes}
