"""Which of a run's workers this process is."""

from collections.abc import Mapping
from typing import Any

import ray.train

from fcit_ray.runtime.shape import ALONE, FIRST_RANK


def rank_of(context: Mapping[str, Any]) -> int:
    """Of this worker, among all of its run or crew."""
    return int(context[FIRST_RANK]) + (0 if context.get(ALONE) else ray.train.get_context().get_world_rank())
