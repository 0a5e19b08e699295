"""The tokenizer and the processor of a converted LLaVA-1.5.

Vicuna's vocabulary comes as a sentencepiece model (`tokenizer.model`). transformers builds its fast tokenizer from it;
the `convert` extra has what it needs for that. Both are then compared on text of every kind.
"""

import importlib.util
from pathlib import Path
from typing import Any

from transformers import (
    AddedToken,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaTokenizer,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from fcit_ray.errors import ModelError
from fcit_ray.models.load import load_processor
from fcit_ray.models.prompt import IMAGE_TOKEN, SYSTEM
from fcit_ray.storage.files import read_json

PAD_TOKEN = "<pad>"

_PROBES = (
    f"{SYSTEM['vicuna_v1']} USER:",
    "\nWhat is 12 + 305?  Answer with the option's letter.\nA. x\u00b2\nB. \u4e94 ASSISTANT: A",
    "[0.12, 0.5, 1.0, 0.333]",
    "na\u00efve caf\u00e9 \U0001f642",
)


def load_tokenizer(source: Path, vocab_size: int) -> Any:
    """The fast tokenizer of an original checkpoint, with `<image>` and `<pad>` behind its vocabulary.

    Raises:
        ModelError: no tokenizer, or one that does not fit the model.
    """
    pieces, ready = source / "tokenizer.model", source / "tokenizer.json"
    if not ready.is_file():
        if not pieces.is_file():
            raise ModelError(f"{source}: neither tokenizer.model nor tokenizer.json")
        if importlib.util.find_spec("sentencepiece") is None:
            raise ModelError(f"{pieces}: needs sentencepiece to be read; pip install 'fcit_ray[convert]'")
    settings = source / "tokenizer_config.json"
    # What the original's transformers took where nothing was said.
    legacy = read_json(settings).get("legacy", True) if settings.is_file() else True
    llama: Any = LlamaTokenizer.from_pretrained(
        source, legacy=bool(legacy), add_bos_token=True, add_eos_token=False, local_files_only=True
    )
    if len(llama) != vocab_size:
        raise ModelError(f"{source}: {len(llama)} tokens for vocab_size={vocab_size} in config.json")
    if pieces.is_file() and importlib.util.find_spec("sentencepiece") is not None:
        _compare(pieces, llama)
    # Saved as a LlamaTokenizer it would be built anew when it is loaded, and `legacy` is not among what is saved.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=llama.backend_tokenizer,
        bos_token=llama.bos_token,
        eos_token=llama.eos_token,
        unk_token=llama.unk_token,
        model_max_length=llama.model_max_length,
    )
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken(PAD_TOKEN, special=True, normalized=False)})
    assert tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, PAD_TOKEN]) == [vocab_size, vocab_size + 1]
    return tokenizer


def write_processor(out: Path, tokenizer: Any, vision: CLIPVisionConfig, clip: Path | None) -> None:
    """Write tokenizer and image processor; the latter is the CLIP folder's own, or CLIP's usual one at its size.

    Raises:
        ModelError: what was written does not load as it was.
    """
    assert isinstance(vision.image_size, int), "CLIP looks at squares"
    size = vision.image_size
    if clip is not None and (clip / "preprocessor_config.json").is_file():
        images: Any = CLIPImageProcessorPil.from_pretrained(clip, local_files_only=True)
    else:
        images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    ).save_pretrained(out)
    read = load_processor(str(out)).tokenizer
    for probe in (*_PROBES, f"USER: {IMAGE_TOKEN}\nx ASSISTANT: y</s>USER: z"):
        if read(probe)["input_ids"] != tokenizer(probe)["input_ids"]:
            raise ModelError(f"{out}: its tokenizer, once written, cuts {probe!r} otherwise; another transformers?")


def _compare(pieces: Path, tokenizer: Any) -> None:
    from sentencepiece import SentencePieceProcessor

    original = SentencePieceProcessor(model_file=str(pieces))
    for probe in _PROBES:
        expected, found = original.encode(probe), tokenizer(probe, add_special_tokens=False)["input_ids"]
        if expected != found:
            raise ModelError(f"{pieces}: the fast tokenizer cuts {probe!r} into {found}; sentencepiece into {expected}")
