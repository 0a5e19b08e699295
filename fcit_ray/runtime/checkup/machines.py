"""What follows from the facts about the machines: whether they are alike, and large enough for what is planned."""

import math
from collections.abc import Iterable, Mapping, Sequence

from fcit_ray.runtime.checkup.facts import Cluster, Disk, Finding, Needs, gb

_SAME = ("python", "ray", "torch", "transformers", "peft", "fcit_ray")
_TIGHT = 0.9  # of memory, beyond which a run fits only just
_CLOCK_WARN_S, _CLOCK_FAIL_S = 1.0, 300.0  # object stores refuse requests of a clock that is further off
_FREE_FRAC, _FREE_LEAST = 0.05, 1e9  # Ray writes nothing more on a disk that is fuller than 95 %


def nodes(cluster: Cluster) -> list[Finding]:
    """Whether everybody answered."""
    found = [
        Finding(
            "fail", "nodes", f"{name} does not answer: {reason}",
            "the same Python environment, fcit_ray in it, must be on every node (PYTHONPATH set before `ray start`); "
            "take the node out of the cluster (`ray stop` on it) or mend it",
        )
        for name, reason in cluster.silent.items()
    ]  # fmt: skip
    if not cluster.nodes:
        return [*found, Finding("fail", "nodes", "no node answered", "start the cluster anew: `ray stop`, `ray start`")]
    kind = "a cluster of this command's own" if cluster.own else f"the cluster at {cluster.address}"
    cpus, gpus = sum(node.cpus for node in cluster.nodes), sum(node.gpus for node in cluster.nodes)
    count = f"{kind}: {len(cluster.nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs"
    return [*found, Finding("ok", "nodes", count)]


def versions(cluster: Cluster) -> list[Finding]:
    """Whether all nodes run the same code: else a message is not understood, or the bits are others."""
    found = []
    for package in _SAME:
        told = {node.name: node.look.versions.get(package) or "none" for node in cluster.nodes}
        plain = {name: version.partition("+")[0] for name, version in told.items()}
        if len(set(plain.values())) > 1:
            found.append(
                Finding(
                    "fail", "versions", f"{package} differs: {_by_value(plain)}",
                    f"install one version of {package} on all nodes, and start Ray there anew",
                )
            )  # fmt: skip
        elif len(set(told.values())) > 1:
            found.append(
                Finding(
                    "warn", "versions", f"{package} is built differently: {_by_value(told)}",
                    "the same bits are promised of one build alone: install the same one on all nodes",
                )
            )  # fmt: skip
    sources = {
        node.name: f"{(node.look.commit or 'no commit')[:12]}{_dirty(node.look.commit)}, files {node.look.sources[:8]}"
        for node in cluster.nodes
    }
    if len({node.look.sources for node in cluster.nodes}) > 1:
        found.append(
            Finding(
                "fail", "versions", f"the files of fcit_ray differ: {_by_value(sources)}",
                "bring the same commit to all nodes, and start Ray there anew",
            )
        )  # fmt: skip
    if not found and cluster.nodes:
        look = cluster.nodes[0].look
        words = ", ".join(f"{package} {look.versions.get(package) or 'none'}" for package in _SAME)
        found.append(Finding("ok", "versions", f"{words}; files {look.sources[:8]}"))
    return found


