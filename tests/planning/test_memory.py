"""The memory plan: published sizes of LLaVA-1.5, sums by hand, and formulas held to what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
import transformers as hf
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fcit_ray.config.schema import Model
from fcit_ray.models.bank import AdapterBank
from fcit_ray.planning.answering import largest_answer_batch
from fcit_ray.planning.fitting import smallest_change
from fcit_ray.planning.memory import Load, activation_bytes, layer_bytes, memory, rest_bytes
from fcit_ray.planning.shapes import Shapes, read_shapes, tiles_of
from fcit_ray.planning.speed import step_flops
from fcit_ray.types import Assignment

RANK, VOCABULARY, PICTURE = 4, 60, 16


def llava(width: int, ffn: int, layers: int, heads: int, vocabulary: int = 32064, key_heads: int | None = None):
    """LLaVA-1.5's configuration, as llava-hf publishes it, at any size of the language model."""
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads or heads,
    )  # fmt: skip
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-2)


def shapes_of(config: LlavaConfig) -> Shapes:
    with torch.device("meta"):
        base = LlavaForConditionalGeneration(config)
    text = config.text_config
    width, ffn = text.hidden_size, text.intermediate_size
    ffns = {"gate": (width, ffn), "up": (width, ffn), "down": (ffn, width)}
    adapted = {f"{k}.{name}": size for k in range(text.num_hidden_layers) for name, size in ffns.items()}
    return read_shapes(base, adapted)


@pytest.fixture(scope="module")
def seven():
    return shapes_of(llava(4096, 11008, 32, 32))


def test_llava_7b_and_13b_have_the_published_sizes(seven):
    # Llama-2-7B has 6,738,415,616 with 32,000 words; llava-hf pads to 32,064: 64 rows more in the embeddings and in the
    # head, 2 * 64 * 4096 = 524,288. Projector 1024 -> 4096 -> 4096 with biases: 4,198,400 + 16,781,312.
    # CLIP ViT-L/14-336: 24 layers of 4 (1024^2 + 1024) + (1024 * 4096 + 4096) + (4096 * 1024 + 1024) + 4 * 1024
    # = 12,596,224 each; class 1024, patches 3 * 14 * 14 * 1024, positions 577 * 1024, two norms of 2048.
    tower = 24 * 12_596_224 + 1024 + 602_112 + 590_848 + 2 * 2048
    assert (seven.language, seven.projector, seven.vision) == (6_738_415_616 + 524_288, 20_979_712, tower)
    assert round(seven.base / 1e9, 2) == 7.06
    thirteen = shapes_of(llava(5120, 13824, 40, 40))
    # Llama-13B: 13,015,864,320, and 2 * 64 * 5120 more; projector 1024 -> 5120 -> 5120: 5,248,000 + 26,219,520.
    assert (thirteen.language, thirteen.projector) == (13_015_864_320 + 655_360, 31_467_520)
    assert round(thirteen.base / 1e9, 2) == 13.35
    # Four bits take the decoder's linear layers: a layer of 4 * 4096^2 + 3 * 4096 * 11008.
    assert seven.linear == 32 * (4 * 4096**2 + 3 * 4096 * 11008)


