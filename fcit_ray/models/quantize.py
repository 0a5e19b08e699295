"""The frozen language model in four bits, with adapters trained beside it in float32.

Source: Dettmers, Pagnoni, Holtzman, Zettlemoyer, "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023, arXiv
2305.14314: NormalFloat4 with double quantisation, products in bfloat16. The work is bitsandbytes'.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from fcit_ray.config.schema import Config
from fcit_ray.errors import ConfigError
from fcit_ray.models.structure import find_language_model, skeleton

BYTES_A_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Four bits, one byte for every 64 weights (their scale, itself quantised), one float32 for every 256 scales."""


def check_quantize(config: Config) -> None:
    """Refuse four bits where they cannot work, before anything is started.

    Raises:
        ConfigError: names the key and the reason.
    """
    if config.model.quantize == "none":
        return
    if not config.runtime.gpu:
        raise ConfigError("model.quantize: 4bit needs a CUDA GPU, and runtime.gpu is false; expected none")
    if config.model.dtype != "bfloat16":
        raise ConfigError(
            f"model.quantize: 4bit computes in bfloat16, and model.dtype is {config.model.dtype}; "
            "expected model.dtype=bfloat16"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("model.quantize: 4bit needs bitsandbytes, which is not installed (the extra `quant`)")


def check_quantize_device() -> None:
    """Refuse four bits in a process that sees no GPU.

    Raises:
        ConfigError: says so.
    """
    if not torch.cuda.is_available():
        raise ConfigError("model.quantize: 4bit needs a CUDA GPU, and this process sees none; expected none")


def quantize_options(folder: Path, device: str = "cuda:0") -> dict[str, Any]:
    """What `from_pretrained` is given to load a model's language model in four bits, straight onto the device.

    All that is not the language model (vision tower, projector) and the head stay as they are: the tower is small and
    its features are what everything else rests on, the projector is trained.

    Args:
        folder: of the model.
        device: that holds it.

    Raises:
        OSError, ValueError: the model's configuration does not load, or is not an image-text model's.
        ConfigError: it has no language model apart from the rest.
    """
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=unquantized(skeleton(folder)),
        ),
        "device_map": {"": device},
    }


def unquantized(model: nn.Module) -> list[str]:
    """Modules that hold linear layers and no part of the language model: the largest such, by name.

    Raises:
        ConfigError: there is no language model apart from the rest.
    """
    language = find_language_model(model)
    found: list[str] = []

    def walk(module: nn.Module, path: str) -> None:
        if path == language:
            return
        if path and not language.startswith(f"{path}."):
            if any(isinstance(part, nn.Linear) for part in module.modules()):
                found.append(path)
            return
        for name, child in module.named_children():
            walk(child, f"{path}.{name}" if path else name)

    walk(model, "")
    return found


def check_quantized(model: nn.Module) -> None:
    """Refuse a model whose layers were all left as they were: transformers skips layers by name and says nothing.

    Raises:
        ConfigError: none is in four bits.
    """
    if not any(type(module).__name__ == "Linear4bit" for module in model.modules()):  # bitsandbytes'
        raise ConfigError(
            f"model.quantize: no layer of this {type(model).__name__} was put in four bits; expected none"
        )
