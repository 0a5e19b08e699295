"""The adapters added into the base's weights: a whole model, which plain transformers loads."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fcit_ray.models.load import load_base
from fcit_ray.models.names import residual_of
from fcit_ray.serving.base_files import copy_processor
from fcit_ray.serving.packing import PREFIX, Weights, pack
from fcit_ray.serving.source import Source
from fcit_ray.storage.safe_tensors import disk_errors


@torch.no_grad()
def write_merged(folder: Path, source: Source, weights: Weights) -> None:
    """Write the base with W + scaling * (residual + B A) in the place of every adapted W, and the trained projector.

    Computed in float32, layer by layer, and rounded once to the dtype of the run's base.

    Args:
        folder: exists.
        source: of the values.
        weights: of the adapters, folded into B.

    Raises:
        ModelError: the base does not load.
        OSError: the disk is full, or the like.
    """
    model = source.config.model
    base = load_base(model.path, model.dtype)
    packed = pack(source.deployed, source.layers, source.bank.num_adapters, weights)
    for layer in source.layers:
        weight = base.get_parameter(f"{layer}.weight")
        added = source.bank.scaling * _product(packed, layer, source.deployed)  # (out, in)
        weight.copy_(weight.float() + added)
    for name in source.projector:
        base.get_parameter(name).copy_(source.deployed[name])
    with disk_errors(folder):
        base.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode
    for weights_file in folder.glob("*.safetensors"):
        weights_file.chmod(mode)  # safetensors makes its files for their owner alone
    copy_processor(source.base, folder)


def _product(packed: Mapping[str, Tensor], layer: str, params: Mapping[str, Tensor]) -> Tensor:
    """What a layer's adapters, and the matrix beside its weight, add in units of the products B A, (out, in)."""
    a, b = (packed[f"{PREFIX}{layer}.lora_{which}.weight"].float() for which in "AB")
    residual = params.get(residual_of(layer))
    return b @ a if residual is None else residual.float() + b @ a
