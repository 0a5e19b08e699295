"""Where the driver runs, whether it sees the run folder there, and what the launching process writes in that."""

import logging
import os
import socket
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fcit_ray.config.schema import Config
from fcit_ray.errors import RunFolderError
from fcit_ray.experiment.opening import Experiment
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.status import Status

_SHARED: Final = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "afs",
    "orangefs", "pvfs2", "ocfs2", "gfs2", "efs", "panfs", "weka", "wekafs", "davfs", "juicefs",
}  # fmt: skip
"""Kinds of file systems that several machines may mount, as Linux calls them; and what begins with `fuse`."""


def place_of_driver(config: Config) -> Any:
    """Ray's strategy by which the driver is placed."""
    if config.runtime.driver == "anywhere":
        return "SPREAD"
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def abroad(folder: RunFolder) -> RunFolder:
    """The folder as another process finds it, which need not be in this one's working directory."""
    return folder if folder.mirror else RunFolder(folder.path.absolute())


def check_same(experiment: Experiment, folder: RunFolder) -> None:
    """Refuse a driver on a node that does not see the run folder.

    Raises:
        RunFolderError: names the node and what to do.
    """
    if experiment.config.runtime.driver == "anywhere" and not folder.is_run():
        raise RunFolderError(
            f"{folder.place}: is not there on {socket.gethostname()}, where Ray has placed the driver; with "
            "runtime.driver=anywhere --out is a URI (s3://bucket/run), or a folder that all nodes mount at one path; "
            "runtime.driver=here keeps the driver on the node where the run is started"
        )


class Beside:
    """Brings what the launching process writes into a run folder in a store: at every stage's end.

    Args:
        folder: of the run; of one that is not in a store nothing is done.
    """

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._at: tuple[str, int | None] | None = None

    def tell(self, status: Status) -> None:
        """Where the run stands."""
        at = (status.phase, status.stage)
        if self._folder.mirror and at != self._at:
            self._at = at
            if why := self._folder.bring_beside():
                logging.getLogger("ray").warning(why)


def lone_disk(folder: RunFolder) -> str:
    """A warning where the run folder is on the disk of one node of several; empty if it is not."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    if folder.mirror or len(alive) < 2:
        return ""
    kind, mount = file_system_of(folder.path)
    if kind in _SHARED or kind.startswith("fuse"):
        return ""
    return (
        f"{folder.path} is on a disk of {socket.gethostname()} alone ({kind} at {mount}), in a cluster of {len(alive)} "
        "nodes: should this node die with its disk, the run is lost. A run folder in a store (--out s3://bucket/run) "
        "or on a file system that all nodes mount outlives it"
    )


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> tuple[str, str]:
    """Kind and mount point of the file system that a path is on, as Linux names them; `unknown` where it does not."""
    at = os.path.realpath(path)
    best = ("unknown", "/")
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return best
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (at == point or at.startswith(f"{point.rstrip('/')}/")) and len(point) >= len(best[1]):
            best = (kind, point)
    return best
