"""A model folder with the files of `openai/clip-vit-large-patch14-336`, every size but its 77 tokens cut down.

Random weights would tell no texts apart: they differ by little beside what the layers make of any text. So the text
half's attention looks at all tokens alike, and what it finds is handed on as it is, by random values of the words: an
instruction's feature is nearly the mean of its words, as instructions of one data set share most of theirs. The same
weights at every call.
"""

import json
import re
from pathlib import Path

import clip_like
import torch
from authors_root import texts
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH, TOKENS = 48, 77
PICTURES = {**clip_like.PICTURES, "crop_size": 56, "size": 56}


def write_tiny_clip(folder: Path) -> Path:
    """Write the folder and return it."""
    vocabulary, merges = _vocabulary()
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TOKENS,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    }
    with torch.random.fork_rng():
        torch.manual_seed(16)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
        _average_words(model)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def _average_words(model: CLIPModel) -> None:
    embeddings = model.text_model.embeddings
    embeddings.token_embedding.weight.normal_()
    embeddings.token_embedding.weight[-2:] = 0  # the begin and the end, where the feature is read, say nothing
    embeddings.position_embedding.weight.mul_(0.1)
    for layer in model.text_model.encoder.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        layer.self_attn.v_proj.weight.copy_(torch.eye(WIDTH))
        layer.self_attn.out_proj.weight.copy_(torch.eye(WIDTH))


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """All bytes alone and at a word's end, and the words of the authors' root, each merged letter by letter."""
    letters = list(bytes_to_unicode().values())
    pieces, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    words = {word for line in texts() for word in re.findall(r"[a-z]+", line.lower())}
    for word in sorted(words):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(1, len(parts)):
            merges.append(("".join(parts[:end]), parts[end]))
    merges = list(dict.fromkeys(merges))
    pieces += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, merges
