"""How long a run will take: the operations of its steps over what a device can do, with the basis of every number."""

import time
from dataclasses import dataclass

import torch

from fcit_ray.memory import Load, Shapes

UTILISATION = 0.4
"""Assumed: share of a device's peak that a step of a frozen base reaches; benchmarks/client_update.py measures it."""


@dataclass(frozen=True)
class Device:
    """What a worker computes on.

    Attributes:
        name: of the device.
        peak: floating-point operations a second of dense matrix products in the run's dtype.
        bandwidth: bytes a second from its memory; 0 where it is not known.
        memory: bytes; 0 where nothing is refused (a CPU).
        basis: where the peak comes from.
    """

    name: str
    peak: float
    bandwidth: float = 0.0
    memory: float = 0.0
    basis: str = ""

    @property
    def is_gpu(self) -> bool:
        return self.memory > 0


_GPUS = {
    # bfloat16 dense, 10^12/s; memory bandwidth, 10^9 B/s; memory, 10^9 B (NVIDIA's data sheets)
    "B200": (2250, 8000, 180),
    "H200": (989, 4800, 141),
    "H100": (989, 3350, 80),
    "A100-80GB": (312, 2039, 80),
    "A100-40GB": (312, 1555, 40),
    "L40S": (362, 864, 48),
    "A6000": (155, 768, 48),
    "RTX 4090": (165, 1008, 24),
    "RTX 3090": (71, 936, 24),
    "A10": (125, 600, 24),
    "L4": (121, 300, 24),
}
_MEASURED_SIDE = 1024


def named_gpu(name: str, memory_gb: float | None = None) -> Device:
    """A GPU by its data sheet.

    Args:
        name: part of a name in the table, in any case.
        memory_gb: instead of the data sheet's, 10^9 bytes.

    Raises:
        ValueError: not in the table; lists what is.
    """
    for known, (peak, bandwidth, size) in _GPUS.items():
        if _plain(name) in _plain(known) or _plain(known) in _plain(name):
            memory = (memory_gb or size) * 1e9
            return Device(known, peak * 1e12, bandwidth * 1e9, memory, "data sheet, dense bfloat16")
    raise ValueError(f"{name!r}: unknown GPU; known: {', '.join(_GPUS)}; or give --gpu-memory-gb alone")


def found_gpu(memory_gb: float | None = None) -> Device | None:
    """This process's first GPU, its memory as torch tells it and its peak by data sheet if it is in the table."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    memory = memory_gb * 1e9 if memory_gb else float(found.total_memory)
    try:
        sheet = named_gpu(found.name.removeprefix("NVIDIA "))
    except ValueError:
        return Device(found.name, 0.0, 0.0, memory, "not in the table: no time is estimated")
    return Device(found.name, sheet.peak, sheet.bandwidth, memory, sheet.basis)


def this_cpu() -> Device:
    """One CPU thread, measured here and now: a square float32 matrix product, the best of three."""
    side = _MEASURED_SIDE
    left, right = torch.ones(side, side), torch.ones(side, side)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return Device("CPU", 2 * side**3 / min(seconds), basis="measured: a float32 matrix product in this process")


def step_flops(shapes: Shapes, load: Load) -> float:
    """Floating-point operations of one training step, a multiply-add counted as two.

    Forward: 2 a weight and token in the decoder, 4 L H a token and layer in attention, the head where there are logits,
    the tower for every picture. Backward: as much again in the decoder, whose weights get no gradient; with
    checkpointing the decoder's forward once more. The adapters' own two passes are counted with their gradients.
    """
    tokens = load.batch * load.tokens
    queries = shapes.heads * shapes.head_dim
    decoder = tokens * (2 * shapes.linear + 4 * load.tokens * queries * shapes.layers)
    passes = 3 if load.checkpointing else 2
    head = 2 * 2 * load.batch * load.answer_tokens * shapes.width * shapes.vocabulary
    tower = 2 * shapes.vision * load.batch * shapes.tower_tokens
    return passes * decoder + head + tower + 6 * tokens * load.trained


def training_seconds(flops: float, steps_in_a_row: float, peak: float, utilisation: float) -> float:
    """Seconds of `steps_in_a_row` steps at a share of the device's peak."""
    return steps_in_a_row * flops / (peak * utilisation)


def answer_seconds(
    shapes: Shapes, load: Load, base_bytes: float, tokens: float, new_tokens: float, to: Device
) -> float:
    """Seconds to answer one question of a full batch: its prompt at the assumed share of the peak, then word by word.

    Every new token of a batch reads the weights once, and a batch goes on until its longest answer ends.
    """
    prompt = tokens * 2 * shapes.linear + 2 * shapes.vision * shapes.tower_tokens
    words = new_tokens * base_bytes / to.bandwidth / load.answer_batch if to.bandwidth else 0.0
    if not to.bandwidth:
        words = new_tokens * 2 * shapes.language / (to.peak * UTILISATION)
    return prompt / (to.peak * UTILISATION) + words


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")
