"""Run beside a process that uses Ray: when it is no more, so is all of the cluster that it started, if it did.

A program that stands alone, in a session of its own, as what ends that process must not end this one: it waits at a
pipe which closes with the process, however that ends. Of a process that was killed Ray's agents would live on for
minutes: they look for the head that is gone, to tell it so.

python left_behind.py FOLDER PID SINCE RAY [WORDS]

The folder is that of Ray's sessions; empty where the process has joined a cluster of somebody else's. The words are
said on standard error if the process ended without a farewell: killed, or by Ray, which ends a process whose raylet has
died without a word of its own.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

_LOOK_S = 0.2
_PATIENCE_S = 1.0  # for processes that are on their way out
_GIVE_UP_S = 15.0
_QUIET_LOOKS = 5  # so many in a row find nobody: the last process that was being started has been seen


def sessions(folder: Path, pid: int, since: str) -> list[Path]:
    """Ray's session folders of a process.

    Args:
        folder: where Ray has them.
        pid: process that has started Ray.
        since: no session that began before belongs to it, as there were others of that number; in the form of `stamp`.
    """
    return [
        path
        for path in folder.glob(f"session_*_{pid}")
        if path.name.removeprefix("session_")[: len(since)] >= since and not path.is_symlink()
    ]


def stamp() -> str:
    """Now, as Ray writes it into the name of a session."""
    return time.strftime("%Y-%m-%d_%H-%M-%S")


def processes(of: Iterable[Path], ray: str) -> list[psutil.Process]:
    """Ray's processes of these sessions, and what they have started.

    One is known by the session's folder in its arguments, or by a log in it that it holds open: Ray's workers and
    agents write their titles over their arguments. Whoever else reads there is none of them.

    Args:
        of: session folders.
        ray: folder of the package, where Ray's programs lie.
    """
    places = tuple(f"{path}/" for path in of)
    if not places:
        return []
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            if _is_rays(arguments, ray) and (_names(arguments, places) or _holds(process, places)):
                for each in (process, *process.children(recursive=True)):
                    found[each.pid] = each
        except psutil.Error:
            continue  # gone meanwhile, or another user's
    return [process for process in found.values() if _lives(process)]


def _is_rays(arguments: Sequence[str], ray: str) -> bool:
    return any(argument.startswith(f"{ray}/") for argument in arguments) or bool(
        arguments and arguments[0].startswith(("ray::", "ray-dashboard"))
    )


def _names(arguments: Sequence[str], places: tuple[str, ...]) -> bool:
    return any(place in f"{argument}/" for argument in arguments for place in places)


def _holds(process: psutil.Process, places: tuple[str, ...]) -> bool:
    return any(file.path.startswith(places) for file in process.open_files())


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end(folder: Path, pid: int, since: str, ray: str) -> None:
    """End what is left of a process's clusters, and remove what they have spilled to disk; their logs stay."""
    began = time.monotonic()
    quiet = 0
    while quiet < _QUIET_LOOKS and time.monotonic() - began < _GIVE_UP_S:
        left = processes(sessions(folder, pid, since), ray)
        quiet = 0 if left else quiet + 1
        if time.monotonic() - began >= _PATIENCE_S:
            for process in left:
                try:
                    process.kill()
                except psutil.Error:
                    continue  # gone meanwhile
        time.sleep(_LOOK_S)
    for session in sessions(folder, pid, since):
        for spilled in session.glob("ray_spilled_objects*"):
            shutil.rmtree(spilled, ignore_errors=True)


if __name__ == "__main__":
    farewell = sys.stdin.buffer.read()  # until the pipe closes
    if not farewell and len(sys.argv) > 5:
        print(sys.argv[5], file=sys.stderr, flush=True)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # nobody is to wait for this process at the end of that pipe
    if sys.argv[1]:
        end(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
