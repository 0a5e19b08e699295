"""W&B's own reader finds every point once, in the files of its offline mode."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tracked_runs
from tracked_runs import RECORDS

from fcit_ray.errors import ConfigError
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.tracking.choose import check_trackers


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Neither credentials nor a place outside of the test's."""
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        (tmp_path / "home" / name).mkdir(parents=True)
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    yield
    import wandb

    wandb.teardown()  # its service, and the settings that it read from the environment


def records(file: Path) -> Iterator[bytes]:
    """What a .wandb file holds: seven bytes, then LevelDB's log format: blocks of 32 KiB, in which a record is whole
    (type 1) or in pieces (2 first, 3 middle, 4 last), each behind four bytes of CRC, two of length and one of type."""
    content, place, piece = file.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # a header is never cut
            place += 2**15 - place % 2**15
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        piece += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield piece
            piece = b""


def read(folder: RunFolder) -> dict[str, list[Any]]:
    """What the .wandb file that `wandb sync` would send holds, by kind of record."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, list[Any]] = {}
    for file in sorted(Path(folder.path, "wandb").glob("offline-run-*/run-*.wandb")):
        for data in records(file):
            record = Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
    return found


def history(folder: RunFolder, name: str) -> list[tuple[int, float, float]]:
    """(W&B's step, rounds finished, value) of every row that has a metric."""
    rows = []
    for row in read(folder)["history"]:
        values = {item.key or "/".join(item.nested_key): float(item.value_json) for item in row.item}
        if name in values:
            rows.append((row.step.num, values["progress/rounds"], values[name]))
    return rows


SESSION = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {path}
import tracked_runs
from fcit_ray.tracking.memory import Memory
folder, config = tracked_runs.start(Path({folder!r}), **{tracking})
tracked_runs.write(folder, tracked_runs.RECORDS[:2])
with tracked_runs.session(folder, config):
    while Memory(folder.path, "wandb").done < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_offline_a_killed_run_goes_on_under_its_id_and_no_point_is_there_twice(home, tmp_path) -> None:
    tracking = {"report_to": ["wandb"], "wandb_mode": "offline", "project": "study", "group": "table"}
    code = SESSION.format(path=sys.path, folder=str(tmp_path / "run"), tracking=tracking)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = RunFolder(tmp_path / "run")
    config = folder.config()
    folder.rewind(0, 1)
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, RECORDS[1:])
        (folder.path / "report.html").write_text("<html>")
        tracked_runs.finish(folder)
    (_,) = (folder.path / "wandb" / "earlier").iterdir()  # what W&B had written by then; a kill may leave it empty
    (_,) = (folder.path / "wandb").glob("offline-run-*")  # one folder holds all, and `wandb sync` finds it
    assert history(folder, "train/loss") == [(0, 1, 2.0), (1, 2, 1.5), (3, 3, 1.0), (4, 4, 0.5)]
    assert history(folder, "eval/mean") == [(2, 2, 70.0), (5, 4, 55.0)]
    found = read(folder)
    assert len({(run.run_id, run.project, run.run_group, run.display_name) for run in found["run"]}) == 1
    assert (found["run"][0].project, found["run"][0].run_group) == ("study", "table")
    assert found["run"][0].display_name == "DISCO-seed3"
    configured = {item.key: item.value_json for item in found["run"][0].config.update}
    assert '"num_rounds":2' in configured["benchmark"].replace(" ", "")
    summary = {item.key or item.nested_key[0]: item.value_json for part in found["summary"] for item in part.update}
    assert (summary["final/last"], summary["final/learned"]) == ("55.0", "60.0")
    assert {entry.path for part in found["artifact"] for entry in part.manifest.contents} >= {"report.html"}
    assert found["exit"][-1].exit_code == 0


def test_no_credentials_are_told_before_the_run(home, tmp_path) -> None:
    _, config = tracked_runs.start(tmp_path / "run", report_to=["wandb"])
    with pytest.raises(ConfigError, match=r"^tracking\.report_to: wandb has no credentials; `wandb login`, or set"):
        check_trackers([config])
    _, offline = tracked_runs.start(tmp_path / "other", report_to=["wandb"], wandb_mode="offline")
    check_trackers([offline])
