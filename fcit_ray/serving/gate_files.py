"""The gate of an export: whether a method's answers can be given without the method, and the files that say how.

    gate.json          what weighs the adapters, and how the run asked its questions
    gate.safetensors   the identity tokens (`remembered`), or a router a layer under the layer's path
    load_gated.py      the program that follows them

Legend: U remembered vectors, D features, K adapters.
"""

import shutil
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from transformers import GenerationConfig

from fcit_ray.errors import ExportError
from fcit_ray.federated.gates import ConstantGate, PortableGate, RouterGate, SimilarityGate
from fcit_ray.models.chat import stop_tokens
from fcit_ray.models.load import load_processor
from fcit_ray.models.processor import pads_to_square
from fcit_ray.models.prompt import IMAGE_TOKEN, Turn, render
from fcit_ray.serving.packing import Weights, all_one
from fcit_ray.serving.source import Source
from fcit_ray.storage.safe_tensors import save_tensors
from fcit_ray.storage.strict_json import dump_json

SETTINGS: Final = "gate.json"
TENSORS: Final = "gate.safetensors"
LOADER: Final = "load_gated.py"

SampleGate = SimilarityGate | RouterGate
"""What one set of weights cannot stand for."""

_DECIDES: Final = ("gate", "prompts", "install")
"""Hooks of a method by which answers may become more than a sum of adapters."""


def gate_of(source: Source) -> PortableGate | None:
    """How the run's answers weigh its adapters.

    Raises:
        ExportError: the method (a user's own) does more than it says as data.
    """
    method = source.algorithm.method
    order = [vars(cls) for cls in type(method).__mro__]

    def place(hook: str) -> int:
        return next(index for index, own in enumerate(order) if hook in own)

    # One that inherits `portable_gate` and overrides `gate` again would be exported with the gate of its base.
    unsaid = [hook for hook in _DECIDES if method.overrides(hook) and place(hook) < place("portable_gate")]
    if unsaid:
        raise ExportError(
            f"{source.trained.source}: {type(method).__name__} overrides {' and '.join(f'`{h}`' for h in unsaid)}, so "
            "its answers may be more than the sum of its adapters, and no loader knows how; override `portable_gate` "
            f"to say so, or ask the run itself: fcit-ray predict {source.trained.source}"
        )
    return method.portable_gate(
        source.deployed, source.trained.state.knowledge, source.layers, source.bank.num_adapters
    )


def constant_scale(gate: PortableGate | None) -> float | None:
    """The one number that all adapters of a constant gate count, those of weight 0 apart; None if there is no one."""
    if not isinstance(gate, ConstantGate):
        return 1.0
    counted = set(gate.weights) - {0.0}
    return counted.pop() if len(counted) == 1 and 0.0 not in gate.weights else None


def folded(gate: PortableGate | None, mean: list[float] | None = None) -> Weights:
    """The weights that stand for a gate where there can be but one set of them.

    Args:
        gate: of the run.
        mean: of a task's questions, (K,), in the place of a sample's own.
    """
    if isinstance(gate, ConstantGate):
        return lambda layer: gate.weights
    if isinstance(gate, SimilarityGate):
        assert mean is not None, "a gate that differs from sample to sample"
        layers = gate.layers
        return lambda layer: mean if layers is None or layer in layers else None
    assert gate is None, "a router weighs every token by itself"
    return all_one


def write_gate(folder: Path, source: Source, gate: SampleGate) -> None:
    """Write the three files.

    Raises:
        ModelError: the base's processor is not here.
        OSError: the disk is full, or the like.
    """
    tensors: dict[str, Tensor]
    said: dict[str, Any] = {"kind": "router", "activation": None, "temperature": None, "layers": None, "refused": None}
    if isinstance(gate, SimilarityGate):
        tensors = {"remembered": gate.remembered.float().contiguous()}
        said = {
            "kind": "similarity",
            "activation": gate.activation,
            "temperature": gate.temperature,
            "layers": None if gate.layers is None else sorted(gate.layers),
            "refused": why_not_text(source),
        }
    else:
        tensors = {layer: router.contiguous() for layer, router in gate.routers.items()}
    bank = source.bank
    said |= {"num_adapters": bank.num_adapters, "rank": bank.rank, **asking(source)}
    save_tensors(tensors, folder / TENSORS)
    (folder / SETTINGS).write_text(dump_json(said), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(LOADER), folder / LOADER)


def asking(source: Source) -> dict[str, Any]:
    """How the run asked its questions: what is around them, what ends an answer, what becomes of a picture."""
    config = source.config
    processor = load_processor(config.model.path)
    tokenizer = processor.tokenizer
    prompt = prompt_around(config.model.prompt)
    if prompt is None:
        content = [{"type": "image"}, {"type": "text", "text": "?"}]
        turns = [{"role": "user", "content": content}]
        begins = str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    else:
        begins = prompt[0]
    stop = stop_tokens(processor, config.model.prompt, _generation(source))
    square = None
    if pads_to_square(type(processor)):
        square = [int(value * 255) for value in processor.image_processor.image_mean]
    return {
        "prompt": prompt,
        "add_special_tokens": tokenizer.bos_token is None or not begins.startswith(tokenizer.bos_token),
        "stop": stop,
        "pad": stop[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        "max_new_tokens": config.evaluation.max_new_tokens,
        "square": square,
        "dtype": config.model.dtype,
        "quantize": config.model.quantize,
    }


def prompt_around(template: str) -> list[str] | None:
    """What stands before and behind a question; None is the model's own chat template."""
    if template == "chat":
        return None
    before, _, after = render([Turn("\0")], template, "")[0].partition("\0")
    assert IMAGE_TOKEN in before, template
    return [before, after]


def _generation(source: Source) -> Any:
    """Of the base, as loading it whole would find it."""
    if (source.base / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(source.base, local_files_only=True)
    return source.bank.model.generation_config


def why_not_text(source: Source) -> str | None:
    """Why a loader without fcit_ray cannot compute the features that the gate compares, or None."""
    model = source.config.model
    if model.identity == "text" and model.identity_encoder == "base":
        return None
    of = {"text": "the question", "image": "the picture", "both": "question and picture"}[model.identity]
    encoder = "the base's vision tower" if model.identity_encoder == "base" else "a CLIP model"
    return (
        f"this gate compares features of {of} by {encoder} (model.identity={model.identity}, "
        f"model.identity_encoder={model.identity_encoder}), which this loader does not compute: it knows the base's "
        "token embeddings alone; answer with `fcit-ray predict`"
    )
