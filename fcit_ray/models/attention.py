"""Which kernel computes attention: flash-attn where it is installed and fits GPU and model, else torch's own.

flash-attn (Dao, "FlashAttention-2", ICLR 2024, arXiv 2307.08691) needs a GPU of compute capability 8.0 (Ampere) or
later and 16-bit numbers, and has no masks but the causal one. Torch's `scaled_dot_product_attention` (SDPA) runs
everywhere.
"""

import importlib.util
import inspect
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from fcit_ray.config.schema import Config
from fcit_ray.errors import ConfigError
from fcit_ray.models.structure import skeleton

FLASH = "flash_attention_2"
_CAPABILITY = (8, 0)  # of the first GPUs that flash-attn 2 supports
_WIDENED_MASKS = ("block_sequence_ids", "or_mask_function")
"""What architectures call it when they let tokens of a picture see those behind them, beyond the causal mask."""


def check_attention(config: Config, folder: Path) -> None:
    """Refuse a kernel that this configuration can never use; what only a GPU can tell is told where the base loads.

    Args:
        config: of the run.
        folder: of its model.

    Raises:
        ConfigError: names the key and the reason.
    """
    if config.model.attention != FLASH:
        return
    try:
        reason = _unusable(config.model.dtype, config.runtime.gpu) or unfit_for_flash(skeleton(folder))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: {folder} is no image-text model that loads: {error}") from error
    if reason:
        raise ConfigError(f"model.attention: {FLASH} cannot be used: {reason}; expected auto or sdpa")


def choose_attention(wanted: str, dtype: str, gpu: bool, folder: Path | None = None) -> str | None:
    """What `from_pretrained(attn_implementation=)` is given in the process that holds the model.

    Args:
        wanted: `model.attention`.
        dtype: `model.dtype`.
        gpu: whether the model will be on this process's GPU.
        folder: of the model; None takes it for one that flash-attn fits, as it fits LLaVA-1.5.

    Returns:
        A kernel's name; None leaves the choice to transformers: SDPA, or eager for an architecture without it.

    Raises:
        ConfigError: flash-attn was asked for and cannot be used, with the reason.
        OSError, ValueError: the model's configuration does not load.
    """
    if wanted not in ("auto", FLASH):
        return wanted
    reason = _unusable(dtype, gpu) or (_unusable_device() if gpu else "")
    if not reason and folder is not None:
        reason = unfit_for_flash(skeleton(folder))
    if not reason:
        return FLASH
    if wanted == FLASH:
        raise ConfigError(f"model.attention: {FLASH} cannot be used: {reason}; expected auto or sdpa")
    return None


def unfit_for_flash(model: nn.Module) -> str:
    """Why flash-attn would fail on this architecture, or silently make it another model; empty if it does neither.

    The library's own word counts first. Up to transformers 5.2x it has none for Gemma 3 and PaliGemma, which let a
    picture's tokens see each other in both directions: flash-attn is handed the causal mask alone then, and nothing is
    said. So the sources of those that claim to be fit are looked at as well.
    """
    kinds = {type(part) for part in model.modules() if isinstance(part, PreTrainedModel)}
    parts = sorted(kinds, key=lambda part: part.__name__)
    for part in parts:
        if not part._supports_flash_attn:
            return f"{part.__name__} has no support for it"
    for part in parts:
        source = inspect.getsource(sys.modules[part.__module__])
        if any(word in source for word in _WIDENED_MASKS):
            return f"{part.__name__} may attend in both directions among a picture's tokens, which it cannot"
    return ""


def _unusable(dtype: str, gpu: bool) -> str:
    """Why flash-attn cannot be used, as far as the configuration and this machine's packages tell, or nothing."""
    if not gpu:
        return "it needs a GPU, and runtime.gpu is false"
    if dtype != "bfloat16":
        return f"it takes 16-bit numbers, and model.dtype is {dtype}"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed (the extra `flash` brings it)"
    return ""


def _unusable_device() -> str:
    """Why this process's GPU cannot run it, or nothing."""
    if not torch.cuda.is_available():
        return "this process sees no CUDA device"
    if (found := torch.cuda.get_device_capability()) < _CAPABILITY:
        major, minor = found
        return f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, and it needs 8.0"
    return ""