def test_the_weights_of_a_7b_by_hand(seven):
    load = Load(
        batch=1, tokens=100, answer_tokens=10, trained=30_000_000, held=100_000_000, packed=90_000_000, rank=8,
        dropout=True, answer_batch=2, new_tokens=28,
    )  # fmt: skip
    need = memory(seven, load)
    # Two bytes a frozen weight; the projector is among the float32 ones.
    assert need.base == 2 * (seven.base - seven.projector)
    assert (need.adapters, need.gradients, need.moments) == (4 * 190_000_000, 120_000_000, 240_000_000)
    # 2 questions of 128 tokens at last: keys and values of 32 layers of 4096 bfloat16 each; and one layer's FFN.
    assert need.cache == 2 * 128 * 2 * 32 * 4096 * 2 + 2 * 100 * 3 * 2 * 11008
    # 10 positions of 32,064 words: bfloat16, float32 and float32.
    assert need.logits == 10 * 32_064 * 10
    # A token keeps in a layer: norms 2 (4 * 4096 + 4); attention 2 * 4 * 4096 + 4 * 32, mask 2 * 100; FFN 6 * 11008;
    # LoRA 3 (4096 + 4096 + 11008) with a byte of dropout's mask each, and 3 * 2 * 8.
    layer = 32_776 + 32_768 + 128 + 200 + 66_048 + 57_600 + 48
    assert layer_bytes(seven, load) == 100 * layer
    # 4 bits, a byte for 64 weights, a float32 for 64 * 256: 0.51587 bytes instead of 2.
    assert memory(seven, replace(load, four_bit=True)).base == pytest.approx(need.base - 1.484131 * seven.linear, 1e-6)


