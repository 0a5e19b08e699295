"""Trees of a server's state as JSON beside tensors by their path, and back, bit for bit.

Path parts are joined by "/", with "~" written ~0 and "/" written ~1 (RFC 6901), so no two paths share a key.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fcit_ray.errors import CheckpointError
from fcit_ray.storage.safe_tensors import DTYPES
from fcit_ray.storage.trees import Place


def encode_tensor(value: Tensor, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What stands in the place of a tensor; its bytes go under `key` into `tensors`, as safetensors stores them.

    Raises:
        CheckpointError: not a dense tensor with data, or of a name that the format keeps for itself.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise CheckpointError(f"{key}: expected a dense tensor with data, got {type(value).__name__} {value!r:.60}")
    if key == "__metadata__":
        raise CheckpointError(f"{key}: the safetensors format reserves this name; call the parameter otherwise")
    plain = value.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    if plain.dtype in DTYPES:
        tensors[key] = plain
        return {"$tensor": key}
    tensors[key] = plain.reshape(-1).view(torch.uint8)
    return {"$tensor": key, "dtype": str(plain.dtype).removeprefix("torch."), "shape": list(plain.shape)}


def decode_tensor(value: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    """The tensor that `value` stands for, or its place, if `tensors` are places."""
    stored = tensors[value["$tensor"]]
    if "dtype" not in value:
        return stored
    dtype = getattr(torch, value["dtype"])
    if isinstance(stored, Place):
        return replace(stored, dtype=dtype, shape=tuple(value["shape"]))
    return stored.view(dtype).reshape(value["shape"])


def encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a tree; what JSON lacks becomes a mapping of one key with "$" (a user's own "$" key is doubled)."""
    if isinstance(value, Tensor):
        return encode_tensor(value, path, tensors)
    if isinstance(value, Mapping):
        return {
            "$" + key if key.startswith("$") else key: encode(item, f"{path}/{escape(key)}", tensors)
            for key, item in ((checked_key(key, path), item) for key, item in value.items())
        }
    if type(value) in (list, tuple):
        items = [encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        # JSON has no inf and no nan; the sixteen hexadecimal digits keep even a nan's payload.
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    # Subclasses (numpy.float64, named tuples, enumerations) would come back as something else: refused, not flattened.
    raise CheckpointError(
        f"{path}: a checkpoint holds tensors, numbers, texts, bools, None, lists, tuples and mappings, "
        f"not {type(value).__module__}.{type(value).__qualname__}"
    )


def decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return decode_tensor(value, tensors)
    if "$tuple" in value:
        return tuple(decode(item, tensors) for item in value["$tuple"])
    if "$float" in value:
        return struct.unpack(">d", bytes.fromhex(value["$float"]))[0]
    return {key[1:] if key.startswith("$$") else key: decode(item, tensors) for key, item in value.items()}


def checked_key(key: Any, path: str) -> str:
    """A key of a mapping, which must be text."""
    if type(key) is not str:
        raise CheckpointError(f"{path}: keys are texts, got {key!r} of type {type(key).__name__}")
    return key


def escape(key: str) -> str:
    """A key as a part of a path."""
    return key.replace("~", "~0").replace("/", "~1")
