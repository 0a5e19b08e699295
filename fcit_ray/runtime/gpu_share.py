"""A worker that has a share of a GPU leaves the others theirs."""

import torch

CONTEXT_BYTES = 1.0e9
"""What a process takes of a GPU before it computes, which torch's limit does not count; planning assumes as much."""


def memory_fraction(share: float, total: float) -> float:
    """The part of a GPU's memory that torch may take in one process, so that all processes of this share fit.

    Args:
        share: of the GPU, above 0, at most 1.
        total: bytes of its memory.

    Raises:
        ValueError: nothing would be left of the share.
    """
    left = share - CONTEXT_BYTES / total
    if left <= 0:
        raise ValueError(
            f"runtime.gpus_per_worker: {share:g} of this GPU are {share * total / 1e9:.1f} GB, and a process takes "
            f"{CONTEXT_BYTES / 1e9:g} GB of it before it computes; expected a larger share"
        )
    return left


def keep_to_share(share: float) -> None:
    """Have torch take no more of this process's GPU than its share; a whole one is left as it is.

    Raises:
        ValueError: as `memory_fraction`.
    """
    if share < 1:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_fraction(share, total))
