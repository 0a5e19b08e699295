"""How the bank's parameters are called: `<module path>.lora_A.s<k>.weight`, PEFT's own names for its adapter `s<k>`."""

import re

_ADAPTER = re.compile(r"\.lora_[AB]\.s(\d+)\.")


def adapter_name(index: int) -> str:
    """PEFT's adapter name of the bank's adapter `index`."""
    return f"s{index}"


def adapter_index(parameter: str) -> int | None:
    """The adapter that a parameter belongs to, or None if all clients share it (the projector)."""
    found = _ADAPTER.search(parameter)
    return int(found.group(1)) if found else None
