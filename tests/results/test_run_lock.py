"""One process at a time works in a run folder; no crash and no copy leaves it locked."""

import errno
import fcntl
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from run_folders import begin, make_config, resume, start

from fcit_ray.errors import RunFolderError
from fcit_ray.results.opening import open_run

HOLDER = """
import sys
from pathlib import Path
from fcit_ray.config.schema import Config
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.opening import open_run
open_run(sys.argv[1], Config.model_validate({"benchmark": {"tasks": ["ArxivQA", "IconQA"]}}),
               resume=True, overwrite=False)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Works in the folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_two_processes_do_not_work_in_one_folder_and_a_crash_or_a_copy_leaves_no_lock(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    folder.release()
    with another_process(folder.path) as holder:
        for flags in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
            with pytest.raises(RunFolderError) as caught:
                open_run(folder.path, make_config(), **flags)
            for part in (f"process {holder.pid} on {socket.gethostname()}, since 20", "another process works in it"):
                assert part in str(caught.value)
        assert len(folder.records()) == 1  # reading is free
        shutil.copytree(folder.path, tmp_path / "copy")
        resume(tmp_path / "copy")
        holder.kill()
        holder.wait()
        resume(folder.path)


def test_the_writers_lock_waits_for_a_driver_that_is_about_to_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(tmp_path / "run")
    blocker = (folder.path / ".writer.lock").open("r+")
    fcntl.flock(blocker, fcntl.LOCK_EX)
    monkeypatch.setattr("fcit_ray.results.run_folder._WRITER_WAIT_S", 0.0)
    with pytest.raises(RunFolderError, match="the driver of an earlier session still writes"), folder.writing():
        pass
    # What it would still write must not come into a folder that was just emptied, nor be taken for the new run's.
    with pytest.raises(RunFolderError, match="the driver of an earlier session still writes"):
        open_run(folder.path, make_config(), resume=False, overwrite=True)
    assert len(folder.records()) == 1
    monkeypatch.setattr("fcit_ray.results.run_folder._WRITER_WAIT_S", 30.0)
    threading.Timer(0.3, blocker.close).start()
    with folder.writing():
        assert blocker.closed


def test_a_file_system_without_locks_is_worked_on_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    start(tmp_path / "run")
    assert "has no locks" in caplog.text
