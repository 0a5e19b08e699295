"""Which ports of a cluster of the product's own answer, and whom it lets in: from another network and as another user.

    python benchmarks/open_ports.py            # needs root on Linux, for a network namespace; starts three clusters

The namespace stands for another machine: it reaches this one over a pair of virtual interfaces. Each cluster is first
looked at (every listening socket of its processes), then tried: each port from the namespace and over loopback, then
what an intruder would do with its head's port, with no token and with a wrong one.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SPACE, HERE, THERE = "fcit-probe", "10.231.7.1", "10.231.7.2"
NOBODY = 65534
PATIENCE_S = 20.0

OURS = "from fcit_ray.runtime.cluster import start_ray; start_ray(num_cpus=2, address='local')"
PLAIN = "import ray; ray.init('local', num_cpus=2, include_dashboard=False, logging_level=40, log_to_driver=False)"
HOLD = """
import json, ray, sys, time, psutil
ray.get(ray.remote(lambda: time.sleep(1.0)).remote())
me, found = psutil.Process(), []
for process in [me, *me.children(recursive=True)]:
    for socket in process.net_connections("inet"):
        if socket.status == "LISTEN":
            found.append([process.name(), socket.laddr.ip, socket.laddr.port])
print(json.dumps({"ray": ray.__version__, "head": ray.get_runtime_context().gcs_address, "listen": found}), flush=True)
sys.stdin.read()
"""
KNOCK = """
import json, socket, sys
answered = []
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2.0).close()
        answered.append(int(port))
    except OSError:
        pass
print(json.dumps(answered))
"""
INTRUDE = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5.0)), "node told of")
"""


@contextmanager
def second_network() -> Iterator[None]:
    """A network namespace that reaches this one at `HERE`."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", SPACE)
    try:
        ip("link", "add", "fcit-here", "type", "veth", "peer", "name", "fcit-there", "netns", SPACE)
        ip("addr", "add", f"{HERE}/24", "dev", "fcit-here")
        ip("link", "set", "fcit-here", "up")
        for words in (("addr", "add", f"{THERE}/24", "dev", "fcit-there"), ("link", "set", "fcit-there", "up")):
            ip("-n", SPACE, *words)
        ip("-n", SPACE, "route", "add", "default", "via", HERE)
        yield
    finally:
        ip("netns", "del", SPACE)  # and the pair of interfaces with it


def python(code: str, *arguments: str, there: bool, token: str | None = None, user: int | None = None) -> str:
    """What a program of few lines prints, or the last line of its complaint."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": "/nonexistent", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    command = [*(["ip", "netns", "exec", SPACE] if there else []), sys.executable, "-c", code, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, user=user, cwd="/"
        )
    except subprocess.TimeoutExpired:
        return f"not let in ({PATIENCE_S:.0f} s)"
    return done.stdout.strip() or "not let in: " + (done.stderr.strip().splitlines() or ["?"])[-1][:110]


def examine(name: str, start: str, mode: str | None) -> None:
    """Start a cluster and print what can be done with it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    if mode:
        environment["RAY_AUTH_MODE"] = mode
    holder = subprocess.Popen(
        [sys.executable, "-c", start + HOLD], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        told: dict[str, Any] = json.loads(holder.stdout.readline())
        print(f"\n{name} (Ray {told['ray']}): head at {told['head']}")
        sockets = [(address.removeprefix("::ffff:"), port) for _, address, port in told["listen"]]
        # A socket of one address is knocked at there, wherever from; another machine knows none of loopback's.
        own = [("" if address == "::" or address.startswith("127.") else address, port) for address, port in sockets]
        reached = {}
        for there, otherwise in ((True, HERE), (False, "127.0.0.1")):
            places = [f"{address or otherwise}:{port}" for address, port in own]
            reached[there] = json.loads(python(KNOCK, *places, there=there))
        for process, address, port in told["listen"]:
            answers = ", ".join(
                who for who, side in (("this machine", False), ("another", True)) if port in reached[side]
            )
            print(f"  {process:<22} {address:>18}  answers: {answers or 'nobody'}")
        print(f"  of {len(sockets)} ports {len(reached[True])} answer another machine")
        port = told["head"].rpartition(":")[2]
        for words, there, host, user in (("from the network", True, HERE, None),
                                         ("as another user of this machine", False, told["head"].rpartition(":")[0],
                                          NOBODY)):  # fmt: skip
            for what, token in (("no token", None), ("a wrong token", "0" * 64)):
                # Not by root's own interpreter, which another user may not be able to read.
                said = python(INTRUDE, f"{host}:{port}", there=there, token=token, user=user if can_run(user) else None)
                print(f"  {words}, {what}: {said}")
    finally:
        holder.communicate(timeout=60)
        time.sleep(1.0)


def can_run(user: int | None) -> bool:
    """Whether another user can start this interpreter at all."""
    try:
        return subprocess.run([sys.executable, "-c", "import ray"], user=user, capture_output=True).returncode == 0
    except OSError:
        return False


def main() -> None:
    """Before and after."""
    with second_network():
        examine("Ray as it starts by itself, token mode disabled", PLAIN, "disabled")
        examine("Ray as it starts by itself", PLAIN, None)
        examine("a cluster of the product's own", OURS, None)


if __name__ == "__main__":
    main()