def gpus(cluster: Cluster, needs: Needs | None) -> list[Finding]:
    """Whether GPUs are what Ray believes, and large enough."""
    found = []
    for node in cluster.nodes:
        if node.gpus and len(node.look.gpus) < math.ceil(node.gpus):
            found.append(
                Finding(
                    "fail", "GPUs", f"{node.name}: Ray hands out {node.gpus:g} GPUs, the driver knows "
                    f"{len(node.look.gpus)}",
                    "`nvidia-smi` there must list them; start Ray with --num-gpus as many as there are",
                )
            )  # fmt: skip
        elif len(node.look.gpus) > node.gpus:
            found.append(
                Finding(
                    "warn", "GPUs", f"{node.name}: {len(node.look.gpus)} GPUs, of which Ray hands out {node.gpus:g}",
                    "start Ray with --num-gpus as many as are to be used (CUDA_VISIBLE_DEVICES may hide some)",
                )
            )  # fmt: skip
    blind = [node for node in cluster.nodes if node.gpus and "+cpu" in (node.look.versions.get("torch") or "")]
    if blind:
        found.append(
            Finding(
                "fail",
                "GPUs",
                f"{', '.join(node.name for node in blind)}: torch {blind[0].look.versions['torch']} computes on no GPU",
                "install the torch of the GPU's CUDA there (https://pytorch.org/get-started)",
            )
        )
    if needs is None or not needs.gpu:
        known = [gpu for node in cluster.nodes for gpu in node.look.gpus]
        words = f"{len(known)}: {_counted(gpu.name for gpu in known)}" if known else "none"
        return found or [Finding("ok", "GPUs", words + ("" if needs is None else "; runtime.gpu=false asks for none"))]
    usable = [node for node in cluster.nodes if node.gpus]
    cards = [(gpu, node) for node in usable for gpu in node.look.gpus]
    for gpu, node in cards:
        if not gpu.memory:
            continue  # shared with the machine's, and not told
        has, part = needs.share * gpu.memory, "" if needs.share == 1 else f"{needs.share:g} of "
        if needs.bytes > has:
            found.append(
                Finding(
                    "fail", "GPUs", f"{node.name}: a worker needs {gb(needs.bytes)}, {part}{gpu.name} is {gb(has)}",
                    "`fcit-ray run ... --plan --gpu-memory-gb "
                    f"{has / 1e9:.0f}` names the smallest change that fits",
                )
            )  # fmt: skip
        elif needs.bytes > has - gpu.used:
            found.append(
                Finding(
                    "warn", "GPUs", f"{node.name}: a worker needs {gb(needs.bytes)}, of {gpu.name}'s {gb(gpu.memory)} "
                    f"somebody holds {gb(gpu.used)}",
                    "end the other program (`nvidia-smi` names it)",
                )
            )  # fmt: skip
    if not found and cards:
        smallest = needs.share * min((gpu.memory for gpu, _ in cards if gpu.memory), default=0.0)
        told = f"has {gb(smallest)}" if smallest else "what it has is not told"
        need = f"a worker needs {gb(needs.bytes)}" if needs.bytes else "what a worker needs is not known"
        found.append(Finding("ok", "GPUs", f"{_counted(gpu.name for gpu, _ in cards)}; {need}, {told}"))
    return found


def room(needs: Needs) -> list[Finding]:
    """Whether the workers can be placed."""
    if needs.refusal:
        key, _, text = needs.refusal.partition(": ")
        return [Finding("fail", "workers", f"{key}: {text}")]
    return [Finding("ok", "workers", f"room for {needs.shape}")]


def memory(cluster: Cluster, needs: Needs | None) -> list[Finding]:
    """Whether the machines' own memory holds the workers that may be placed on one."""
    if needs is None or needs.gpu or not needs.bytes:
        most = min((node.look.memory for node in cluster.nodes), default=0.0)
        known = "" if needs is None or not needs.unknown else f"; not planned: {needs.unknown}"
        return [Finding("warn" if known else "ok", "memory", f"{gb(most)} at least on each node{known}")]
    found = []
    for node in cluster.nodes:
        workers = min(needs.workers, math.floor(node.cpus / needs.cpus + 1e-9))
        need = workers * needs.bytes
        words = f"{node.name}: {workers} worker(s) of {gb(needs.bytes)}"
        if need > node.look.memory:
            found.append(
                Finding(
                    "fail", "memory", f"{words} may be placed there, which has {gb(node.look.memory)}",
                    "lower runtime.num_workers, or raise runtime.cpus_per_worker so that they spread",
                )
            )  # fmt: skip
        elif need > _TIGHT * node.look.memory_free:
            found.append(
                Finding(
                    "warn", "memory", f"{words} may be placed there, which has {gb(node.look.memory_free)} free",
                    "end other programs, lower runtime.num_workers, or raise runtime.cpus_per_worker",
                )
            )  # fmt: skip
    each = f"a worker needs {gb(needs.bytes)}"
    least = min((node.look.memory_free for node in cluster.nodes), default=0.0)
    return found or [Finding("ok", "memory", f"{each}; at least {gb(least)} free on each node")]


def object_store(cluster: Cluster, needs: Needs | None) -> list[Finding]:
    """Whether it holds the records that are kept ready, and lies in memory itself."""
    found = []
    for node in cluster.nodes:
        if needs is not None and needs.cache > node.object_store:
            found.append(
                Finding(
                    "warn", "object store", f"{node.name}: {gb(node.object_store)}, runtime.cache_mb takes "
                    f"{gb(needs.cache)}: records spill to the disk",
                    f"runtime.cache_mb={int(node.object_store / 2 / 2**20)}, or `ray start --object-store-memory "
                    f"{math.ceil(2 * needs.cache):d}`",
                )
            )  # fmt: skip
        shm = node.look.shm
        if shm is None or shm.total < node.object_store:
            has = f"/dev/shm has {gb(shm.total)}" if shm else "there is no /dev/shm"
            found.append(
                Finding(
                    "warn", "object store", f"{node.name}: {has}, the object store wants {gb(node.object_store)}: it "
                    "lies on a disk, which is slow",
                    f"docker run --shm-size={math.ceil(node.object_store * 11 / 10 / 1e9)}g (Kubernetes: an emptyDir "
                    "of medium Memory at /dev/shm), or a smaller --object-store-memory",
                )
            )  # fmt: skip
    least = min((node.object_store for node in cluster.nodes), default=0.0)
    return found or [Finding("ok", "object store", f"at least {gb(least)} on each node, in /dev/shm")]


