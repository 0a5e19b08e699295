"""A plain PEFT adapter folder: adapter_config.json and adapter_model.safetensors, as stock PEFT reads them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from peft import LoraConfig
from torch import Tensor, nn

from fcit_ray.serving.exported import ADAPTER_FILE
from fcit_ray.serving.packing import PREFIX, Weights, all_one, pack
from fcit_ray.serving.source import Source
from fcit_ray.storage.safe_tensors import save_tensors

CONFIG_FILE: Final = "adapter_config.json"
_METADATA: Final = {"format": "pt"}


def write_adapter(
    folder: Path, source: Source, base: str, weights: Weights = all_one, scale: float = 1.0
) -> dict[str, Tensor]:
    """Write the bank as one adapter of rank K*r, the trained projector with it.

    Args:
        folder: exists.
        source: of the values.
        base: name or path of the base, for those who ask the adapter for it.
        weights: folded into B.
        scale: of every adapter's product beside the run's own scaling.

    Returns:
        The tensors written, under PEFT's names.

    Raises:
        OSError: the disk is full, or the like.
    """
    bank, model = source.bank, source.config.model
    tensors = pack(source.deployed, source.layers, bank.num_adapters, weights)
    tensors |= {PREFIX + name: source.deployed[name] for name in source.projector}
    config = LoraConfig(
        base_model_name_or_path=base,
        r=bank.rank * bank.num_adapters,
        lora_alpha=model.alpha * scale,  # type: ignore[arg-type]  # PEFT divides by the rank: any number will do
        lora_dropout=model.dropout,
        target_modules=source.layers,
        modules_to_save=projector_modules(_base_of(source), source.projector)[0] or None,
        bias="none",
        inference_mode=True,
    )
    kind = type(_base_of(source))
    config.auto_mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    config.save_pretrained(str(folder))
    _in_order(folder / CONFIG_FILE)
    save_tensors({name: value.contiguous() for name, value in tensors.items()}, folder / ADAPTER_FILE, _METADATA)
    return tensors


def loose_parameters(source: Source) -> list[str]:
    """Parameters of the trained projector that PEFT has no module of its own for."""
    return projector_modules(_base_of(source), source.projector)[1]


def projector_modules(model: nn.Module, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The largest modules that hold projector parameters alone, and the parameters that are in none of them.

    PEFT keeps the former beside the base's own (`modules_to_save`). The latter lie beside what is not the projector
    (LLaVA-OneVision's `image_newline`): PEFT loads them in the place of the base's, as it does resized embeddings.

    Args:
        model: the bare base.
        names: of the projector's parameters.
    """
    left, modules = set(names), []

    def walk(module: nn.Module, path: str) -> None:
        inside = {f"{path}.{name}" if path else name for name, _ in module.named_parameters()}
        if not inside & left:
            return
        # PEFT wraps what has a forward pass of its own.
        if path and inside <= left and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            modules.append(path)
            left.difference_update(inside)
            return
        for name, child in module.named_children():
            walk(child, f"{path}.{name}" if path else name)

    walk(model, "")
    return modules, sorted(left)


def _base_of(source: Source) -> Any:
    """The bare base, in shapes, beneath the bank's adapters."""
    return source.bank.model.get_base_model()


def _in_order(file: Path) -> None:
    """Lists that PEFT keeps as sets come in another order in every process; files of one run are to be the same."""
    said: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    ordered = {key: sorted(v) if _is_names(v) else v for key, v in said.items()}
    file.write_text(json.dumps(ordered, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)
