"""A whole CLIP model of random weights, as a folder: text half 12 wide, vision half 8 wide, texts of 6 tokens."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

WORDS = ["what", "colour", "is", "the", "dog", "?"]
VISION = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
PICTURES = {  # as CLIP ViT-L/14-336 is published, but for the size
    "crop_size": 8,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 8,
}


def save_clip(folder: Path, binary: bool = False) -> CLIPModel:
    """Write it, as safetensors or as pytorch_model.bin in the old style, with the buffer that files of then have."""
    pieces = ["<|startoftext|>", "<|endoftext|>", *"whatcolurisedg?", *(f"{letter}</w>" for letter in "tresg?")]
    merges = []
    for word in WORDS:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(1, len(letters)):
            merges.append(("".join(letters[:end]), letters[end]))
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)), model_max_length=6)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = {
            "vocab_size": len(vocabulary),
            "hidden_size": 12,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 6,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=4)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    if binary:
        state = {**model.state_dict(), "vision_model.embeddings.position_ids": torch.arange(5)[None]}
        torch.save(state, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"
    return model
