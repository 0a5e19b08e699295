"""Nobody else gets into a cluster of this process's own, and this process into nobody's that it does not know."""

import os
import stat
from pathlib import Path

import psutil
import pytest
import ray

from fcit_ray.errors import RunFailed
from fcit_ray.runtime import private_cluster
from fcit_ray.runtime.cluster import connect
from fcit_ray.runtime.private_cluster import (
    closed_to_others,
    is_loopback,
    session_home,
    trusted_note,
    warn_if_open,
)

STRANGER = 65534


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own settings, nothing warned of yet, and Ray's own state left as it is."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(private_cluster, "_warned", set())


@pytest.mark.ray
def test_every_port_is_on_loopback_and_every_process_has_the_token(cluster: None) -> None:
    @ray.remote
    def token() -> tuple[str, str]:
        return os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]

    mode, secret = ray.get(token.remote())
    assert mode == "token"
    assert len(secret) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ  # the next cluster that this process joins has another
    words, listening = [], []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            words.append(" ".join(process.cmdline()))
            found = [each for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue  # an idle worker that Ray has ended meanwhile
        listening += [each.laddr.ip for each in found]
    assert sum("fcit-" in line for line in words) >= 2  # the head's and the node's, by their session
    assert len(listening) >= 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert not [line for line in words if secret in line]
    home = Path(session_home()).parent
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def quiet_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_cluster, "read_token_again", lambda: None)  # the tests' own cluster has its token


def test_each_cluster_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_ray(monkeypatch)
    tokens = []
    for _ in range(2):
        with closed_to_others():
            assert os.environ["RAY_AUTH_MODE"] == "token"
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_MODE" not in os.environ
    assert len(set(tokens)) == 2


def test_a_token_of_the_users_own_is_kept_and_no_token_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_ray(monkeypatch)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    with closed_to_others():
        assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with closed_to_others():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "warning: RAY_AUTH_MODE=disabled: the Ray cluster of this run asks for no token" in capsys.readouterr().err


def test_sessions_are_in_a_folder_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(os.path.realpath("/tmp")) / f"f{os.getpid()}"  # pytest's folders have too many letters for sockets
    place.mkdir(mode=0o777)
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    home = place / f"fcit-{os.geteuid()}"
    try:
        place.chmod(0o777)
        assert session_home() == f"{home}/ray"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        home.chmod(0o755)  # as an earlier release, or a careless hand, may have left it
        session_home()
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        home.rmdir()
        home.symlink_to(tmp_path)
        with pytest.raises(RunFailed, match="is not a folder of this user's own, so another user may have laid it"):
            session_home()
        home.unlink()
        place.chmod(0o700)
        assert session_home() == f"{place}/ray"
    finally:
        home.unlink() if home.is_symlink() else None
        place.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_note_that_another_user_wrote_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = tmp_path / "ray_current_cluster"
    note.write_text("203.0.113.7:6379")
    assert trusted_note(note) == "203.0.113.7:6379"
    os.chown(note, STRANGER, STRANGER)
    assert trusted_note(note) is None
    said = capsys.readouterr().err
    assert "names the cluster '203.0.113.7:6379', and another user (number 65534) has written it: ignored" in said


def test_a_note_that_is_a_link_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").write_text("203.0.113.7:6379")
    note = tmp_path / "ray_current_cluster"
    assert trusted_note(note) is None
    assert capsys.readouterr().err == ""
    note.symlink_to("elsewhere")
    assert trusted_note(note) is None
    assert "is a link, which `ray start` does not leave: ignored" in capsys.readouterr().err


def test_a_strangers_note_leads_to_a_cluster_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").symlink_to("/203.0.113.7:6379")
    quiet_ray(monkeypatch)
    monkeypatch.setattr("fcit_ray.runtime.cluster.session_home", lambda: str(tmp_path))
    monkeypatch.setattr("fcit_ray.runtime.cluster.head", lambda: "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: asked.append(address))
    connect()
    assert asked == ["local"]


def test_an_open_cluster_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(private_cluster, "asks_for_token", lambda: False)
    warn_if_open("127.0.0.1:6379")
    assert capsys.readouterr().err == ""
    warn_if_open("10.0.0.1:6379")
    warn_if_open("10.0.0.1:6379")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("warning: the Ray cluster at 10.0.0.1:6379 asks for no token: whoever reaches its ports can ")
    for asks in (True, None):  # None: this Ray does not say
        monkeypatch.setattr(private_cluster, "asks_for_token", lambda asks=asks: asks)
        warn_if_open("10.0.0.2:6379")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:6379", True), ("[::1]:6379", True), ("localhost:1", True), ("10.0.0.1:6379", False),
     ("ray://head:10001", False), ("0.0.0.0:6379", False)],
)  # fmt: skip
def test_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) == loopback
