"""What the bank asks of PEFT: named adapters on one base, several in use at a time, all packed into one.

Legend: K adapters, r rank of each.
"""

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from fcit_ray.models.names import adapter_name

PACKED = "packed"
"""Name of the adapter that all are packed into."""


def lora_config(rank: int, scaling: float, dropout: float, targets: str | list[str]) -> LoraConfig:
    """Of an adapter whose product counts `scaling`, on the layers that `targets` names."""
    alpha: Any = scaling * rank  # PEFT divides by the rank: any number will do
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none")


def carry_adapters(base: nn.Module, config: LoraConfig, num_adapters: int) -> PeftModel:
    """The base, modified in place, with K adapters under their names."""
    with warnings.catch_warnings():  # PEFT asks for what transformers renamed, and does without
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = PeftModel(cast(Any, base), config, adapter_name=adapter_name(0))
        for index in range(1, num_adapters):
            model.add_adapter(adapter_name(index), config)
    return model


def take_off(model: Any) -> Any:
    """The base without its adapters, and without the hooks that hung on them."""
    base = cast(BaseTuner, model.base_model).unload()
    vars(base).pop("peft_config", None)  # left by some versions, which then take it for a model that carries adapters
    return base


def adapted_layers(model: nn.Module) -> list[Any]:
    """The layers that carry adapters, in the order of the model's modules."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def use_adapters(model: Any, names: list[str]) -> None:
    """Let these adapters take part in the forward pass, and no others."""
    # Of the PeftModel itself, set_adapter takes one name; of the tuner inside it, several.
    cast(BaseTuner, model.base_model).set_adapter(names)


def add_packed(model: Any, config: LoraConfig, num_adapters: int) -> None:
    """Add the adapter of rank K*r, without values yet, unless it is there."""
    if PACKED not in model.peft_config:
        rank = config.r * num_adapters
        packed = LoraConfig(**{**config.to_dict(), "r": rank})
        packed.lora_alpha = cast(Any, config.lora_alpha / config.r * rank)
        model.add_adapter(PACKED, packed)


def pack_layer(layer: Any, num_adapters: int) -> None:
    """Give the packed adapter of one layer the values of all K."""
    names = [adapter_name(k) for k in range(num_adapters)]
    a: Sequence[Tensor] = [layer.lora_A[name].weight for name in names]
    b: Sequence[Tensor] = [layer.lora_B[name].weight for name in names]
    layer.lora_A[PACKED].weight.data = torch.cat(list(a))  # (K*r, in)
    layer.lora_B[PACKED].weight.data = torch.cat(list(b), dim=1)  # (out, K*r)


def add_residual(layer: Any, scaling: float, device: torch.device) -> nn.Parameter:
    """Give a layer a matrix beside its frozen weight: y = W x + scaling * (residual + B A) x; zero at the start."""
    residual = nn.Parameter(torch.zeros(layer.out_features, layer.in_features, device=device))

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        product = nn.functional.linear(inputs[0], residual.to(inputs[0].dtype))
        return output + (scaling * product).to(output.dtype)

    layer.register_forward_hook(add)
    return residual
