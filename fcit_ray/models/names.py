"""How the bank's parameters are called.

`<module path>.lora_A.s<k>.weight` are PEFT's own names for its adapter `s<k>`. A method's own parameters (a router, a
prompt) may belong to an adapter too: then `s<k>` is one part of their name; otherwise all clients share them, as they
do the projector.
"""

import re

_ADAPTER = re.compile(r"\.s(\d+)\.")
_FACTOR = re.compile(r"\.lora_([AB])\.")


_RESIDUAL = ".residual"


def residual_of(layer: str) -> str:
    """Name of the matrix beside a layer's frozen weight that some LoRA rules keep, and no client trains."""
    return f"{layer}{_RESIDUAL}"


def is_residual(parameter: str) -> bool:
    return parameter.endswith(_RESIDUAL)


def adapter_name(index: int) -> str:
    """PEFT's adapter name of the bank's adapter `index`."""
    return f"s{index}"


def adapter_index(parameter: str) -> int | None:
    """The adapter that a parameter belongs to, or None if all clients share it (the projector)."""
    found = _ADAPTER.search(parameter)
    return int(found.group(1)) if found else None


def lora_factor(parameter: str) -> str | None:
    """ "A" or "B", or None if the parameter is no LoRA factor."""
    found = _FACTOR.search(parameter)
    return found.group(1) if found else None


def partner(parameter: str) -> str:
    """Name of the other factor of the same LoRA."""
    here, other = ("A", "B") if lora_factor(parameter) == "A" else ("B", "A")
    return parameter.replace(f".lora_{here}.", f".lora_{other}.")


def layer_of(parameter: str) -> str:
    """Module path of the linear layer that a LoRA factor adapts."""
    return parameter[: parameter.index(".lora_")]
