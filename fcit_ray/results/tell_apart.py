"""Which finished runs belong into one row of a table: those that differ in nothing but the seed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fcit_ray.errors import UserError
from fcit_ray.results.cover import decides_bits, flat

_SHOWN = 3
"""Keys in a label; how many more differ is said."""
_SAID_ELSEWHERE = ("evaluation.scoring", "evaluation.captions")
"""Tables say by which rules was scored by themselves."""


_UNKNOWN = "configuration unknown"


def tell_apart(results: Iterable[Mapping[str, Any]], sources: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """The same results with labels by which unlike runs are told apart, each run once.

    Runs are alike if their whole resolved configuration is, but for `seed` and the `runtime.*` and `tracking.*` keys
    that do not change bits. Where unlike runs share a label, what differs is added to it: `DISCO (train.epochs=2)`.
    Those of an older release, which did not keep the configuration, are alike if they answered and scored the same.

    Args:
        results: of results.json.
        sources: where each comes from, for messages.

    Raises:
        UserError: two runs of one configuration and seed have come to different ends.
    """
    results = list(results)
    sources = sources or [f"run {number} given" for number in range(1, len(results) + 1)]
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    seen: dict[tuple[str, str, int], tuple[Any, str]] = {}
    kept: list[tuple[Mapping[str, Any], str]] = []
    for result, source in zip(results, sources, strict=True):
        identity = _identity(result)
        key = json.dumps(identity, sort_keys=True)
        groups.setdefault(result["label"], {})[key] = identity
        end = (result.get("adapters_sha256"), result.get("last"))
        first, where = seen.setdefault((result["label"], key, result["seed"]), (end, source))
        if where == source:
            kept.append((result, key))
        elif first != end:
            raise UserError(
                f"{where} and {source}: runs of one configuration and seed ({result['label']}, seed {result['seed']}) "
                "that ended otherwise (on different machines?); counted twice they would understate the spread: give "
                "one of them, or give them different names (name=...)"
            )
    labels = {label: _all_labels(label, identities) for label, identities in groups.items()}
    return [{**result, "label": labels[result["label"]][key]} for result, key in kept]


def _identity(result: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of one row have in common."""
    if "config" in result:
        values = flat(result["config"])
        return {key: value for key, value in values.items() if decides_bits(key) and key not in ("seed", "name")}
    return {
        _UNKNOWN: True,
        "tasks": list(result["tasks"]),
        "transfer": sorted(result.get("transfer", {}).get("scores", {})),
        "evaluation.scoring": result.get("scoring"),
        "evaluation.captions": result.get("captions"),
    }


def _all_labels(label: str, identities: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A label for each of the unlike runs that share one; those of unknown configuration apart from the others."""
    unknown = {key: identity for key, identity in identities.items() if _UNKNOWN in identity}
    known = {key: identity for key, identity in identities.items() if _UNKNOWN not in identity}
    return {**_labels(f"{label} (configuration unknown)" if known else label, unknown), **_labels(label, known)}


def _labels(label: str, identities: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A label for each of the unlike runs that share one."""
    keys = dict.fromkeys(key for identity in identities.values() for key in identity)
    told = [
        key
        for key in keys
        if key not in _SAID_ELSEWHERE
        and len({json.dumps(identity.get(key), sort_keys=True) for identity in identities.values()}) > 1
    ]
    labels = {}
    for name, identity in identities.items():
        parts = [f"{key}={_short(identity[key])}" for key in told if key in identity]
        more = [f"{len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
        labels[name] = f"{label} ({', '.join([*parts[:_SHOWN], *more])})" if parts else label
    if len(set(labels.values())) < len(labels) and told:  # what is shown is alike, what is not differs
        labels = {name: f"{text} #{number}" for number, (name, text) in enumerate(labels.items(), start=1)}
    return labels


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value):
        value = [item["name"] for item in value]  # tasks
    text = (
        value if isinstance(value, str) else ",".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
    )
    return text if len(text) <= 30 else f"{text[:29]}…"
