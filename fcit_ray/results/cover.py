"""What figures are made of, proven by digests: a run that goes on from other files would end with other figures.

Every checkpoint says how metrics.jsonl began when it was written, of which configuration the run is, and who held which
data; results.json says the same of the end. What is appended after a checkpoint (an evaluation) is free until the next.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fcit_ray.storage.plain_yaml import read_yaml

# runtime.* says where the clients run, not what they compute, with this exception: GPU arithmetic rounds otherwise.
# tracking.* says who else is told. failures.* says what becomes of a client that fails: where none does nothing, and
# where one did it is what a resume is to change (`failures.then=drop`); the rounds' records say who was left out.
DECIDES_BITS = frozenset({"runtime.gpu"})

METRICS, CONFIG, PARTITION = "metrics.jsonl", "config", "partition"


def cover(metrics: Path, config: Path, partition: Path) -> dict[str, Any]:
    """What a checkpoint says of the files beside it; a file that is not there is null."""
    content = _read(metrics) or b""
    return {
        METRICS: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        CONFIG: config_sha256(config),
        PARTITION: json_sha256(json.loads(partition.read_text(encoding="utf-8"))) if partition.is_file() else None,
    }


def metrics_fault(metrics: Path, said: Mapping[str, Any]) -> str:
    """What has become of metrics.jsonl since `said` was written; empty if it begins as it did then."""
    size, digest = said[METRICS]["bytes"], said[METRICS]["sha256"]
    content = _read(metrics)
    if content is None:
        return "" if not size else "missing"
    if len(content) < size:
        return f"cut: holds {len(content)} bytes of {size}"
    if hashlib.sha256(content[:size]).hexdigest() != digest:
        return f"edited: its first {size} bytes have another SHA-256"
    return ""


def config_sha256(config: Path) -> str | None:
    """Of what a configuration file says that decides bits, however it is laid out; None if there is no such file."""
    content = _read(config)
    return None if content is None else _yaml_sha256(content)


@lru_cache(maxsize=8)  # every checkpoint asks, of a file that stays as it is
def _yaml_sha256(content: bytes) -> str:
    return values_sha256(read_yaml(content))


def values_sha256(values: Any) -> str:
    """Of a configuration's plain values, without those that do not change a run's bits."""
    return json_sha256({key: value for key, value in flat(values).items() if decides_bits(key)})


def decides_bits(key: str) -> bool:
    """Whether a dotted key of the configuration may change the bits of a run."""
    return not key.startswith(("runtime.", "tracking.", "failures.")) or key in DECIDES_BITS


def json_sha256(value: Any) -> str:
    """Of a JSON value, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys; lists stay whole."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def predictions_label(stage: int) -> str:
    """The folder of the predictions after a stage; -1 is zero-shot."""
    return f"stage_{stage:04d}" if stage >= 0 else "zero_shot"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
