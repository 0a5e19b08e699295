"""The end of what belongs to a run's cluster: nothing of it outlives the process that started it, however that ends."""

import atexit
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import ray

from fcit_ray import signals

_RUN = "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
_UNSAID = "ended from outside, without a word (killed, or by Ray, one of whose processes here has died: out of memory?)"
_starting = threading.Lock()
_watcher: list[subprocess.Popen[bytes]] = []


def end_with_this_process(home: str | None) -> None:
    """See to it that a cluster which this process starts next ends with it, and that the end is told, even a SIGKILL.

    Args:
        home: where it has the folders of its sessions; None where it joins a cluster, which goes on.
    """
    remedy = signals.what_to_do()
    if home is None and not remedy:
        return  # nothing to end, and nothing to say
    with _starting:
        if _watcher and _watcher[0].poll() is None:
            return
        try:
            import psutil  # Ray brings it, and puts it where it is found

            from fcit_ray.runtime import left_behind
        except ImportError:
            logging.getLogger("ray").warning("no psutil: an end from outside is not told, and some of Ray's live on")
            return
        package = Path(ray.__file__).parent

        found = [str(Path(psutil.__file__).parent.parent), left_behind.__file__]
        arguments = [home or "", str(os.getpid()), left_behind.stamp(), str(package)]
        if remedy:
            arguments.append(f"{_UNSAID}; {remedy}")
        if farewell not in signals.before_leaving:
            signals.before_leaving.append(farewell)
            atexit.register(farewell)
        _watcher[:] = [
            subprocess.Popen(
                # Nothing of the user's is imported, and nothing of the environment is heeded.
                [sys.executable, "-I", "-S", "-c", _RUN, *found, *arguments],
                stdin=subprocess.PIPE,  # closes with this process; no other inherits it
                stdout=subprocess.DEVNULL,
                stderr=None if remedy else subprocess.DEVNULL,
                start_new_session=True,  # what ends this process's group, or its terminal, is not for it
            )
        ]


def farewell() -> None:
    """Tell the watcher that this process ends of its own will; what there was to say of it has been said."""
    for watcher in _watcher:
        if watcher.stdin is not None and not watcher.stdin.closed:
            try:
                watcher.stdin.write(b".")
                watcher.stdin.flush()
            except OSError:
                continue  # it is gone
