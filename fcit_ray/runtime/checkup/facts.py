"""What is known of a cluster's nodes, as plain values; and what is found of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        level: `fail` is what a run would end by, or go wrong by unseen.
        check: what was looked at.
        text: what was found, and on which node.
        remedy: what to do; empty where all is well.
    """

    level: Level
    check: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its driver tells it: name, bytes of memory, bytes that somebody holds already."""

    name: str
    memory: float
    used: float


@dataclass(frozen=True)
class Disk:
    """A file system by a folder on it: bytes in all, and free."""

    path: str
    total: float
    free: float


@dataclass(frozen=True)
class Port:
    """A port on which one of Ray's processes listens for other machines."""

    address: str
    port: int
    process: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a process sees on its node.

    Attributes:
        versions: by package, and `python`.
        sources: digest of the package's own files.
        commit: of its repository; None outside of one.
        gpus: that the driver knows.
        memory: bytes that processes may take, of the machine or of their container.
        memory_free: of them, not in use.
        shm: `/dev/shm`; None where there is none.
        session: where Ray keeps logs, and what spills from the object store.
        ports: on which Ray's processes of this node listen for other machines.
        hidden: processes of Ray that could not be looked into.
        token: whether Ray asks for a token here.
        java: whether there is a Java.
        flash: whether flash-attn is installed.
    """

    versions: Mapping[str, str | None]
    sources: str
    commit: str | None = None
    gpus: Sequence[Gpu] = ()
    memory: float = 0.0
    memory_free: float = 0.0
    shm: Disk | None = None
    session: Disk | None = None
    ports: Sequence[Port] = ()
    hidden: int = 0
    token: bool | None = None
    java: bool = False
    flash: bool = False


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node that answered.

    Attributes:
        name: for people: its address, and its host's name.
        here: whether this process, and so a run's driver, is on it.
        cpus, gpus: that Ray hands out.
        object_store: bytes.
        look: what a process sees there.
        clock: seconds that its clock is ahead of this node's.
        clock_bound: half of the round trip: how far that may be off.
        places: by role, why a place that the run needs cannot be used there; empty if it can.
        listing: by role, a digest of the names and sizes in it.
    """

    name: str
    here: bool = False
    cpus: float = 0.0
    gpus: float = 0.0
    object_store: float = 0.0
    look: Look
    clock: float = 0.0
    clock_bound: float = 0.0
    places: Mapping[str, str] = field(default_factory=dict)
    listing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All that was looked at.

    Attributes:
        address: of its head.
        own: whether it was started here, for this command alone.
        nodes: that answered.
        silent: why the others did not, by name.
        open: whether somebody without a token is let in; None where that could not be tried.
        disks: by role, the file systems that the run will write to, seen from here.
    """

    address: str
    own: bool
    nodes: Sequence[Node]
    silent: Mapping[str, str] = field(default_factory=dict)
    open: bool | None = None
    disks: Mapping[str, Disk] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run asks of a cluster.

    Attributes:
        workers: at once.
        cpus: of each, the least where they differ.
        gpu: whether each has one, or a share.
        share: of a GPU, the least where they differ.
        shape: the workers in words.
        bytes: that a worker takes of its GPU, or of the machine's memory where it has none; 0 where it is not known.
        cache: bytes of the object store that records may take.
        java: whether captions are scored by Java's programs.
        flash: whether flash-attn is asked for.
        refusal: why its workers find no room in the cluster; empty if they do.
        unknown: what could not be planned, and why; empty if all was.
    """

    workers: int
    cpus: float
    gpu: bool
    share: float = 1.0
    shape: str = ""
    bytes: float = 0.0
    cache: float = 0.0
    java: bool = False
    flash: bool = False
    refusal: str = ""
    unknown: str = ""


def gb(size: float) -> str:
    """10^9 or 10^6 bytes, three digits."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
