"""Asking every node of the cluster that this process is connected to."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fcit_ray.runtime.checkup.facts import Cluster, Disk, Node
from fcit_ray.runtime.checkup.looking import Looker, disk_of
from fcit_ray.runtime.cluster import inside_ray
from fcit_ray.storage.location import is_uri

ANSWER_S = 60.0
"""For a node to start a process and look around; its first one imports torch's neighbours from a cold disk."""
_SEE_S = 4.0  # until a file of another node must show
_CLOCK_TRIES = 5
_KNOCK_S = 15.0
_KNOCK = (
    "import sys, ray\n"
    "from ray._raylet import GcsClient\n"
    "GcsClient(address=sys.argv[1]).internal_kv_get(b'session_name', b'session', 3)\n"
)


@dataclass(frozen=True)
class Places:
    """Where the run that is planned reads and writes.

    Attributes:
        read: by role (`data`, `model` ...), what every node reads.
        write: where every node writes: the run folder, or the folder that it will be in; empty if no run is planned.
        keep: by role, what this node alone writes to.
    """

    read: Mapping[str, str]
    write: str = ""
    keep: Mapping[str, str] = field(default_factory=dict)


class _Asked:
    """One node that is being asked."""

    def __init__(self, info: Mapping[str, Any]):
        self.info = info
        self.name = f"{info['NodeManagerAddress']} ({info['NodeManagerHostname']})"
        here = NodeAffinitySchedulingStrategy(info["NodeID"], soft=False)
        self.looker: Any = ray.remote(Looker).options(num_cpus=0, scheduling_strategy=here, max_restarts=0).remote()

    @property
    def is_here(self) -> bool:
        return bool(self.info["NodeID"] == ray.get_runtime_context().get_node_id())


def ask_cluster(places: Places, progress: Callable[[str], None], answer_s: float = ANSWER_S) -> Cluster:
    """Look at every node that is alive.

    Args:
        places: of the run.
        progress: takes a line for the user.
        answer_s: that a node has to answer in.
    """
    session = _session_folder()
    asked = _named_apart([_Asked(info) for info in ray.nodes() if info["Alive"]])
    try:
        progress(f"asking {len(asked)} node(s) ...")
        nodes, silent = _nodes(places, asked, session, answer_s)
    finally:
        for node in asked:
            ray.kill(node.looker)
    address = str(ray.get_runtime_context().gcs_address)
    own = bool(getattr(inside_ray("worker", "_global_node"), "head", False))  # this process has started it
    progress("knocking without a token ...")
    return Cluster(address=address, own=own, nodes=nodes, silent=silent, open=lets_in(address), disks=_disks(places))


def _nodes(places: Places, asked: list[_Asked], session: str, answer_s: float) -> tuple[list[Node], dict[str, str]]:
    """Those that answered, and why the others did not."""
    silent: dict[str, str] = {}
    looks = _answers({node: node.looker.look.remote(session) for node in asked}, silent, answer_s)
    asked = [node for node in asked if node in looks]
    found = _answers({node: node.looker.places.remote(dict(places.read)) for node in asked}, silent, answer_s)
    asked = [node for node in asked if node in found]
    shared = _try_out(places.write, asked, silent, answer_s) if places.write else {}
    nodes = []
    for node in asked:
        if node.name in silent:
            continue
        clock, bound = (0.0, 0.0) if node.is_here else _clock(node.looker, answer_s)
        resources = node.info["Resources"]
        reasons, listing = found[node]
        nodes.append(
            Node(
                name=node.name,
                here=node.is_here,
                cpus=resources.get("CPU", 0.0),
                gpus=resources.get("GPU", 0.0),
                object_store=resources.get("object_store_memory", 0.0),
                look=looks[node],
                clock=clock,
                clock_bound=bound,
                places={**reasons, **({"run": shared[node]} if node in shared else {})},
                listing=listing,
            )
        )
    return nodes, silent


