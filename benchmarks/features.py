"""Identity features by CLIP ViT-L/14's text half: one text at a time, in fixed batches, and found again.

    python benchmarks/features.py                       # about five minutes of one core
    python benchmarks/features.py --texts 40000 --words 6 30

Random weights of the published sizes, and texts of so many words drawn evenly (a word is a token). One process, one
thread. The first run computes what the cache lacks and keeps it; the second, which starts from nothing but the texts
and the cache, finds it: the digest of the weights, the keys of the texts, the segments read and checked.

    alone      every text by itself, as they used to be
    first      in batches of one size, texts of one length together, and written to the cache
    second     found
    equal      whether all three give the same bits
"""

import argparse
import json
import random
import string
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from fcit_ray.cli.common import console
from fcit_ray.data.loading.feature_maker import FeatureMaker, Item
from fcit_ray.data.loading.features import text_key
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.models.identity import clip
from fcit_ray.models.identity.cache import FeatureCache
from fcit_ray.models.identity.digest import encoder_digest

VOCABULARY = 49408
LETTERS = string.ascii_lowercase + string.digits
PICTURES = {"crop_size": 336, "size": 336, "do_resize": True, "do_center_crop": True, "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}  # fmt: skip


def write_clip(folder: Path) -> Path:
    """The text half of a CLIP of ViT-L/14's sizes, 0.5 GB, with a tokenizer to which every letter is a word."""
    pieces = [*bytes_to_unicode().values(), *(f"{letter}</w>" for letter in bytes_to_unicode().values())]
    pieces += [f"<filler-{n}>" for n in range(VOCABULARY - len(pieces) - 2)] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
             "vocab_size": VOCABULARY, "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1}  # fmt: skip
    config = CLIPConfig(text_config=sizes, projection_dim=768)
    config.save_pretrained(folder)
    torch.manual_seed(0)
    weights = CLIPTextModel(config.text_config).state_dict()
    prefix = "text_model."
    save_file({prefix + name.removeprefix(prefix): value.contiguous() for name, value in weights.items()},
              folder / "model.safetensors", {"format": "pt"})  # fmt: skip
    return folder


def draw_texts(number: int, least: int, most: int) -> list[str]:
    """Different texts of `least` to `most` words."""
    draw = random.Random(0)
    texts: dict[str, None] = {}
    while len(texts) < number:
        texts[" ".join(draw.choices(LETTERS, k=draw.randint(least, most)))] = None
    return list(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--words", type=int, nargs=2, default=(6, 30), metavar=("LEAST", "MOST"))
    parser.add_argument("--alone", type=int, default=200, help="texts that are also encoded by themselves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_clip(Path(folder) / "clip")
        time.sleep(2.1)  # files younger than that are not trusted to stay as they are
        for row in measure(path, Path(folder) / "cache", draw_texts(options.texts, *options.words), options.alone):
            console.print(row)


def measure(path: Path, cache_folder: Path, texts: list[str], num_alone: int) -> list[str]:
    """What is printed."""
    encoder = SampleEncoder("", "tiny", "bare", 512, "text", str(path))

    def compute(chosen: list[str]) -> tuple[np.ndarray, float]:
        maker = FeatureMaker(encoder, "text", "cpu")
        began = time.process_time()
        features = maker.make([Item(text_key(text), text, "") for text in chosen])
        return features, time.process_time() - began

    rows = dict(clip.ROWS)
    clip.ROWS["cpu"] = 1
    alone, alone_s = compute(texts[:num_alone])
    clip.ROWS.update(rows)

    def cache() -> FeatureCache:
        digest = encoder_digest("tiny", str(path), "text", "cpu", memo=cache_folder)
        return FeatureCache(cache_folder, digest, 2**32)

    first, first_s = compute(texts)
    began = time.process_time()
    kept = cache()
    for start in range(0, len(texts), 512):
        kept.add({text_key(text): row for text, row in zip(texts[start:], first[start : start + 512], strict=False)})
    kept.tidy()
    write_s = time.process_time() - began
    began = time.process_time()
    found: dict[bytes, Any] = cache().find([text_key(text) for text in texts])
    second_s = time.process_time() - began
    second = np.stack([found[text_key(text)] for text in texts])
    equal = np.array_equal(first, second) and np.array_equal(alone, first[: len(alone)])
    return [
        f"alone   {alone_s / len(alone) * 1000:7.1f} ms of a CPU a text",
        f"first   {first_s / len(texts) * 1000:7.1f} ms, {first_s:.0f} s of all; kept in {write_s:.1f} s",
        f"second  {second_s / len(texts) * 1000:7.3f} ms, {second_s:.2f} s: {second_s / first_s:.2%} of the first",
        f"equal   {equal}",
    ]


if __name__ == "__main__":
    main()