def disks(cluster: Cluster) -> list[Finding]:
    """Whether there is room where Ray and the run write."""
    looked: list[tuple[str, Disk]] = [
        (f"{node.name}: Ray's folder {node.look.session.path}", node.look.session)
        for node in cluster.nodes
        if node.look.session is not None
    ]
    looked += [(f"{role} {disk.path}", disk) for role, disk in cluster.disks.items()]
    looked = [(words, disk) for words, disk in looked if disk.total]  # what has no size is none
    found = [
        Finding(
            "fail" if disk.free < _FREE_LEAST else "warn", "disk",
            f"{words}: {gb(disk.free)} of {gb(disk.total)} free",
            "make room (old Ray sessions: rm -r <RAY_TMPDIR or /tmp>/ray/session_* of clusters that are gone), or set "
            "RAY_TMPDIR or --out to a larger disk",
        )
        for words, disk in looked
        if disk.free < _FREE_LEAST or disk.free < _FREE_FRAC * disk.total
    ]  # fmt: skip
    least = min((disk.free for _, disk in looked), default=0.0)
    return found or [Finding("ok", "disk", f"at least {gb(least)} free where Ray and the run write")]


def clock(cluster: Cluster) -> list[Finding]:
    """Whether the nodes agree on the time: their logs are read side by side, and object stores sign by it."""
    found = []
    for node in cluster.nodes:
        off = abs(node.clock) - node.clock_bound  # that much at least
        if off > _CLOCK_WARN_S:
            ahead = "ahead" if node.clock > 0 else "behind"
            found.append(
                Finding(
                    "fail" if off > _CLOCK_FAIL_S else "warn", "clock",
                    f"{node.name} is {abs(node.clock):.1f} s {ahead} (±{node.clock_bound:.3f})",
                    "run a time service there (chrony, systemd-timesyncd)",
                )
            )  # fmt: skip
    worst = max((abs(node.clock) + node.clock_bound for node in cluster.nodes), default=0.0)
    return found or [Finding("ok", "clock", f"all nodes within {worst:.3f} s")]


def programs(cluster: Cluster, needs: Needs | None) -> list[Finding]:
    """Java for the captions, on the node of the driver, which scores; flash-attn on all."""
    driver = next((node for node in cluster.nodes if node.here), None)
    has_java = driver is not None and driver.look.java
    where = driver.name if driver else "this node"
    if needs is not None and needs.java and not has_java:
        java = Finding(
            "fail", "Java", f"{where}: none, and captions are scored in full",
            "install a Java runtime, 8 or later, or set evaluation.captions=portable (other numbers)",
        )  # fmt: skip
    else:
        wanted = "" if needs is None or needs.java else "; this run needs none"
        java = Finding("ok", "Java", f"{where}: {'there' if has_java else 'none'}{wanted or _only_for_captions(needs)}")
    without = [node.name for node in cluster.nodes if not node.look.flash]
    if needs is not None and needs.flash and without:
        flash = Finding(
            "fail", "flash-attn", f"not on {', '.join(without)}, and model.attention asks for it",
            "pip install 'fcit_ray[flash]' there, or model.attention=auto",
        )  # fmt: skip
    else:
        some = len(without) not in (0, len(cluster.nodes))
        flash = Finding(
            "warn" if some else "ok", "flash-attn",
            f"not on {', '.join(without)}" if some else ("none" if without else "on every node"),
            "workers there take torch's own kernel: bits differ by where a client is trained" if some else "",
        )  # fmt: skip
    return [java, flash]


def _only_for_captions(needs: Needs | None) -> str:
    return "; only captions scored in full need it" if needs is None else ""


def _by_value(told: Mapping[str, str]) -> str:
    values: dict[str, list[str]] = {}
    for name, value in told.items():
        values.setdefault(value, []).append(name)
    return "; ".join(f"{value} on {', '.join(names)}" for value, names in values.items())


def _counted(names: Iterable[str]) -> str:
    listed: Sequence[str] = list(names)
    return ", ".join(f"{listed.count(name)} x {name}" for name in dict.fromkeys(listed))


def _dirty(commit: str | None) -> str:
    return "-dirty" if commit and commit.endswith("-dirty") else ""
