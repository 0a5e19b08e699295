"""A cluster that is not there, or no more, is told at once; what Ray keeps private is done without if it moves."""

import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from fcit_ray.errors import ClusterLost, RunFailed
from fcit_ray.runtime import cluster
from fcit_ray.runtime.cluster import may_grow, redirect_logs, start_ray
from fcit_ray.runtime.head import HeadWatch, host_and_port, silence


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a port that nobody listens on; Ray must not be asked to try it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was asked"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return f"127.0.0.1:{port}"


def told(**arguments: Any) -> str:
    began = time.monotonic()
    with pytest.raises(RunFailed) as caught:
        start_ray(**arguments)
    assert time.monotonic() - began < 4.0
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_dead_address_is_told_at_once_with_who_named_it(
    dead: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(dead)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    message = told()
    assert message.startswith(
        f"no Ray cluster answers at {dead} ({tmp_path}/ray/ray_current_cluster, which `ray start` "
    )
    monkeypatch.setenv("RAY_ADDRESS", f"ray://{dead}")
    assert told().startswith(f"no Ray cluster answers at ray://{dead} (RAY_ADDRESS): ")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    assert told().startswith("'somewhere' (RAY_ADDRESS) is no address of a Ray cluster; expected host:port")


def test_a_path_too_long_for_sockets_is_told_by_its_variable(
    dead: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("d" * 90)))
    assert "is too long a path for Ray's sockets; set RAY_TMPDIR" in told()


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (RuntimeError("a token is required"), ["does not let us in", "~/.ray/auth_token", "RAY_AUTH_MODE=token",
                                               "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"]),
        (ConnectionError("gone"), ["could not be joined as a Ray cluster: gone", "~/.ray/auth_token"]),
        (ValueError("two\nlines"), ["could not be joined as a Ray cluster: two lines"]),
    ],
)  # fmt: skip
def test_a_cluster_that_does_not_let_us_in_is_told_with_what_to_set(
    dead: str, monkeypatch: pytest.MonkeyPatch, error: Exception, parts: list[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        message = told()
    for part in ("127.0.0.1", "(RAY_ADDRESS)", *parts):
        assert part in message


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("[::1]:6379", ("::1", 6379)),
        ("head", None),
        ("head:", None),
        (":6379", None),
        ("head:99999", None),
    ],
)
def test_addresses(address: str, place: tuple[str, int] | None) -> None:
    assert host_and_port(address) == place


def test_a_head_that_falls_silent_is_given_up_and_one_that_comes_back_is_not() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    stopped = threading.Event()

    def accept() -> None:
        while not stopped.is_set():
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    assert silence(("127.0.0.1", port)) == ""
    with HeadWatch(f"127.0.0.1:{port}", lost_s=0.3, every_s=0.02) as watch:
        time.sleep(0.5)
        watch.check()
        watch.check_now()
        stopped.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        time.sleep(2.0)
        with pytest.raises(ClusterLost, match=rf"head at 127\.0\.0\.1:{port} .*--resume"):
            watch.check()
        with pytest.raises(ClusterLost):
            watch.check_now()


def test_a_ray_that_keeps_its_insides_elsewhere_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = {name: list(logging.getLogger(name).handlers) for name in ("ray", "ray.data", "ray.train", "ray.tune")}
    monkeypatch.delattr(ray, "_private")
    redirect_logs(tmp_path / "ray.log")
    assert may_grow() is False
    assert "below" in cluster._session_folder()
    for name, handlers in before.items():
        logging.getLogger(name).handlers[:] = handlers
