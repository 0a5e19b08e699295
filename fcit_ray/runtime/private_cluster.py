"""A cluster of this process's own, that nobody else can reach: on loopback alone, with a token, in a folder of its own.

Ray lets whoever reaches one of its ports run code as the user who started it. On a machine that is shared the ports of
loopback are within everybody's reach, and so are sockets and logs in a folder that everybody may write to.
"""

import importlib
import ipaddress
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fcit_ray.errors import RunFailed

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"
_ON_LOOPBACK = "ENABLE_RAY_CLUSTER"

# The longest name that Ray gives a socket below its folder, and what an address of one may have.
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_MOST_SOCKET = 107

_warned: set[str] = set()


def temp_folder() -> str:
    """Where Ray keeps what it has: what `RAY_TMPDIR` says, on Linux `TMPDIR` otherwise, as Ray chooses."""
    of_system = os.environ.get("TMPDIR") if sys.platform == "linux" else None
    return os.environ.get("RAY_TMPDIR") or of_system or "/tmp"


def session_home() -> str:
    """The folder that sessions of a cluster of our own are in: below `temp_folder()`, and closed to other users.

    Raises:
        RunFailed: the path is too long for sockets, or somebody else's.
    """
    folder = temp_folder()
    home = folder if _is_closed(folder) else os.path.join(folder, f"fcit-{os.geteuid()}")
    if len(os.fsencode(home + _SOCKET)) > _MOST_SOCKET:
        most = _MOST_SOCKET - len(_SOCKET) - (len(os.fsencode(home)) - len(os.fsencode(folder)))
        raise RunFailed(
            f"no Ray cluster could be started here: {folder} is too long a path for Ray's sockets; set RAY_TMPDIR to a "
            f"folder of at most {most} letters, such as /tmp"
        )
    if home != folder:
        _make_closed(home)
    return os.path.join(home, "ray")


def _is_closed(folder: str) -> bool:
    try:
        found = os.stat(folder)
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _make_closed(home: str) -> None:
    try:
        os.makedirs(os.path.dirname(home), exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(home, 0o700)
        found = os.lstat(home)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            os.chmod(home, 0o700)
            return
    except OSError as error:
        raise RunFailed(
            f"no Ray cluster could be started here: {home}: {error.strerror or error}; set RAY_TMPDIR to a folder that "
            "you may write to"
        ) from None
    raise RunFailed(
        f"no Ray cluster could be started here: {home} is not a folder of this user's own, so another user may have "
        "laid it there; remove it, or set RAY_TMPDIR to another folder"
    )


@contextmanager
def closed_to_others() -> Iterator[None]:
    """Within it `ray.init` starts a cluster that listens on loopback alone and asks for a token that nobody else has.

    The token is random, one for each cluster, and is handed to Ray's processes in their environment, which the system
    shows to no other user; it stands in no file and no command line. Whoever sets a token himself (`RAY_AUTH_TOKEN`,
    `RAY_AUTH_TOKEN_PATH`) has that one, and can look in from another shell; `RAY_AUTH_MODE=disabled` asks for none.
    """
    constants = _loaded("ray._private.ray_constants")
    before = {name: os.environ.get(name) for name in (MODE, TOKEN)}
    reach = getattr(constants, _ON_LOOPBACK, None)
    if os.environ.get(MODE, "").lower() == "disabled":
        warn(
            f"{MODE}=disabled: the Ray cluster of this run asks for no token, so every user of this machine can run "
            "code in it as you; unset it"
        )
    else:
        os.environ[MODE] = "token"
        if not os.environ.get(TOKEN) and not os.environ.get(_TOKEN_FILE):
            os.environ[TOKEN] = secrets.token_hex(32)
    read_token_again()
    if reach is not None:
        # What Ray does on systems that ask about every port: its address is then loopback's, also without a network.
        setattr(constants, _ON_LOOPBACK, False)
    try:
        yield
    finally:
        if reach is not None:
            setattr(constants, _ON_LOOPBACK, reach)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def read_token_again() -> None:
    """Have Ray look at the environment again: this process may have been in another cluster, with another token."""
    raylet = _loaded("ray._raylet")
    if callable(initialize := getattr(getattr(raylet, "Config", None), "initialize", None)):
        initialize("")
    if (loader := getattr(raylet, "AuthenticationTokenLoader", None)) is not None:
        loader.instance().reset_cache()


def asks_for_token() -> bool | None:
    """Whether Ray's processes of this node ask each other for a token; None where this Ray does not say."""
    raylet = _loaded("ray._raylet")
    mode, modes = getattr(raylet, "get_authentication_mode", None), getattr(raylet, "AuthenticationMode", None)
    return bool(mode() != modes.DISABLED) if callable(mode) and modes is not None else None


def check_alone(address: str) -> None:
    """Warn if a cluster of our own is within others' reach all the same: a release of Ray that goes other ways.

    Args:
        address: of its head.
    """
    if not is_loopback(address):
        warn(
            f"this release of Ray listens on every network interface ({address}), not on loopback alone; its token "
            "keeps others out" + (", and it has none: keep the network away" if asks_for_token() is False else "")
        )


def warn_if_open(address: str) -> None:
    """Warn, once, of a cluster that has been joined without a token and that others can reach.

    Args:
        address: of its head.
    """
    if not is_loopback(address) and asks_for_token() is False:
        warn(
            f"the Ray cluster at {address} asks for no token: whoever reaches its ports can run code on it, and read "
            "what this run reads. Start it with RAY_AUTH_MODE=token (`ray get-auth-token --generate` makes a token; "
            "every machine needs it in ~/.ray/auth_token)"
        )


def trusted_note(note: Path) -> str | None:
    """The address in the note that `ray start` leaves, if this user or root left it; anybody may write to its folder.

    A cluster that is joined runs what it likes as us: its head hands out the code.
    """
    try:
        descriptor = os.open(note, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        if os.path.islink(note):
            warn(f"{note} is a link, which `ray start` does not leave: ignored; a Ray cluster is started for this run")
        return None
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        found = os.fstat(descriptor)
        address = file.read(256).strip() if stat.S_ISREG(found.st_mode) else ""
    if found.st_uid in (0, os.geteuid()):
        return address or None
    warn(
        f"{note} names the cluster {address!r}, and another user (number {found.st_uid}) has written it: ignored; a "
        "Ray cluster is started for this run. If you trust that one, set RAY_ADDRESS to it"
    )
    return None


def is_loopback(address: str) -> bool:
    """Whether `host:port` is one of this machine alone."""
    host = address.rpartition("://")[2].rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn(text: str) -> None:
    """A line on standard error, once in a process."""
    if text not in _warned:
        _warned.add(text)
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _loaded(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:  # private: another release may have it elsewhere
        return None
