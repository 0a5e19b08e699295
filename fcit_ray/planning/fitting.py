"""Whether a run fits its GPU, and if not the smallest change that makes it fit, by the formulas of `memory`."""

from dataclasses import replace

from fcit_ray.planning.memory import Load, Memory, memory
from fcit_ray.planning.shapes import Shapes

TIGHT = 0.9
"""Share of the GPU's memory from which a user is warned: the formulas leave out what nobody can foresee."""


def smallest_change(shapes: Shapes, load: Load, available: float) -> tuple[str, Memory]:
    """What to change so that a load fits, in words with the keys to set; and what it needs then.

    Tried in this order: gradient checkpointing, smaller micro-batches, both, bfloat16 and bfloat16 with these where it
    is float32, four bits (which compute in bfloat16 alone) and four bits with these; if nothing helps, the memory that
    the load needs.
    """
    checkpointed, halved = replace(load, checkpointing=True), replace(load, half=True)
    quantized = replace(halved, four_bit=True)
    changed = [start for base in (halved, quantized) for start in (base, replace(base, checkpointing=True))]
    for start in dict.fromkeys((load, checkpointed, *changed)):
        if memory(shapes, start).total <= available and start != load:
            return _words(load, start), memory(shapes, start)
        # One change before two: checkpointing alone comes before smaller batches.
        if start == load and memory(shapes, checkpointed).total <= available:
            return _words(load, checkpointed), memory(shapes, checkpointed)
        smaller = _shrunk(shapes, start, available)
        if smaller is not None:
            return _words(load, smaller), memory(shapes, smaller)
    need = memory(shapes, load)
    return f"a GPU with {need.total / 1e9:.0f} GB", need


def _shrunk(shapes: Shapes, load: Load, available: float) -> Load | None:
    """The load with batches halved until it fits, only that of training or of answering where one is enough."""
    while (need := memory(shapes, load)).total > available:
        if need.training > available and load.batch > 1:
            load = replace(load, batch=load.batch // 2)
        elif need.training <= available and load.answer_batch > 1:
            load = replace(load, answer_batch=load.answer_batch // 2)
        else:
            return None
    return load


def _words(before: Load, after: Load) -> str:
    changes = []
    if after.checkpointing != before.checkpointing:
        changes.append("train.gradient_checkpointing=true")
    if after.batch != before.batch:
        changes.append(f"train.micro_batch_size={after.batch}")  # the same steps, in more pieces
    if after.answer_batch != before.answer_batch:
        changes.append(f"evaluation.batch_size={after.answer_batch}")
    if after.half != before.half:
        changes.append("model.dtype=bfloat16")
    if after.four_bit != before.four_bit:
        changes.append("model.quantize=4bit")
    return " ".join(changes)
