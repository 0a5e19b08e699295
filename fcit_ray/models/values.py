"""Values of a model's parameters by name: drawn, put aside for a while; and what of a step is kept for its backward."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fcit_ray.errors import ConfigError
from fcit_ray.models.names import adapter_index
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Params


def drawn(name: str, shape: Sequence[int], seed: int, *, std: float = 0.0, low: float | None = None) -> Tensor:
    """Initial values of a parameter, which depend on (seed, name) alone; float32, on the CPU.

    Args:
        name: of the parameter.
        shape: of it.
        seed: of the run.
        std: of a normal draw; 0 gives zeros.
        low: instead of that, uniform between `low` and `-low`.
    """
    draw = torch.Generator().manual_seed(derive_seed(seed, "adapter", name))
    if low is not None:
        return torch.rand(tuple(shape), generator=draw, device="cpu") * (-2 * low) + low
    return torch.randn(tuple(shape), generator=draw, device="cpu") * std


def begin(named: Mapping[str, nn.Parameter], seed: int, std: float) -> None:
    """Put trainable parameters into float32 and adapters at their start: A drawn with this spread, B zero."""
    for name, parameter in named.items():
        parameter.data = parameter.data.float()
        if adapter_index(name) is None or parameter.is_meta:
            continue
        if ".lora_B." in name:
            nn.init.zeros_(parameter)
        else:
            parameter.data.copy_(drawn(name, parameter.shape, seed, std=std))


def as_loaded(base: nn.Module, before: Params) -> nn.Module:
    """A base without its adapters as it came from its folder: these values and types put back, frozen, not training."""
    own = dict(base.named_parameters())
    for name, value in before.items():
        own[name].data = value.to(own[name].device)
    base.requires_grad_(False)
    base.zero_grad(set_to_none=True)
    return base.eval()


@contextmanager
def holding(model: nn.Module, named: Mapping[str, nn.Parameter], params: Params) -> Iterator[None]:
    """For a while, other values under the given names, without gradients and without dropout.

    The parameters' own memory is put aside, not overwritten.

    Args:
        model: that is put into evaluation mode meanwhile.
        named: its parameters.
        params: the values; they may be aliased meanwhile.
    """
    before = {name: named[name].data for name in params}
    modes = [(module, module.training) for module in model.modules()]
    try:
        for name, value in params.items():
            assert value.shape == before[name].shape, f"{name}: {tuple(value.shape)} held instead of its own shape"
            named[name].data = value.to(before[name])
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for name, own in before.items():
            named[name].data = own
        for module, training in modes:
            module.training = training


def recompute_layers(model: Any, enabled: bool) -> None:
    """Switch a transformers model's gradient checkpointing on or off.

    Raises:
        ConfigError: its architecture has none.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"train.gradient_checkpointing: {type(model).__name__} does not support it")
    # transformers renames both in version 6, and warns of the old names before.
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if enabled:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False, "preserve_rng_state": True})
    else:
        getattr(model, f"{kind}_checkpointing_disable")()
        model.disable_input_require_grads()  # enabled with it, and forgotten
