"""Values as JSON that every reader takes: no nan, no infinity."""

import json
import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """JSON has no nan and no inf; what is undefined is null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def dump_json(value: Mapping[str, Any]) -> str:
    """A document for people to read as well."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
