"""The frozen language model in four bits, with adapters trained beside it in float32.

Source: Dettmers, Pagnoni, Holtzman, Zettlemoyer, "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023, arXiv
2305.14314: NormalFloat4 with double quantisation, products in bfloat16. The work is bitsandbytes'.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

from fcit_ray.config import Config, ConfigError

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
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=unquantized(model),
        ),
        "device_map": {"": device},
    }


def unquantized(model: nn.Module) -> list[str]:
    """Modules that hold linear layers and no part of the language model: the largest such, by name."""
    found: list[str] = []

    def walk(module: nn.Module, path: str) -> None:
        names = [f"{path}.{name}" if path else name for name, _ in module.named_modules()]
        if path.split(".")[-1] == "language_model":
            return
        if not any("language_model" in name.split(".") for name in names):
            if any(isinstance(part, nn.Linear) for part in module.modules()):
                found.append(path)
            return
        for name, child in module.named_children():
            walk(child, f"{path}.{name}" if path else name)

    walk(model, "")
    return found
