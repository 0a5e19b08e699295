"""Joining or starting a Ray cluster, quietly, and knowing when it is gone.

What of Ray is private here is asked for by name and done without where it is not there: a minor release may move it.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from fcit_ray import signals
from fcit_ray.errors import RunFailed
from fcit_ray.runtime.ending import end_with_this_process
from fcit_ray.runtime.head import head, host_and_port, silence
from fcit_ray.runtime.private_cluster import (
    check_alone,
    closed_to_others,
    read_token_again,
    session_home,
    temp_folder,
    trusted_note,
    warn_if_open,
)

_HEALTH_CHECK_S = "0.2"  # between Ray Train's looks at its workers: how soon a death is known
_LOGGERS = ("ray", "ray.train", "ray.tune", "ray.data", "py.warnings")

_TOKEN = (
    "it asks for a token: set RAY_AUTH_MODE=token, and put the token that the cluster was started with into "
    "~/.ray/auth_token, or its file's path into RAY_AUTH_TOKEN_PATH, or itself into RAY_AUTH_TOKEN"
)


def start_ray(log_file: Path | None = None, *, num_cpus: int | None = None, address: str | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names or `ray start` began, or start one on this machine; quietly.

    Args:
        log_file: where Ray's Python loggers write instead of the terminal; its other logs lie in its session folder,
            which is noted there.
        num_cpus: CPUs of a cluster started here; all of the machine's by default.
        address: `local` starts a cluster of this process's own whatever else is running.

    Raises:
        RunFailed: the cluster that the environment names does not answer or let us in, or none can be started.
    """
    if log_file is not None:
        redirect_logs(log_file)
    connect(num_cpus, address)
    from fcit_ray.runtime.blocks import quiet  # heavy, and `connect` goes on beside such imports
    from fcit_ray.runtime.store import share_tensors

    if threading.current_thread() is threading.main_thread():
        signals.heed()  # `ray job stop` terminates: as Ctrl-C does, not with the stack of Ray's own handler
    share_tensors()
    quiet()
    if log_file is not None:
        redirect_logs(log_file)  # Once more: ray.init has given its loggers handlers of their own.
        logging.getLogger("ray").info("Ray's session folder, where every process has its log: %s", _session_folder())


def connect(num_cpus: int | None = None, address: str | None = None) -> None:
    """The cluster alone, as `start_ray` joins or starts it; any thread may call it, while others import.

    Raises:
        RunFailed: as `start_ray`.
    """
    # Not address="auto": that joins whatever cluster runs on this machine, a stranger's private one too.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _HEALTH_CHECK_S)
    if ray.is_initialized():
        return
    named, by = (address, "address") if address else _named_cluster()
    named = None if named == "local" else named
    if named and named != "auto":
        _check_answers(named, by)
    _init(num_cpus, named, by)


def _init(num_cpus: int | None, named: str | None, by: str) -> None:
    calm: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    try:
        if named is None:
            home = session_home()
            end_with_this_process(home)
            with closed_to_others():
                ray.init("local", num_cpus=num_cpus, _temp_dir=home, **calm)
            check_alone(head())
        else:
            read_token_again()
            end_with_this_process(None)
            try:
                ray.init(named, num_cpus=num_cpus, **calm)
            except ValueError:  # A cluster is there, and has its CPUs already.
                ray.init(named, **calm)
            warn_if_open(head())
    except RunFailed:
        raise
    except Exception as error:  # of many types, and other ones in other releases
        said = " ".join(str(error).split()) or repr(error)
        if named is None:
            raise RunFailed(
                f"no Ray cluster could be started here, in {temp_folder()} (RAY_TMPDIR names another place): {said}"
            ) from error
        if named == "auto":
            raise RunFailed(f"no Ray cluster of this machine could be joined ({by}=auto): {said}") from error
        if "Auth" in type(error).__name__ or "token" in said.lower() or "unauthenticated" in said.lower():
            raise RunFailed(
                f"the Ray cluster at {named} ({by}) does not let us in; {_TOKEN}. Ray says: {said}"
            ) from error
        raise RunFailed(
            f"something answers at {named} ({by}), but could not be joined as a Ray cluster: {said}. It must be a Ray "
            f"{ray.__version__}; if {_TOKEN}"
        ) from error


def _named_cluster() -> tuple[str | None, str]:
    """Which cluster to join, and who says so; none: one is started."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address, "RAY_ADDRESS"
    note = Path(temp_folder()) / "ray" / "ray_current_cluster"
    return trusted_note(note), f"{note}, which `ray start` leaves and `ray stop` removes"


def _check_answers(address: str, by: str) -> None:
    """A dead address: Ray would try it for more than a minute.

    Raises:
        RunFailed: nobody answers there.
    """
    place = host_and_port(address)
    if place is None:
        raise RunFailed(f"{address!r} ({by}) is no address of a Ray cluster; expected host:port, such as 10.0.0.1:6379")
    if reason := silence(place):
        raise RunFailed(
            f"no Ray cluster answers at {address} ({by}): {reason}; start it, set RAY_ADDRESS to another one, or "
            "remove what names it, and one is started here"
        )


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk is told once, by what fails for it, not by a traceback for every line of the log."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def redirect_logs(log_file: Path) -> None:
    """Send the words of Ray's Python loggers in this process, and Python's warnings, to a file."""
    handler = _log_handler(log_file)
    logging.captureWarnings(True)
    # Deaths of processes, which Ray prints in the terminal even where it is told to keep its logs to itself.
    if (worker := inside_ray("worker")) is not None:
        worker.print_to_stdstream = _log_lines
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)


@contextmanager
def logs_of_this_thread(log_file: Path) -> Iterator[None]:
    """Send what this thread has to say to a file too: that of one run of several in this process."""
    handler = _log_handler(log_file)
    thread = threading.get_ident()
    handler.addFilter(lambda record: record.thread == thread)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _log_handler(log_file: Path) -> logging.Handler:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _log_lines(data: Any, *_: Any, **__: Any) -> None:
    lines = data.get("lines", data) if isinstance(data, dict) else data
    logging.getLogger("ray").error("%s", "\n".join(map(str, lines)) if isinstance(lines, list) else lines)


def may_grow() -> bool:
    """Whether an autoscaler may bring nodes that nobody has seen yet; false where Ray does not say."""
    return bool(at_its_largest())


def at_its_largest() -> dict[str, float]:
    """What the cluster has once an autoscaler has brought all nodes; empty: there is none, or Ray does not say."""
    most = getattr(inside_ray("state", "state"), "get_max_resources_from_cluster_config", None)
    return dict(most() or {}) if callable(most) else {}


def _session_folder() -> str:
    folder = getattr(inside_ray("worker", "_global_node"), "get_session_dir_path", None)
    return str(folder()) if callable(folder) else f"below {temp_folder()}"


def inside_ray(*names: str) -> Any:
    """Something of `ray._private`; None if this release has it elsewhere."""
    found = getattr(ray, "_private", None)
    for name in names:
        found = getattr(found, name, None)
    return found
