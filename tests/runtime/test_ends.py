"""Every end of the process that a user started: told, resumable, and soon none of its processes is left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Configure
from processes import Descent

pytestmark = pytest.mark.ray


def num_rounds(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"kind": "round"') if metrics.is_file() else 0


@pytest.fixture
def file(configure: Configure, tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(configure().model_dump(mode="json", exclude_defaults=True)))
    return file


def start(file: Path, out: Path, *options: str) -> tuple["subprocess.Popen[str]", Descent]:
    environment = {**os.environ, "RAY_ADDRESS": "local"}  # whatever `ray start` has left on this machine
    process = subprocess.Popen(
        [sys.executable, "-m", "fcit_ray", "run", str(file), "--out", str(out), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    return process, Descent(process.pid)


def test_terminated_in_a_round_then_killed_in_one_nothing_is_left_and_the_bits_are_those_of_no_interruption(
    file: Path, configure: Configure, tmp_path: Path
) -> None:
    from in_process import in_one_process

    out = tmp_path / "run"
    process, descent = start(file, out)
    descent.wait_for(lambda: num_rounds(out) >= 1, 300)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 143, said
    assert said.endswith("interrupted (SIGTERM); --resume goes on from the last checkpoint\n")
    assert descent.left_after(5.0) == []

    done = num_rounds(out)
    process, descent = start(file, out, "--resume")
    descent.wait_for(lambda: num_rounds(out) > done, 300)
    process.kill()
    _, said = process.communicate()
    assert said.splitlines()[-1].startswith("ended from outside, without a word (killed, ")
    assert said.endswith("; --resume goes on from the last checkpoint\n")
    assert descent.left_after(5.0) == []

    process, descent = start(file, out, "--resume")
    descent.wait_for(lambda: process.poll() is not None, 300)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "ended from outside" not in said
    assert json.loads((out / "results.json").read_text())["adapters_sha256"] == in_one_process(configure())
    assert descent.left_after(5.0) == []
