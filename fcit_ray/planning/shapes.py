"""The sizes of a model that memory and time depend on, read from its skeleton.

Legend: d width, f width of the FFN, h attention heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from peft import PeftModel
from torch import nn

from fcit_ray.models.structure import find_structure

FLOAT = 4
"""Bytes of a number of adapters, projector, gradients and moments, whatever the base's dtype."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes of a model, in numbers; of the language model unless said otherwise.

    Attributes:
        language: parameters, head and embeddings included.
        linear: of them, those in the decoder's linear layers: what four bits take.
        vision: parameters of the vision tower and all else that is neither language model nor projector.
        projector: parameters of the projector.
        width, ffn, layers, heads, key_heads, head_dim, vocabulary: as in the configuration.
        tower_width: of the vision tower.
        tower_kept: outputs of its layers that live together: of all where the model may choose any, else one.
        tower_tokens: of one tile of the configured size; of one patch, 1, where pictures have no size of their own.
        tower_pixels: numbers that such a tile or patch comes as.
        adapted: inputs and outputs of every layer that carries adapters.
    """

    language: int
    linear: int
    vision: int
    projector: int
    width: int
    ffn: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    tower_width: int
    tower_kept: int
    tower_tokens: int
    tower_pixels: int
    adapted: tuple[tuple[int, int], ...] = ()

    @property
    def base(self) -> int:
        return self.language + self.vision + self.projector


def read_shapes(base: nn.Module, adapted: Mapping[str, tuple[int, int]], projector: str = "auto") -> Shapes:
    """Sizes of a model, on any device.

    Args:
        base: an image-text model, with or without adapters in it, which are not counted.
        adapted: inputs and outputs of the adapted layers, by module path.
        projector: as `model.projector`.
    """
    if isinstance(base, PeftModel):
        base = base.get_base_model()
    seen: set[int] = set()
    sizes = {"language": 0, "linear": 0, "vision": 0, "projector": 0}
    structure, head = find_structure(base, projector), cast(Any, base).get_output_embeddings()
    for path, module in base.named_modules():
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if "lora_" in path or id(parameter) in seen:  # embeddings may be tied to the head
                continue
            seen.add(id(parameter))
            if name in structure.projector:
                part = "projector"
            elif module is head or name.startswith(f"{structure.language}."):
                part = "language"
            else:
                part = "vision"
            sizes[part] += parameter.numel()
            if part == "language" and isinstance(module, nn.Linear) and module is not head:
                sizes["linear"] += parameter.numel()
    config: Any = base.config
    text, vision = config.get_text_config(), config.vision_config
    heads = text.num_attention_heads
    tower_tokens, tower_pixels = _tile(vision)
    layers = getattr(vision, "num_hidden_layers", 0) or getattr(vision, "depth", 0)
    return Shapes(
        **sizes,
        width=text.hidden_size,
        ffn=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=heads,
        key_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        tower_width=getattr(vision, "hidden_size", 0),
        tower_kept=layers + 1 if hasattr(config, "vision_feature_layer") else 1,
        tower_tokens=tower_tokens,
        tower_pixels=tower_pixels,
        adapted=tuple(adapted.values()),
    )


def tiles_of(shapes: Shapes, pixels: float | None) -> float:
    """Tiles or patches that a record's pictures of so many numbers are; one where that is not known."""
    return 1.0 if pixels is None or not shapes.tower_pixels else pixels / shapes.tower_pixels


def _tile(vision: Any) -> tuple[int, int]:
    """Tokens and numbers of the smallest thing that a vision tower takes: a tile, or a patch if none has a size."""
    (height, width), (down, across) = (_sides(getattr(vision, name, 0)) for name in ("image_size", "patch_size"))
    if not down or not across:
        return 0, 0
    if height and width:
        return (height // down) * (width // across) + 1, 3 * height * width  # a class token, if it has one
    frames, _ = _sides(getattr(vision, "temporal_patch_size", 1))
    return 1, 3 * frames * down * across


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size or (0, 0))
