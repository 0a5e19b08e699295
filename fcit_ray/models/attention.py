"""Which kernel computes attention: flash-attn where it is installed and the GPU takes it, else torch's own.

flash-attn (Dao, "FlashAttention-2", ICLR 2024, arXiv 2307.08691) needs a GPU of compute capability 8.0 (Ampere) or
later and 16-bit numbers. Torch's `scaled_dot_product_attention` (SDPA) runs everywhere.
"""

import importlib.util

import torch

from fcit_ray.config import Config, ConfigError

FLASH = "flash_attention_2"
_CAPABILITY = (8, 0)  # of the first GPUs that flash-attn 2 supports


def check_attention(config: Config) -> None:
    """Refuse a kernel that this configuration can never use; what only a GPU can tell is told where the base loads.

    Raises:
        ConfigError: names the key and the reason.
    """
    if config.model.attention == FLASH and (reason := _unusable(config.model.dtype, config.runtime.gpu)):
        raise ConfigError(f"model.attention: {FLASH} cannot be used: {reason}; expected auto or sdpa")


def choose_attention(wanted: str, dtype: str, gpu: bool) -> str | None:
    """What `from_pretrained(attn_implementation=)` is given in the process that holds the model.

    Args:
        wanted: `model.attention`.
        dtype: `model.dtype`.
        gpu: whether the model will be on this process's GPU.

    Returns:
        A kernel's name; None leaves the choice to transformers: SDPA, or eager for an architecture without it.

    Raises:
        ConfigError: flash-attn was asked for and cannot be used, with the reason.
    """
    if wanted not in ("auto", FLASH):
        return wanted
    reason = _unusable(dtype, gpu) or (_unusable_device() if gpu else "")
    if not reason:
        return FLASH
    if wanted == FLASH:
        raise ConfigError(f"model.attention: {FLASH} cannot be used: {reason}; expected auto or sdpa")
    return None


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
