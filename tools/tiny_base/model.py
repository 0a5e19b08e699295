"""A LLaVA of about a million parameters: the architecture, tokenizer and processor are LLaVA's own, only small.

Shipped pre-trained in `fcit_ray/assets/tiny_llava`; `tools.tiny_base.pretrain` makes that folder. Everything
downstream loads it with `from_pretrained`, as it loads LLaVA-1.5-7B.
"""

import functools
import random
import string

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from fcit_ray.data.miniature.scenes import CELL, SIDE
from fcit_ray.data.miniature.tasks import TASKS
from tools.tiny_base.lessons import make_lesson

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, UNK, IMAGE = range(len(SPECIALS))
SPACE = "\u2581"  # SentencePiece's mark for a space, as in Llama's own vocabulary
WORD_SCALE = 4.0  # length of an input embedding at the start
MAX_TOKENS = 1024  # room for long real questions, which fall back to characters


@functools.cache
def words() -> list[str]:
    """Every word of the benchmark and the lessons, as the tokenizer meets it: with the space before it, if any."""
    texts = []
    for task in TASKS.values():
        for label in task.labels:
            for number in range(-(-240 // len(task.labels))):
                example = task.build(random.Random(f"words {task.name} {label} {number}"), label)
                texts += [text for turn in example.turns for text in turn] + list(example.references)
    for number in range(6000):
        for question in make_lesson(random.Random(f"words {number}")).questions:
            texts += [question.text, question.answer]
    found = set()
    for text in texts:
        for part in f"\n{text} ASSISTANT: {text}".replace(" ", SPACE).replace("\n", f"\n{SPACE}\n").split(SPACE):
            bare = "".join(c if c in string.ascii_letters else " " for c in part).split()
            found.update(bare)
    # a word after a line break, an opening quote or a dash has no space before it
    return sorted(f"{mark}{word}" for word in found | {"USER", "ASSISTANT"} for mark in (SPACE, "") if len(word) > 1)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words first, then single characters, then bytes: any text has tokens, none is unknown.

    Decoding gives back the text exactly, case and spaces included. Digits are tokens of their own.
    """
    characters = [c for c in string.printable if c not in " \r\x0b\x0c"]
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *characters]
    pieces += [f"{SPACE}{c}" for c in string.ascii_letters + string.digits]
    scores = dict.fromkeys(pieces, -10.0) | dict.fromkeys(words(), -1.0)
    # the best segmentation has the highest sum: one word beats its letters, a letter beats its bytes
    core = Tokenizer(models.Unigram(list(scores.items()), unk_id=UNK, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", SPACE)
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(SPACE, "merged_with_next"),
        ]
    )
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=MAX_TOKENS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    """LLaVA's processor: pads a photograph to a square, shrinks it to 64 pixels, and opens one place a patch."""
    image = LlavaImageProcessorPil(
        do_pad=True,
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image,
        tokenizer=build_tokenizer(),
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which the strategy "default" drops again
        image_token="<image>",
    )


def word_table(tokenizer: PreTrainedTokenizerFast, width: int, seed: int) -> Tensor:
    """Rows of length one for every token, (V, D): random, but forms of one word lie near each other.

    "cube", " cube", "cubes" and "Cube" share most of their direction (cosine about 0.7), as they would in a table
    that had read a lot; all others are nearly orthogonal.
    """
    draw = torch.Generator().manual_seed(seed)
    stems: dict[str, int] = {}
    rows = []
    for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))):
        word = token.removeprefix(SPACE)
        # a single letter is an option's name when it is a capital, and a word or a spelling when it is not
        stem = word.lower().removesuffix("s") if len(word) > 2 else word
        rows.append(stems.setdefault(stem, len(stems)))
    shared = F.normalize(torch.randn(len(stems), width, generator=draw), dim=1)
    own = F.normalize(torch.randn(len(rows), width, generator=draw), dim=1)
    return F.normalize(0.85 * shared[torch.tensor(rows)] + 0.53 * own, dim=1)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights, in float32; what it reads and what it writes start from one `word_table`.

    Args:
        tokenizer: of `build_tokenizer`.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=CELL,
        projection_dim=96,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.05,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=(SIDE // CELL) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    config.initializer_range = 0.05  # of the projector
    model = LlavaForConditionalGeneration(config)
    table = word_table(tokenizer, text.hidden_size, seed)
    with torch.no_grad():
        # words outweigh what random layers add to them, or the first thousands of steps go into unearthing them
        model.model.language_model.embed_tokens.weight.copy_(WORD_SCALE * table)
        model.lm_head.weight.copy_(table)
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.mul_(0.3)
            layer.mlp.down_proj.weight.mul_(0.3)
    model.generation_config.pad_token_id = PAD
    model.generation_config.bos_token_id = BOS
    model.generation_config.eos_token_id = EOS
    return model
