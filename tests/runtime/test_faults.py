"""A real cluster of three raylets on this host, in processes of its own: what dies there changes no bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import in_one_process
from repository import ROOT

from fcit_ray.experiment.loading import load_config
from tools.faults.bench import Bench

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("cluster")]
KEYS = ["train.epochs=12"]


def test_a_worker_and_then_its_node_die_at_random_moments_and_the_bits_are_those_of_one_process(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    bench = Bench(tmp_path, "one-process", seed)
    try:
        expected = in_one_process(load_config(bench.config, overrides=KEYS))
    finally:
        bench.close()
    (tmp_path / "references.json").write_text(json.dumps({" ".join(KEYS): [expected, 0.0]}))
    name = "node-after-worker-killed"
    done = subprocess.run(
        [sys.executable, "-m", "tools.faults", "--folder", str(tmp_path), "--seed", str(seed), name],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    assert json.loads((tmp_path / f"rows/{name}.json").read_text())["bits"] == "same"
