"""What a process sees on the node that it runs on. No Ray but for what stands in it already; `asking.py` sends it."""

import csv
import hashlib
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fcit_ray.errors import UserError, disk_reason
from fcit_ray.results.session import this_session
from fcit_ray.runtime.checkup.facts import Disk, Gpu, Look, Port
from fcit_ray.runtime.private_cluster import asks_for_token
from fcit_ray.storage.location import is_uri, redact
from fcit_ray.storage.object_store import Store
from fcit_ray.storage.remote import kind_of, listing

_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")
_SMI_S = 20
_MIB = 2**20
_LOOPBACK = ("127.", "::1", "::ffff:127.")
_NO_LIMIT = 1 << 60  # what cgroup v1 says where there is none


class Looker:
    """Looks around on one node; becomes an actor there."""

    def look(self, session: str) -> Look:
        """All that needs no place of the run's.

        Args:
            session: Ray's session folder.
        """
        found = this_session(0)
        total, free = memory()
        ports, hidden = open_ports(Path(session).name)
        return Look(
            versions={"python": found["python"], **found["versions"]},
            sources=sources_digest(),
            commit=found["git_commit"],
            gpus=gpus(),
            memory=total,
            memory_free=free,
            shm=disk_of("/dev/shm") if Path("/dev/shm").is_dir() else None,
            session=disk_of(session),
            ports=ports,
            hidden=hidden,
            token=asks_for_token(),
            java=shutil.which("java") is not None,
            flash=importlib.util.find_spec("flash_attn") is not None,
        )

    def clock(self) -> float:
        """This node's time, seconds."""
        return time.time()

    def places(self, wanted: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Why places that are read cannot be, by role; and what is in them.

        Args:
            wanted: `data`, and what else is a model, as the configuration has them.
        """
        reasons, seen = {}, {}
        for role, place in wanted.items():
            if role == "data":
                reasons[role], seen[role] = readable(place)
            else:
                reasons[role] = usable_model(place)
        return reasons, seen

    def write(self, folder: str, name: str, content: str) -> str:
        """Why a file cannot be written into a folder or URI that is there; empty if it was."""
        if not is_uri(folder) and not Path(folder).is_dir():
            return "is not there"
        try:
            Store(folder).write_bytes(name, content.encode())
        except (OSError, UserError) as error:
            return reason_of(error, folder)
        return ""

    def read(self, folder: str, name: str, content: str, within_s: float) -> str:
        """Why a file that another node has written is not seen; empty if it is.

        Network file systems take a while to show it.
        """
        until = time.monotonic() + within_s
        while True:
            try:
                if not is_uri(folder):
                    os.scandir(folder).close()  # has NFS ask its server again
                found = Store(folder).read(name)
            except (OSError, UserError) as error:
                return reason_of(error, folder)
            if found == content.encode():
                return ""
            if time.monotonic() > until:
                return "does not show what another node has written there: it is a folder of each node's own"
            time.sleep(0.2)

    def remove(self, folder: str, name: str) -> None:
        """Delete a file that `write` wrote."""
        Store(folder).delete(name)


def reason_of(error: Exception, place: str) -> str:
    """In a few words."""
    if isinstance(error, OSError) and not is_uri(place) and error.errno is not None:
        return disk_reason(error, place)
    return redact(" ".join(str(error).split()))


def readable(root: str) -> tuple[str, str]:
    """Why a data root cannot be read, and a digest of the names and sizes at its top."""
    try:
        if is_uri(root):
            if kind_of(root) != "folder":
                return "is no folder", ""
            names = [f"{name}/" for name in listing(root)[1]] + listing(root)[0]
        else:
            with os.scandir(root) as entries:
                names = [
                    f"{entry.name}/" if entry.is_dir() else f"{entry.name} {entry.stat().st_size}" for entry in entries
                ]
    except (OSError, UserError) as error:
        return reason_of(error, root), ""
    return "", hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def usable_model(path: str) -> str:
    """Why a model's folder, or hub name, cannot be used here."""
    from fcit_ray.models.folder import model_folder

    try:
        model_folder(path)
    except (OSError, UserError) as error:
        return reason_of(error, path)
    return ""


def sources_digest(folder: Path = Path(__file__).parents[2]) -> str:
    """Of the package's files: a copy that was edited, or is older, shows whatever it calls itself."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def gpus() -> list[Gpu]:
    """As NVIDIA's driver tells them, whichever of them this process may use."""
    try:
        said = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # no driver: no GPU that anything could be computed on
    found = []
    for row in csv.reader(said.splitlines(), skipinitialspace=True):
        name, total, used = row
        sizes = [float(size) * _MIB if size.replace(".", "", 1).isdigit() else 0.0 for size in (total, used)]
        found.append(Gpu(name, *sizes))
    return found


def memory(cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[float, float]:
    """Bytes that processes here may take, and of them free: of the machine, or of the container if that has fewer."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = float(machine.total), float(machine.available)
    for most, now in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = (cgroup / most).read_text().strip(), (cgroup / now).read_text().strip()
        except OSError:
            continue  # the other version's files
        if limit.isdigit() and used.isdigit() and int(limit) < min(total, _NO_LIMIT):
            total, free = float(limit), min(free, float(limit) - float(used))
    return total, free


def disk_of(path: str | Path) -> Disk | None:
    """The file system that a path, or the nearest folder above it that there is, lies on."""
    for folder in (Path(path), *Path(path).parents):
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue  # not there yet
        return Disk(str(path), float(usage.total), float(usage.free))
    return None


def open_ports(session: str) -> tuple[list[Port], int]:
    """Where Ray's processes of one session listen for other machines, and how many of them could not be looked into.

    Args:
        session: name of its folder.
    """
    import psutil

    found, hidden = [], 0
    for process in ray_processes(session):
        try:
            name = _called(process)
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and not connection.laddr.ip.startswith(_LOOPBACK):
                    found.append(Port(connection.laddr.ip, connection.laddr.port, name))
        except psutil.AccessDenied:
            hidden += 1
        except psutil.Error:
            continue  # it has ended meanwhile
    return sorted(set(found), key=lambda port: (port.process, port.port)), hidden


def ray_processes(session: str) -> Iterator[Any]:
    """The processes whose command line names the session, and their descendants."""
    import psutil

    seen: set[int] = set()
    for process in psutil.process_iter():
        try:
            if not any(session in word for word in process.cmdline()):
                continue
            family = [process, *process.children(recursive=True)]
        except psutil.Error:
            continue  # ended, or somebody else's
        for member in family:
            if member.pid not in seen:
                seen.add(member.pid)
                yield member


def _called(process: Any) -> str:
    """What a process of Ray is: `raylet`, `dashboard`, `RuntimeEnvAgent`; `worker` whatever it runs at the moment."""
    words = process.cmdline()
    title = words[0].split()[0] if words and words[0].strip() else process.name()
    if title.startswith("ray::"):
        return title.removeprefix("ray::") if title.endswith("Agent") else "worker"
    files = [Path(word).stem for word in words if word.endswith(".py")]
    return files[-1] if files else process.name()