def lets_in(address: str) -> bool | None:
    """Whether a cluster's head answers somebody who has no token; None where this Ray cannot be tried so."""
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    stranger |= {"RAY_AUTH_MODE": "disabled", "HOME": "/nonexistent"}
    try:
        knock = subprocess.run(
            [sys.executable, "-c", _KNOCK, address], env=stranger, capture_output=True, text=True, timeout=_KNOCK_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    if knock.returncode == 0:
        return True
    return False if "token" in knock.stderr.lower() or "auth" in knock.stderr.lower() else None


def _session_folder() -> str:
    folder = getattr(inside_ray("worker", "_global_node"), "get_session_dir_path", None)
    return str(folder()) if callable(folder) else str(Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray")


def _named_apart(asked: list[_Asked]) -> list[_Asked]:
    """Several nodes of one machine, as tests have them, are told apart by their ids."""
    names = [node.name for node in asked]
    for node in asked:
        if names.count(node.name) > 1:
            node.name = f"{node.name}, node {node.info['NodeID'][:6]}"
    return asked


def _answers(waiting: Mapping[_Asked, Any], silent: dict[str, str], answer_s: float) -> dict[_Asked, Any]:
    """What the nodes answer; who does not is entered among the silent ones, with the reason."""
    until = time.monotonic() + answer_s
    answers = {}
    for node, reference in waiting.items():
        try:
            answers[node] = ray.get(reference, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            silent[node.name] = f"no answer within {answer_s:.0f} s: no process starts there, or its disk hangs"
        except ray.exceptions.RayError as error:
            silent[node.name] = _last_line(error)
    return answers


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    if missing := [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError", "AttributeError"))]:
        return missing[-1]
    if isinstance(error, ray.exceptions.RayActorError):
        return f"the node was lost, or its process ended, before it did (Ray says: {lines[-1]})"
    return lines[-1]


def _clock(looker: Any, answer_s: float) -> tuple[float, float]:
    """Seconds that a node's clock is ahead, by the shortest of a few round trips; and half of that."""
    best = (0.0, float("inf"))
    for _ in range(_CLOCK_TRIES):
        sent = time.time()
        told = ray.get(looker.clock.remote(), timeout=answer_s)
        back = time.time()
        best = min(best, (told - (sent + back) / 2, (back - sent) / 2), key=lambda pair: pair[1])
    return best


def _try_out(folder: str, asked: list[_Asked], silent: dict[str, str], answer_s: float) -> dict[_Asked, str]:
    """Why each node cannot write there what others see; a file of this node's is read by all, theirs by this one."""
    here = next((node for node in asked if node.is_here), None)
    if here is None:
        return {}
    mark = uuid.uuid4().hex
    names = {node: f".doctor-{mark}-{number}" for number, node in enumerate(asked)}
    reasons: dict[_Asked, str] = {}
    try:
        for node in [here, *(other for other in asked if other is not here)]:
            write = node.looker.write.remote(folder, names[node], mark)
            reasons |= _answers({node: write}, silent, answer_s)
            if node is here and reasons.get(here):
                return dict.fromkeys(asked, reasons[here])  # the others are no better off
        reads = {}
        for node in asked:
            if node is not here and not reasons.get(node, "?"):
                reads[node] = node.looker.read.remote(folder, names[here], mark, _SEE_S)
        seen = _answers(reads, silent, answer_s)
        back = _answers(
            {node: here.looker.read.remote(folder, names[node], mark, _SEE_S) for node in seen}, silent, answer_s
        )
        reasons |= {node: seen[node] or back.get(node, "") for node in seen}
    finally:
        _answers(
            {node: node.looker.remove.remote(folder, names[node]) for node in reasons if not silent.get(node.name)},
            silent,
            answer_s,
        )
    return reasons


def _disks(places: Places) -> dict[str, Disk]:
    found = {}
    for role, place in {**({"run folder": places.write} if places.write else {}), **dict(places.keep)}.items():
        disk = None if is_uri(place) else disk_of(place)
        if disk is not None:
            found[role] = disk
    return found
