"""Which attention kernel a run gets, and what is refused with which reason, before a model loads."""

import importlib.util
import inspect

import pytest
import torch
import transformers as hf
from families import FAMILIES, LAYERS
from transformers.quantizers.quantizers_utils import should_convert_module

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ConfigError
from fcit_ray.models import quantize
from fcit_ray.models.attention import check_attention, choose_attention, unfit_for_flash
from fcit_ray.models.folder import TINY
from fcit_ray.models.load import load_base
from fcit_ray.models.quantize import check_quantize, check_quantized, unquantized
from fcit_ray.results.figures import make_results

FLASH = "flash_attention_2"
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def machine(monkeypatch):
    """A pretended machine: packages and GPU."""

    def pretend(packages=(), capability=None):
        find = importlib.util.find_spec
        known = {"flash_attn": None, "bitsandbytes": None} | dict.fromkeys(packages, find("json"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: known[name] if name in known else find(name))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")

    return pretend


def config(gpu=True, **model):
    return parse_config(
        {"benchmark": {"tasks": ["ArxivQA"]}, "model": {"dtype": "bfloat16", **model}, "runtime": {"gpu": gpu}}
    )


def test_auto_is_flash_attention_where_it_works_and_sdpa_elsewhere(machine):
    machine(["flash_attn"], (8, 0))
    assert choose_attention("auto", "bfloat16", gpu=True) == FLASH
    assert choose_attention("auto", "float32", gpu=True) is None
    assert choose_attention("auto", "bfloat16", gpu=False) is None
    assert choose_attention("sdpa", "bfloat16", gpu=True) == "sdpa"
    machine(["flash_attn"], (7, 0))
    assert choose_attention("auto", "bfloat16", gpu=True) is None
    machine([], (9, 0))
    assert choose_attention("auto", "bfloat16", gpu=True) is None


@pytest.mark.parametrize(
    ("packages", "capability", "gpu", "dtype", "reason"),
    [
        (["flash_attn"], (9, 0), False, "bfloat16", "runtime.gpu is false"),
        (["flash_attn"], (9, 0), True, "float32", "model.dtype is float32"),
        ([], (9, 0), True, "bfloat16", "extra `flash`"),
        (["flash_attn"], None, True, "bfloat16", "no CUDA device"),
        (["flash_attn"], (7, 0), True, "bfloat16", "Tesla V100 has compute capability 7.0"),
    ],
)
def test_flash_attention_that_cannot_work_is_refused_with_the_reason(machine, packages, capability, gpu, dtype, reason):
    machine(packages, capability)
    with pytest.raises(ConfigError, match=r"model\.attention: flash_attention_2") as refusal:
        choose_attention(FLASH, dtype, gpu)
    assert reason in str(refusal.value)


def test_what_the_configuration_alone_rules_out_is_refused_at_the_door(machine):
    machine(["flash_attn", "bitsandbytes"])
    check_attention(config(attention=FLASH), TINY)  # only the workers' GPU can tell
    check_quantize(config(quantize="4bit"))
    with pytest.raises(ConfigError, match=r"model\.attention"):
        check_attention(config(attention=FLASH, gpu=False), TINY)
    with pytest.raises(ConfigError, match=r"model\.quantize: 4bit needs a CUDA GPU"):
        check_quantize(config(quantize="4bit", gpu=False))
    with pytest.raises(ConfigError, match=r"expected model\.dtype=bfloat16"):
        check_quantize(config(quantize="4bit", dtype="float32"))
    machine()
    with pytest.raises(ConfigError, match="the extra `quant`"):
        check_quantize(config(quantize="4bit"))
    with pytest.raises(ConfigError, match="this process sees none"):
        load_base("tiny", "bfloat16", quantize="4bit", gpu=True)


def test_the_default_on_a_cpu_is_sdpa_and_eager_is_eager():
    plain = load_base("tiny")
    assert plain.config._attn_implementation == plain.config.text_config._attn_implementation == "sdpa"
    assert load_base("tiny", attention="eager").config.text_config._attn_implementation == "eager"


def test_four_bits_leave_tower_projector_and_head_alone():
    assert unquantized(load_base("tiny")) == ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def config_only(folder, settings):
    """A model folder that nothing but shapes can be had from."""
    settings.save_pretrained(folder)
    return folder


@pytest.fixture
def gemma(tmp_path):
    """Gemma 3 lets a picture's tokens see each other; some versions of transformers say so themselves."""
    return config_only(tmp_path, hf.Gemma3Config(text_config=SMALL, vision_config=SMALL))


def test_auto_leaves_flash_attention_where_it_would_change_the_model(machine, gemma):
    machine(["flash_attn"], (9, 0))
    assert choose_attention("auto", "bfloat16", gpu=True, folder=gemma) is None
    assert choose_attention("auto", "bfloat16", gpu=True, folder=TINY) == FLASH
    reason = r"Gemma3\w+ (may attend in both directions|has no support)"
    with pytest.raises(ConfigError, match=reason):
        choose_attention(FLASH, "bfloat16", gpu=True, folder=gemma)
    with pytest.raises(ConfigError, match=reason):  # ... and at the door
        check_attention(config(attention=FLASH), gemma)


class Silent(hf.PreTrainedModel):
    """An architecture whose library claims support, in a module of which the words may be chosen."""

    config_class = hf.LlamaConfig
    _supports_flash_attn = True

    def forward(self):
        raise AssertionError("only looked at")


@pytest.mark.parametrize(
    ("supports", "source", "reason"),
    [
        (True, "mask = causal", ""),
        (True, "mask = create(or_mask_function=pictures)", "Silent may attend in both directions"),
        (False, "mask = create(or_mask_function=pictures)", "Silent has no support for it"),  # its own word first
    ],
)
def test_the_librarys_own_word_comes_before_a_look_at_its_source(monkeypatch, supports, source, reason):
    monkeypatch.setattr(Silent, "_supports_flash_attn", supports)
    monkeypatch.setattr(inspect, "getsource", lambda module: source)
    found = unfit_for_flash(Silent(hf.LlamaConfig(**SMALL)))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    request.param.write(folder)
    return request.param, load_base(str(folder))


def test_flash_attention_fits_every_family_but_gemma(loaded):
    family, model = loaded
    assert bool(unfit_for_flash(model)) == (family.name == "Gemma 3")


def test_four_bits_take_every_layer_of_the_language_model_and_no_other(loaded):
    family, model = loaded
    kept = unquantized(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    taken = [name for name in linear if should_convert_module(name, kept)]
    assert taken == [name for name in linear if name.startswith(f"{family.language}.")]
    assert len(taken) == 7 * LAYERS  # queries, keys, values, output; gate, up, down
    assert "" not in kept


def test_a_model_that_four_bits_passed_by_is_refused():
    with pytest.raises(ConfigError, match=r"model\.quantize: no layer of this LlavaForCond.* was put in four bits"):
        check_quantized(load_base("tiny"))


def test_a_quantised_weight_takes_half_a_byte_and_its_scales():
    # NF4: 64 weights share a byte, 256 such bytes share a float32: (32 + 1 + 4 / 256) / 64.
    assert pytest.approx((32 + 1 + 4 / 256) / 64) == quantize.BYTES_A_WEIGHT


def test_results_name_the_kernels_in_use():
    common = {"label": "x", "seed": 0, "tasks": ["t"], "num_stages": 0, "num_records": {}, "params": {}}
    records = [{"kind": "evaluation", "stage": -1, "scores": {"t": 1.0}}]
    assert "attention" not in make_results(**common, records=records)
    both = make_results(**common, records=records, attention=["sdpa", FLASH, "sdpa"])
    assert both["attention"] == "flash_attention_2, sdpa"
