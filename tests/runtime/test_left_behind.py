"""What a cluster of our own leaves behind is ended, and nothing else."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcit_ray.runtime import ending, left_behind


def sleeper(program: Path, *arguments: str) -> subprocess.Popen[bytes]:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("import sys, time\nheld = [open(x) for x in sys.argv[1:] if x.startswith('/')]\n"
                       "print('there', flush=True)\ntime.sleep(60)\n")  # fmt: skip
    process = subprocess.Popen([sys.executable, str(program), *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_rays_processes_of_the_session_end_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rays, folder = tmp_path / "site-packages/ray", tmp_path / "tmp"
    ours, another = (folder / f"session_2026-11-26_12-00-0{n}_000001_{pid}" for n, pid in ((1, 77), (2, 78)))
    before = folder / "session_2026-11-25_12-00-01_000001_77"  # of a process that had the number earlier
    for session in (ours, another, before):
        (session / "logs").mkdir(parents=True)
        (session / "logs/a.log").touch()
        (session / "ray_spilled_objects_1").mkdir()
    assert left_behind.sessions(folder, 77, "2026-11-26_12-00-00") == [ours]
    told = sleeper(rays / "gcs_server.py", f"--session-dir={ours}")
    holds = sleeper(rays / "worker.py", str(ours / "logs/a.log"))
    others = [
        sleeper(rays / "gcs_server.py", f"--session-dir={another}"),
        sleeper(rays / "gcs_server.py", f"--session-dir={before}"),
        sleeper(rays / "gcs_server.py", f"--session-dir={ours}0"),
        sleeper(tmp_path / "tail.py", str(ours / "logs/a.log")),  # somebody reads a log
    ]
    monkeypatch.setattr(left_behind, "_PATIENCE_S", 0.0)
    try:
        found = left_behind.processes([ours], str(rays))
        assert {process.pid for process in found} == {told.pid, holds.pid}
        left_behind.end(folder, 77, "2026-11-26_12-00-00", str(rays))
        assert told.wait(5) == holds.wait(5) == -9
        assert [process.poll() for process in others] == [None] * 4
        assert [(session / "ray_spilled_objects_1").exists() for session in (ours, another, before)] == [False, 1, 1]
        assert (ours / "logs/a.log").exists(), "what a bug report needs"
    finally:
        for process in (told, holds, *others):
            process.kill()
            process.wait()


def test_it_waits_as_long_as_the_process_that_started_it_lives(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom fcit_ray.runtime import ending\n"
        f"ending.end_with_this_process({str(tmp_path)!r}); ending.end_with_this_process({str(tmp_path)!r})\n"
        "print(ending._watcher[0].pid, len(ending._watcher), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, count = map(int, parent.stdout.readline().split())
    assert count == 1, "one is enough for a process"
    import psutil

    watcher = psutil.Process(pid)
    time.sleep(1.0)
    assert watcher.is_running()
    parent.kill()
    parent.wait()
    watcher.wait(timeout=10)


@pytest.mark.parametrize(
    ("end", "told"), [("os._exit(1)", True), ("sys.exit(1)", False), ("signals.leave_at_once(1)", False)]
)
def test_of_a_process_on_a_joined_cluster_it_only_tells_an_end_of_which_nothing_was_said(end: str, told: bool) -> None:
    program = (
        "import os, sys\nfrom fcit_ray import signals\nfrom fcit_ray.runtime import ending\n"
        "signals.heed(leave=True); signals.remedy('do this'); ending.end_with_this_process(None)\n"
        f"sys.stderr.write('its own words; '); sys.stderr.flush(); {end}"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    words = f"{ending._UNSAID}; do this\n" if told else ""
    assert done.stderr == f"its own words; {words}"