def saved(half: bool, dropout: float, key_heads: int, padded: bool) -> tuple[float, Shapes, Load]:
    """Bytes that autograd keeps of one training forward pass of a small LLaVA, by distinct storage."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=key_heads, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    base = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=3))
    if half:
        base = base.to(torch.bfloat16)
    config = Model(rank=RANK, dropout=dropout, dtype="bfloat16" if half else "float32")
    bank = AdapterBank(base, config, 1, 0)
    trained = bank.activate(Assignment(train=(0,)), with_projector=True)
    bank.model.train()
    batch, tokens, answer = 4, 70, 9
    ids = torch.randint(4, VOCABULARY, (batch, tokens))
    ids[:, :PICTURE] = 3
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = ids[:, -answer:]
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -5:] = 0
    frozen = {p.untyped_storage().data_ptr() for p in bank.model.parameters()}
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in frozen:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    pictures = torch.randn(batch, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bank.forward({"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pictures})
    load = Load(
        batch=batch, tokens=tokens, answer_tokens=answer + 1, trained=sum(p.numel() for p in trained.values()),
        held=0, packed=0, rank=RANK, dropout=dropout > 0, half=half, cuda=False, padded=padded,
    )  # fmt: skip
    return sum(t.untyped_storage().nbytes() for t in seen.values()), read_shapes(bank.model, bank.layers), load


@pytest.mark.parametrize(
    ("half", "dropout", "key_heads", "padded"),
    [(True, 0.1, 4, True), (True, 0.0, 2, False), (False, 0.1, 2, True), (False, 0.0, 4, False)],
)
def test_the_activation_formula_is_what_autograd_keeps(half, dropout, key_heads, padded):
    kept, shapes, load = saved(half, dropout, key_heads, padded)
    # The loss keeps the logarithms of softmax, float32.
    logits = load.batch * load.answer_tokens * VOCABULARY * 4
    expected = shapes.layers * layer_bytes(shapes, load) + rest_bytes(shapes, load) + logits
    assert kept == pytest.approx(expected, rel=0.03)


# What makes a run fit


def load_7b(**changes) -> Load:
    # DISCO: 8 adapters of rank 8 are 92,798,976 numbers; a client trains one and the projector.
    plain = Load(
        batch=32, tokens=700, answer_tokens=60, trained=11_599_872 + 20_979_712, held=92_798_976 + 20_979_712,
        packed=92_798_976, rank=8, dropout=True, answer_batch=16, new_tokens=128,
    )  # fmt: skip
    return replace(plain, **changes)


def test_checkpointing_is_the_first_change_named(seven):
    # 32 * 700 tokens keep 32 * 0.19 MB each: 136 GB; with checkpointing 262 kB each, and one layer: 10 GB.
    assert memory(seven, load_7b()).total > 140e9
    words, need = smallest_change(seven, load_7b(), 80e9)
    assert words == "train.gradient_checkpointing=true"
    assert need.total < 45e9


def test_then_smaller_micro_batches_then_four_bits_then_more_memory(seven):
    checkpointed = load_7b(checkpointing=True)
    words, need = smallest_change(seven, checkpointed, 24e9)
    assert words == "train.micro_batch_size=8"
    assert need.total <= 24e9
    # 14.1 GB of weights alone do not fit 12 GB, at whatever batch.
    words, need = smallest_change(seven, load_7b(answer_batch=1, batch=1, checkpointing=True), 12e9)
    assert words == "model.quantize=4bit"
    assert need.base < 5e9
    words, need = smallest_change(seven, checkpointed, 3e9)
    assert words == f"a GPU with {memory(seven, checkpointed).total / 1e9:.0f} GB"


def test_four_bits_are_offered_with_the_dtype_that_they_compute_in(seven):
    # 28 GB of float32 weights: 14 GB in bfloat16, 5 GB in four bits; 4bit with float32 would be refused.
    single = load_7b(half=False, answer_batch=1, batch=1, checkpointing=True)
    assert smallest_change(seven, single, 24e9)[0] == "model.dtype=bfloat16"
    words, need = smallest_change(seven, single, 12e9)
    assert words == "model.dtype=bfloat16 model.quantize=4bit"
    assert need == memory(seven, replace(single, half=True, four_bit=True))
    assert "dtype" not in smallest_change(seven, load_7b(half=False), 80e9)[0]  # a change of the numbers comes last


def test_a_picture_costs_what_its_tiles_or_patches_do():
    with torch.device("meta"):
        qwen, onevision = (
            hf.AutoModelForImageTextToText.from_config(config)
            for config in (
                hf.Qwen2_5_VLConfig(vision_config={"depth": 32, "hidden_size": 1280}),
                hf.LlavaOnevisionConfig(),
            )
        )
    shapes = read_shapes(qwen, {})
    # Patches of 2 frames of 14 * 14 pixels in 3 colours are 1176 numbers each.
    assert (shapes.tower_tokens, tiles_of(shapes, 1176 * 1024)) == (1, 1024)
    one = load_7b(batch=2, checkpointing=True, tiles=1)
    more = replace(one, tiles=1024)
    # 1023 patches more of two pictures, 1280 wide, float32; of the projector 2 (1280 + 2 * 3584) each, and 5 %.
    grown = memory(shapes, more).workspace - memory(shapes, one).workspace
    assert grown == 2 * 1023 * 1280 * 4
    assert activation_bytes(shapes, more) - activation_bytes(shapes, one) == 2 * 1023 * 2 * (1280 + 2 * shapes.width)
    assert step_flops(shapes, more) - step_flops(shapes, one) == 2 * shapes.vision * 2 * 1023
    shapes = read_shapes(onevision, {})
    # SigLIP's tiles of 384 pixels: 27 * 27 patches of 14, counted with a class token; it hands on all 26 layers.
    assert (shapes.tower_tokens, tiles_of(shapes, 7 * 3 * 384 * 384)) == (730, 7)
    assert shapes.tower_kept == onevision.config.vision_config.num_hidden_layers + 1
    assert tiles_of(shapes, None) == 1  # not known
    assert tiles_of(shapes, 0) == 0  # no record has a picture


def test_only_the_batch_that_does_not_fit_is_made_smaller(seven):
    # 512 questions of 828 tokens keep 0.5 MB of keys and values each: 222 GB.
    words, _ = smallest_change(seven, load_7b(batch=1, checkpointing=True, answer_batch=512), 80e9)
    assert words.startswith("evaluation.batch_size=")


def test_the_batch_of_questions_that_fits_is_the_largest_that_leaves_a_tenth_free(seven):
    load = load_7b(batch=1, checkpointing=True)
    fits = largest_answer_batch(seven, load, 80e9)
    assert fits > 1
    assert memory(seven, replace(load, answer_batch=fits)).answering <= 0.9 * 80e9
    assert memory(seven, replace(load, answer_batch=fits + 1)).answering > 0.9 * 80e9
    assert largest_answer_batch(seven, load, 8e9) == 0  # the base alone is larger
