"""Identity features in the object store: put once, mapped by every process of a node, copied by none."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import ray

from fcit_ray.data.loading.features import FeatureTable, Half


@dataclass(frozen=True)
class SharedFeatures:
    """Features by reference; travels for nothing.

    Attributes:
        parts: by half references to the keys and to the features (`FeatureTable`).
    """

    parts: Mapping[Half, tuple[Any, Any]]

    def row(self, half: Half, key: bytes) -> np.ndarray:
        """As `Features.row`."""
        return _table(half, *self.parts[half]).row(half, key)


def share(table: FeatureTable) -> SharedFeatures:
    """Put a table into the object store."""
    return SharedFeatures({half: (ray.put(keys), ray.put(rows)) for half, (keys, rows) in table.halves.items()})


@lru_cache(maxsize=4)
def _table(half: Half, keys: Any, rows: Any) -> FeatureTable:
    """Once in a process: fetching a value takes longer than looking into it."""
    return FeatureTable({half: tuple(ray.get([keys, rows]))})
