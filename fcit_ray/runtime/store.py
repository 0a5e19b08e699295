"""Ray's object store as the runtime's shared memory."""

import warnings
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


_copies = True


def share_tensors(*, copies: bool = True) -> None:
    """Send tensors as NumPy arrays from this process on: those travel out of band, without being pickled.

    Args:
        copies: whether what arrives in this process is copied, once. Arrays in the object store are shared: a hook that
            changes a tensor of them would change it for every process of the node. Only who gives no hook what others
            are given too may look at them where they are.
    """
    global _copies
    _copies = copies
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    ray.util.register_serializer(torch.Tensor, serializer=_to_array, deserializer=_from_array)


# Not lambdas: those would be pickled whole into every message, for two milliseconds each.
def _to_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _from_array(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy() if _copies else array)
