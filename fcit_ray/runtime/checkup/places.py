"""What follows from the facts about data, model and run folder: whether every node sees the same."""

from collections.abc import Mapping

from fcit_ray.runtime.checkup.facts import Cluster, Finding
from fcit_ray.storage.location import is_uri, redact

_REMEDIES = {
    "data": "mount it there at the same path, or name a bucket (benchmark.root=s3://...)",
    "model": "put the model's folder at the same path on every node, or fetch it there beforehand (`hf download`)",
}


def read_places(cluster: Cluster, read: Mapping[str, str]) -> list[Finding]:
    """Whether every node can read what the run reads, and finds the same in it.

    Args:
        cluster: that was looked at.
        read: by role, what is read.
    """
    found = []
    for role, place in read.items():
        said = redact(place)
        kind = "data" if role == "data" else "model"
        reasons = {node.name: reason for node in cluster.nodes if (reason := node.places.get(role, ""))}
        for reason in dict.fromkeys(reasons.values()):
            names = ", ".join(name for name, other in reasons.items() if other == reason)
            found.append(Finding("fail", role, f"{names}: {said}: {_without(reason, place)}", _REMEDIES[kind]))
        listings = {node.listing.get(role, "") for node in cluster.nodes if not node.places.get(role)}
        if len(listings) > 1:
            names = ", ".join(node.name for node in cluster.nodes if not node.places.get(role))
            found.append(
                Finding(
                    "fail", role, f"{said} holds other files on some of {names}",
                    "copy it anew from one of them, or let all mount one: nodes that read other records give a run "
                    "that nobody can repeat",
                )
            )  # fmt: skip
        elif not reasons and cluster.nodes:
            found.append(Finding("ok", role, f"{said}: read by every node"))
    return found


def run_folder(cluster: Cluster, place: str) -> list[Finding]:
    """Whether every node can write where the run folder will be, and sees what others write there."""
    said = redact(place)
    bad = {node.name: reason for node in cluster.nodes if (reason := node.places.get("run", ""))}
    if len(bad) == len(cluster.nodes) and len(set(bad.values())) == 1 and cluster.nodes:
        return [Finding("fail", "run folder", f"{said}: {next(iter(bad.values()))}", "give another place with --out")]
    found = [
        Finding(
            "fail", "run folder", f"{name}: {said}: {reason}",
            "--out must lie on storage that all nodes share (NFS, or what `ray start` machines mount alike)",
        )
        for name, reason in bad.items()
    ]  # fmt: skip
    if found or not cluster.nodes:
        return found
    alone = len(cluster.nodes) == 1 and not is_uri(place)
    return [Finding("ok", "run folder", f"{said}: {'can be written' if alone else 'written and seen by every node'}")]


def cache_folder(place: str, reason: str) -> list[Finding]:
    """Whether identity features can be kept.

    Args:
        place: `runtime.feature_cache`, resolved; empty if none is kept.
        reason: why it cannot be written; empty if it can.
    """
    if not place:
        return [Finding("ok", "features", "none are kept (runtime.feature_cache=null)")]
    if reason:
        return [
            Finding(
                "warn", "features", f"{place}: {reason}: identity features are computed anew by every run",
                "runtime.feature_cache=<a folder that can be written>",
            )
        ]  # fmt: skip
    return [Finding("ok", "features", f"kept in {place}")]


def _without(reason: str, place: str) -> str:
    """A reason that begins with the key or the place says it once."""
    return reason.partition(f"{place!r}: ")[2] or reason
