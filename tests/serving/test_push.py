"""Uploads by the true client of the hub: to a small hub of our own on this machine, or into nothing."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants as hub
import pytest
from finished import finished
from typer.testing import CliRunner

from fcit_ray.cli.app import app
from fcit_ray.errors import ExportError
from fcit_ray.serving.push import check_push, push

TOKEN = "hf_" + "s" * 30


class Hub(ThreadingHTTPServer):
    """Takes small files in commits, as the hub does, and refuses what it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.role, self.refuses = "write", {}
        self.there: dict = {}  # what is known of me/mine
        self.made: list[dict] = []
        self.files: dict[str, bytes] = {}


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    def _answer(self, body: bytes) -> None:
        hub, path = self.server, self.path.split("?")[0]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._say(401, {"error": "Invalid username or password."})
        if status := next((code for part, code in hub.refuses.items() if part in path), None):
            return self._say(status, {"error": "not for you"})
        if path.endswith("/whoami-v2"):
            return self._say(200, {"name": "me", "auth": {"accessToken": {"role": hub.role}}})
        if path.endswith("/repos/create"):
            hub.made.append(json.loads(body))
            return self._say(200, {"url": f"{self._address}/me/mine", "id": "me/mine"})
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._say(200, {"files": files})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitUrl": f"{self._address}/me/mine/commit/1", "commitOid": "1" * 40, "success": True}
            return self._say(200, {**commit, "hookOutput": ""})
        if path.endswith("/validate-yaml"):
            return self._say(200, {"errors": [], "warnings": []})
        if path.endswith("/models/me/mine") and hub.there:
            return self._say(200, {"id": "me/mine", "sha": "1" * 40, "siblings": [], **hub.there})
        return self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    @property
    def _address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _say(self, status: int, said: dict, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(said).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_export_is_uploaded_whole_to_a_private_repository(server, tmp_path):
    run = finished(tmp_path / "run", {"name": "finetune"}).path
    out = tmp_path / "out"
    told = CliRunner().invoke(app, ["export", str(run), str(out), "--push", "me/mine"])
    assert told.exit_code == 0, told.output
    assert "/me/mine: uploaded" in told.output
    [made] = server.made
    assert is_private(made)
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert server.files == files
    assert not [name for name, content in files.items() if TOKEN.encode() in content]


def test_a_public_one_is_asked_for(server, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    push(tmp_path, "me/mine", private=False)
    [made] = server.made
    assert not is_private(made)


def is_private(asked: dict) -> bool:
    """Whether a request to make a repository says so, in the words of earlier releases of the client or of later."""
    return asked.get("private") is True or asked.get("visibility") == "private"


def test_what_is_public_is_not_written_into_unasked(server):
    server.there = {"private": False}
    with pytest.raises(ExportError, match="--push me/mine: is public already; --public writes into it"):
        check_push("me/mine", private=True)
    check_push("me/mine", private=False)
    server.there = {"private": True}
    check_push("me/mine", private=True)


@pytest.mark.parametrize(
    ("role", "refuses", "words"),
    [
        ("read", {}, "the hub's token of me only reads"),
        ("write", {"whoami": 401}, "the hub does not know this token"),
        ("write", {"whoami": 500}, "the hub answered 500"),
    ],
)
def test_a_token_that_will_not_do_is_found_before_anything_is_written(role, refuses, words, server, tmp_path):
    server.role, server.refuses = role, refuses
    told = CliRunner().invoke(app, ["export", str(tmp_path / "no-run"), str(tmp_path / "out"), "--push", "me/mine"])
    assert told.exit_code == 2
    assert words in told.output
    assert "Traceback" not in told.output
    assert TOKEN not in told.output


def test_an_upload_that_is_refused_leaves_the_export_and_says_how_to_go_on(server, tmp_path):
    server.refuses = {"/commit/": 403}
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ExportError, match=r"the hub forbids it: .*needs to write to me; .*`hf upload me/mine"):
        push(tmp_path, "me/mine", private=True)


def test_what_keeps_from_the_hub_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    with pytest.raises(ExportError, match="--push me/mine: no token of the hub on this machine"):
        check_push("me/mine", private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ExportError, match="--push me/mine: the hub is not reached"):
        check_push("me/mine", private=True)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="--push me/mine: HF_HUB_OFFLINE is set"):
        check_push("me/mine", private=True)
    for name, words in (("mine", "expected ORG/NAME"), ("a/b/c", "--push 'a/b/c'"), ("me/mi ne", "--push 'me/mi ne'")):
        with pytest.raises(ExportError, match=words):
            check_push(name, private=True)
