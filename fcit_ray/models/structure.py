"""Where in an image-text model its parts are, found by how it is built rather than by what its authors called them.

The *language model* is what holds the input embeddings and the stack of blocks; the *vision tower* is the submodel
that was made from `config.vision_config`; the *projector* (connector, merger, aligner) is every parameter that belongs
to neither, nor to the output head.
"""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from fcit_ray.errors import ConfigError
from fcit_ray.models.folder import in_one_line

_INNER_PROJECTORS = ("merger", "merger_list", "deepstack_merger_list")
"""Children of a vision tower that are projectors. Qwen2-VL to Qwen3-VL build theirs into the tower, where nothing but
the name tells it from the tower's own layers (a tower of the language model's width has layers of the same shape)."""


@dataclass(frozen=True)
class Structure:
    """Parts of one model.

    Attributes:
        language: module path of the language model.
        vision: module path of the vision tower.
        projector: names of the projector's parameters, in the model's order.
    """

    language: str
    vision: str
    projector: tuple[str, ...]


def skeleton(folder: Path, dtype: torch.dtype | None = None) -> Any:
    """A folder's model as its configuration builds it, on the device `meta`: shapes without values.

    Args:
        folder: of the model.
        dtype: of its parameters; None leaves it to the configuration.

    Raises:
        OSError, ValueError: its configuration does not load, or is not an image-text model's.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, dtype=dtype)
    except (OSError, ValueError):
        raise
    except Exception as error:  # any line of an architecture may trip over what its config.json says
        raise ValueError(in_one_line(error)) from error


def find_structure(model: Any, projector: str = "auto") -> Structure:
    """Find a model's parts.

    Args:
        model: the bare model, without adapters.
        projector: `auto`, or a regular expression that is searched for in the names of parameters (`model.projector`).

    Raises:
        ConfigError: a part is not there, or the expression finds none or what is not the projector.
    """
    paths = {module: name for name, module in model.named_modules()}
    language = find_language_model(model)
    vision = _vision_tower(model, language)
    head = model.get_output_embeddings()
    apart = [f"{name}." for name in (language, paths[head] if head is not None else "") if name]
    names = [name for name, _ in model.named_parameters() if not name.startswith(tuple(apart))]
    if projector != "auto":
        found = [name for name in names if re.search(projector, name)]
        if not found:
            outside = ", ".join(sorted({name.rpartition(".")[0] for name in names})[:20])
            raise ConfigError(
                f"model.projector: {projector!r} is in the name of no parameter outside the language model; "
                f"there are {outside}"
            )
        return Structure(language, vision, tuple(found))
    between = [name for name in names if not name.startswith(f"{vision}.")]
    inside = [name for name in names if name.startswith(tuple(f"{vision}.{part}." for part in _INNER_PROJECTORS))]
    if not between and not inside:
        kind = type(model).__name__
        raise ConfigError(
            f"model.projector: nothing with parameters lies between {vision} and {language} of {kind}; expected a "
            f"regular expression that names its projector"
        )
    return Structure(language, vision, tuple(between or inside))


def language_targets(model: nn.Module, language: str, targets: tuple[str, ...]) -> list[str]:
    """Full names of the language model's linear layers of these short names; a vision tower may have the same.

    Raises:
        ConfigError: there is none of a name; lists the names there are.
    """
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{language}.")
    ]
    found = [name for name in linear if name.rpartition(".")[2] in targets]
    there = sorted({name.rpartition(".")[2] for name in linear})
    if missing := [target for target in targets if target not in there]:
        raise ConfigError(
            f"model.targets: no linear layer of the language model is called {' or '.join(missing)}; "
            f"there are {', '.join(there)}"
        )
    if not found:
        raise ConfigError(f"model.targets: names no linear layer of the language model; there are {', '.join(there)}")
    return found


def keeps_logits(model: nn.Module) -> bool:
    """Whether the model can compute the logits of its last positions alone."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def find_language_model(model: Any) -> str:
    """Module path of the smallest module around the input embeddings that also holds a stack of blocks; never empty.

    Raises:
        ConfigError: there is none but the whole model.
    """
    paths = {module: name for name, module in model.named_modules()}
    parts = paths[model.get_input_embeddings()].split(".")[:-1]
    while parts:
        module = model.get_submodule(".".join(parts))
        if any(isinstance(child, nn.ModuleList) for child in module.children()):
            return ".".join(parts)
        parts.pop()
    raise ConfigError(f"model.path: {type(model).__name__} has no language model apart from the rest")


def _vision_tower(model: Any, language: str) -> str:
    """The outermost submodel made from `config.vision_config`."""
    config = getattr(model.config, "vision_config", None)
    if config is not None:
        for name, module in model.named_modules():
            if name and isinstance(module, PreTrainedModel) and type(module.config) is type(config):
                if language.startswith(f"{name}."):
                    continue
                return str(name)
    raise ConfigError(f"model.path: {type(model).__name__} has no vision tower made from config.vision_config")
