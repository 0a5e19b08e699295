"""Ray's object store as the runtime's shared memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import ray.util
import torch

from fcit_ray.runtime.messages import ValueLost


class RayStore:
    """Values in the object store; a handle is a reference inside a list, or Ray would fetch it at every call."""

    def put(self, value: Any) -> Any:
        return [ray.put(value)]

    def get(self, handles: Sequence[Any]) -> list[Any]:
        """All in one call: each costs about as much as a megabyte."""
        try:
            values: list[Any] = ray.get([handle[0] for handle in handles])
        except ray.exceptions.ObjectLostError as error:
            raise ValueLost(str(error)) from error
        return values


def share_tensors() -> None:
    """Send tensors as NumPy arrays from this process on: those travel out of band, without being pickled.

    What arrives is copied, once: arrays in the object store are read-only, which a tensor cannot be.
    """
    ray.util.register_serializer(torch.Tensor, serializer=_to_array, deserializer=_from_array)


# Not lambdas: those would be pickled whole into every message, for two milliseconds each.
def _to_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _from_array(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())
