"""deploy/slurm.sh goes its way: with stand-ins for srun, ray and fcit-ray that say what they were called with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from repository import ROOT

SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$SAID"
while [[ "$1" == --* ]]; do [[ "$1" != --ntasks=* ]] || tasks=${1#--ntasks=}; shift; done
for task in $(seq $tasks); do setsid "$@" & all="$all -$!"; done
trap "kill -- $all" TERM  # all that runs in the step, as Slurm does
wait
"""
RAY = """#!/usr/bin/env bash
echo "ray $*" >> "$SAID"
echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN $RAY_TMPDIR" >> "$SAID.env"
exec sleep 60
"""
RAY_MODULE = """
import os
def is_initialized(): return True
def nodes():
    found = open(os.environ["SAID"]).read().count("\\nray start")
    return [{"Alive": True}] * min(int(os.environ["MOST"]), found)
"""
FCIT_RAY = """#!/usr/bin/env bash
echo "fcit-ray $* at $RAY_ADDRESS" >> "$SAID"
trap 'echo told >> "$SAID"; exit 42' TERM
for i in $(seq ${TAKES:-1}); do sleep 0.1; done
exit 7
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the script as Slurm would on the first of three nodes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"srun": SRUN, "ray": RAY, "fcit-ray": FCIT_RAY, "scontrol": "#!/bin/sh\nprintf 'a\\nb\\nc\\n'\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    (folder / "ray.py").write_text(RAY_MODULE)
    begun: list[subprocess.Popen[str]] = []

    def begin(*words: str, **environment: str) -> subprocess.Popen[str]:
        values = {
            "PATH": f"/usr/bin:/bin:{folder}", "FCIT_BIN": str(folder), "PYTHONPATH": str(folder),
            "SAID": str(tmp_path / "said"), "MOST": "3", "HEAD_IP": "10.0.0.1", "FCIT_WAIT_S": "10",
            "SLURM_JOB_ID": str(4_000_000 + os.getpid() % 4000), "SLURM_JOB_NODELIST": "[a-c]",
            "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "8",
        }  # fmt: skip
        command = ["bash", str(ROOT / "deploy/slurm.sh"), *words]
        begun.append(
            subprocess.Popen(command, env={**values, **environment}, text=True, stderr=subprocess.PIPE, cwd=tmp_path)
        )
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def test_the_command_runs_once_all_nodes_are_there_and_its_exit_code_is_the_job_s(start: Start, tmp_path: Path) -> None:
    job = start("run", "miniature", "--out", "/shared/runs/a b")
    assert job.wait(30) == 7
    head, ray_head, others, *rays, run = (tmp_path / "said").read_text().splitlines()
    port = 20000 + os.getpid() % 4000  # of the job's number
    assert "--nodes=1" in head
    assert "--nodelist=a" in head
    assert f"ray start --head --node-ip-address=10.0.0.1 --port={port} " in ray_head
    assert len(rays) == 2
    assert "--nodes=2" in others
    assert "--exclude=a" in others
    assert all(f"ray start --address=10.0.0.1:{port} --num-cpus=8 " in line for line in rays)
    assert run == f"fcit-ray run miniature --out /shared/runs/a b at 10.0.0.1:{port}"
    [(mode, token, folder)] = {tuple(line.split()) for line in (tmp_path / "said.env").read_text().splitlines()}
    assert (mode, len(token)) == ("token", 64)
    assert token not in (tmp_path / "said").read_text()  # a command line is everybody's to read
    assert not Path(folder).exists()


def test_a_job_that_is_told_to_end_tells_the_run_and_waits_for_it(start: Start, tmp_path: Path) -> None:
    job = start("run", "miniature", TAKES="300")
    deadline = time.monotonic() + 20
    while not ((said := tmp_path / "said").exists() and "fcit-ray" in said.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # until the stand-in listens
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 42
    assert said.read_text().splitlines()[-1] == "told"


def test_nodes_that_do_not_come_end_the_job_with_their_number(start: Start, tmp_path: Path) -> None:
    job = start("run", "miniature", MOST="1", FCIT_WAIT_S="2")
    _, said = job.communicate(timeout=30)
    assert job.returncode == 1
    assert "deploy/slurm.sh: 1 of 3 Ray nodes have come up" in said
    assert "fcit-ray" not in (tmp_path / "said").read_text()


def test_a_job_without_a_command_says_what_it_wants(start: Start) -> None:
    job = start()
    _, said = job.communicate(timeout=10)
    assert job.returncode == 2
    assert "expected a command of fcit-ray behind it" in said
