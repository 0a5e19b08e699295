"""How long a run will take: the operations of its steps over what a device can do, with the basis of every number."""

import math
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from fcit_ray.errors import ConfigError
from fcit_ray.planning.memory import Load
from fcit_ray.planning.shapes import Shapes

if TYPE_CHECKING:
    from fcit_ray.config.runtime import Runtime

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

    def shared(self, runtime: "Runtime") -> "Device":
        """What a worker has of it by `gpus_per_worker`: that part of its memory and, as the workers on it take turns,
        of its speed. Of groups that differ, the least memory, as the run must fit everywhere, and the mean speed."""
        if not self.is_gpu:
            return self
        all_alike = [(runtime.num_workers, runtime.gpus_per_worker)]
        groups = [(group.num_workers, group.gpus_per_worker or runtime.gpus_per_worker)
                  for group in runtime.worker_groups] or all_alike  # fmt: skip
        least = min(share for _, share in groups)
        mean = sum(num * share for num, share in groups) / sum(num for num, _ in groups)
        if mean == 1:
            return self
        return replace(
            self,
            name=f"{least:g} of {self.name}",
            peak=self.peak * mean,
            bandwidth=self.bandwidth * mean,
            memory=self.memory * least,
        )


def workers_on(gpus: int, runtime: "Runtime") -> int:
    """How many workers so many GPUs carry.

    Raises:
        ConfigError: groups of workers say that already, or they carry none.
    """
    if runtime.worker_groups:
        raise ConfigError("runtime.worker_groups: says how many workers there are, and --gpus too; expected one")
    return gpus * math.floor(1 / runtime.gpus_per_worker + 1e-9)


_GPUS = {
    # 10^12/s dense: bfloat16, and float32 without tensor cores (torch's default); memory bandwidth, 10^9 B/s; memory,
    # 10^9 B (NVIDIA's data sheets; those without PCIe or NVL in the name are SXM where there are several)
    "B200": (2250, 75, 8000, 180),
    "H200": (989, 67, 4800, 141),
    "H100": (989, 67, 3350, 80),
    "H100 PCIe": (756, 51, 2000, 80),
    "H100 NVL": (835, 60, 3938, 94),
    "A100-80GB": (312, 19.5, 2039, 80),
    "A100-40GB": (312, 19.5, 1555, 40),
    "L40S": (362, 91.6, 864, 48),
    "A6000": (155, 38.7, 768, 48),
    "RTX 4090": (165, 82.6, 1008, 24),
    "RTX 3090": (71, 35.6, 936, 24),
    "A10": (125, 31.2, 600, 24),
    "L4": (121, 30.3, 300, 24),
}
_MAKES = {"nvidia", "geforce", "rtx", "sxm", "sxm4", "sxm5", "hbm2", "hbm2e", "hbm3", "hbm3e"}
"""Words of a name that tell no two of the table apart."""
_SIZE = re.compile(r"\d+gb")
_MEASURED_SIDE = 1024


def named_gpu(name: str, memory_gb: float | None = None, dtype: str = "bfloat16") -> Device:
    """A GPU by its data sheet.

    Args:
        name: as in the table or as torch tells it, in any case. It is compared by whole words: an A10G is no A10, and
            what the table does not know is refused rather than taken for a card of a similar name.
        memory_gb: instead of the data sheet's, 10^9 bytes; chooses where the name leaves several.
        dtype: `float32` or `bfloat16`, of the peak.

    Raises:
        ValueError: not in the table, or several in it; lists what is.
    """
    fits = _rows(name)
    if not fits:
        raise ValueError(f"{name!r}: unknown GPU; known: {', '.join(_GPUS)}; or give --gpu-memory-gb alone")
    if len(fits) > 1 and memory_gb is None:
        raise ValueError(f"{name!r}: may be {' or '.join(fits)}; name one of these, or give --gpu-memory-gb too")
    known = min(fits, key=lambda row: abs(_GPUS[row][-1] - (memory_gb or 0)))
    half, single, bandwidth, size = _GPUS[known]
    peak = half if dtype == "bfloat16" else single
    basis = f"data sheet of {known}, dense {dtype}"
    return Device(known, peak * 1e12, bandwidth * 1e9, (memory_gb or size) * 1e9, basis)


def found_gpu(memory_gb: float | None = None, dtype: str = "bfloat16") -> Device | None:
    """This process's first GPU, its memory as torch tells it and its peak by data sheet if it is in the table."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    memory = memory_gb * 1e9 if memory_gb else float(found.total_memory)
    try:
        sheet = named_gpu(found.name, found.total_memory / 1e9, dtype)
    except ValueError:
        return Device(found.name, 0.0, 0.0, memory, "not in the table: no time is estimated")
    return Device(found.name, sheet.peak, sheet.bandwidth, memory, sheet.basis)


def this_cpu(dtype: str = "float32") -> Device:
    """One CPU thread, measured here and now: a square matrix product of this dtype, the best of three."""
    side = _MEASURED_SIDE
    left, right = (torch.ones(side, side, dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return Device("CPU", 2 * side**3 / min(seconds), basis=f"measured: a {dtype} matrix product in this process")


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
    tower = 2 * shapes.vision * load.batch * load.tiles * shapes.tower_tokens
    return passes * decoder + head + tower + 6 * tokens * load.trained


def answer_seconds(
    shapes: Shapes, load: Load, base_bytes: float, tokens: float, new_tokens: float, to: Device
) -> float:
    """Seconds to answer one question of a full batch: its prompt at the assumed share of the peak, then word by word.

    Every new token of a batch reads the weights once, and a batch goes on until its longest answer ends.
    """
    prompt = tokens * 2 * shapes.linear + 2 * shapes.vision * load.tiles * shapes.tower_tokens
    words = new_tokens * base_bytes / to.bandwidth / load.answer_batch if to.bandwidth else 0.0
    if not to.bandwidth:
        words = new_tokens * 2 * shapes.language / (to.peak * UTILISATION)
    return prompt / (to.peak * UTILISATION) + words


def _rows(name: str) -> list[str]:
    """The table's cards that a name fits: the same words, and no other size of memory."""
    given = _words(name)
    for words in (given, given - {"pcie"}):  # a card whose PCIe form is as fast has no row of its own
        model = {word for word in words if not _SIZE.fullmatch(word)}
        fits = [
            known
            for known, (*_, size) in _GPUS.items()
            if {word for word in _words(known) if not _SIZE.fullmatch(word)} == model and words - model <= {f"{size}gb"}
        ]
        if fits:
            return fits
    return []


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower())) - _MAKES - {""}
