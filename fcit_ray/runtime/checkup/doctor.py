"""From a configuration, or none, to the findings about the cluster that its run would use."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import ray

from fcit_ray.config.schema import Config
from fcit_ray.errors import ConfigError, disk_reason
from fcit_ray.models.identity.cache import default_folder
from fcit_ray.runtime.checkup import doors, machines, places
from fcit_ray.runtime.checkup.asking import Places, ask_cluster
from fcit_ray.runtime.checkup.facts import Cluster, Finding, Needs
from fcit_ray.runtime.cluster import start_ray
from fcit_ray.runtime.launch import check_room
from fcit_ray.runtime.shape import Shape
from fcit_ray.storage.location import is_uri

_BUILT_IN = ("tiny", "base")


def examine(
    config: Config | None,
    out: str,
    address: str | None,
    *,
    need: float = 0.0,
    java: bool = False,
    unknown: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Cluster, list[Finding]]:
    """Join the cluster, or start one, as a run does; look at it, and leave it.

    Args:
        config: with absolute paths; None looks at the cluster alone.
        out: where the run folder will be; empty if that is not asked.
        address: of the cluster; None takes that of the environment, or starts one.
        need: bytes of one worker, as planned; 0 where that is not known.
        java: whether captions are scored in full.
        unknown: why nothing could be planned.
        progress: takes a line for the user.

    Raises:
        RunFailed: the cluster does not answer or let us in, or none can be started.
    """
    was_there = ray.is_initialized()
    progress("joining the cluster, or starting one ...")
    with tempfile.TemporaryDirectory() as logs:  # what Ray says of nodes it loses is no part of the table
        start_ray(Path(logs) / "ray.log", address=address)
        try:
            wanted = places_of(config, out)
            refusal = _refusal(config)
            cluster = ask_cluster(wanted, progress)
        finally:
            if not was_there:
                ray.shutdown()
    needs = None if config is None else needs_of(config, need, java, refusal, unknown)
    return cluster, judge(cluster, needs, wanted)


def judge(cluster: Cluster, needs: Needs | None, wanted: Places) -> list[Finding]:
    """What follows from the facts, in the order of the table.

    Args:
        cluster: that was looked at.
        needs: of the run; None without one.
        wanted: where it reads and writes.
    """
    cache = [
        finding
        for role, folder in wanted.keep.items()
        if role == "features"
        for finding in places.cache_folder(folder, unwritable(folder) if folder else "")
    ]
    return [
        *machines.nodes(cluster),
        *machines.versions(cluster),
        *(machines.room(needs) if needs is not None else ()),
        *machines.gpus(cluster, needs),
        *machines.memory(cluster, needs),
        *machines.object_store(cluster, needs),
        *places.read_places(cluster, wanted.read),
        *(places.run_folder(cluster, wanted.write) if wanted.write else ()),
        *cache,
        *machines.disks(cluster),
        *machines.clock(cluster),
        *doors.token(cluster),
        *doors.ports(cluster),
        *machines.programs(cluster, needs),
    ]


def places_of(config: Config | None, out: str) -> Places:
    """Where the run reads and writes; its folder is tried out in the nearest folder above it that is there."""
    write = out if not out or is_uri(out) else str(nearest_folder(Path(out)))
    if config is None:
        return Places({}, write)
    models = {"model": config.model.path, "encoder": config.model.identity_encoder}
    read = {"data": str(config.benchmark.root)}
    read |= {role: path for role, path in models.items() if path and path not in _BUILT_IN}
    cache = config.runtime.feature_cache
    folder = default_folder() if cache == "auto" else cache and Path(cache)
    return Places(read, write, {"features": str(folder) if folder else ""})


def needs_of(config: Config, need: float, java: bool, refusal: str, unknown: str) -> Needs:
    """What a run asks of the cluster; arguments as those of `examine`."""
    runtime = config.runtime
    shape = Shape.of(runtime)
    return Needs(
        workers=shape.num_workers,
        cpus=min(part.cpus for part in shape.parts),
        gpu=runtime.gpu,
        share=min(part.share for part in shape.parts),
        shape=str(shape.first) + ("; the others join when they find room" if any(shape.others()) else ""),
        bytes=need,
        cache=runtime.cache_mb * 2.0**20,
        java=java,
        flash=config.model.attention == "flash_attention_2",
        refusal=refusal,
        unknown=unknown,
    )


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = Path(os.path.abspath(path))
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path(path.anchor))


def unwritable(folder: str) -> str:
    """Why nothing can be written into a folder, or made where it is not there yet; empty if it can."""
    at = nearest_folder(Path(folder))
    try:
        with tempfile.TemporaryFile(dir=at):
            return ""
    except OSError as error:
        return disk_reason(error, at)


def _refusal(config: Config | None) -> str:
    try:
        if config is not None:
            check_room(config)
    except ConfigError as error:
        return str(error)
    return ""
