"""A sweep on Ray Tune: its trials are launches like any other; one that fails, or Ctrl-C, costs the others nothing."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Configure
from in_process import run

from fcit_ray.config.sweep import Sweep, Trial
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.tune import run_sweep

SWEEP = Sweep(config=("unused.yaml",), methods=("unused.yaml",), max_concurrent=1)


@pytest.mark.usefixtures("cluster")
def test_a_sweep_goes_on_after_a_failed_trial_and_after_an_interrupt(configure: Configure, tmp_path: Path) -> None:
    small = {"tasks": ["ArxivQA"], "num_rounds": 1}
    trials = [
        Trial(folder=name, config=configure(method={"name": method}, benchmark=small, runtime={"num_workers": 1}))
        for name, method in (("broken", "broken_method:Broken"), ("finetune", "finetune"))
    ]
    broken, finetune = (RunFolder(tmp_path / trial.folder) for trial in trials)
    raised: list[float] = []

    def interrupt(results: Mapping[str, Any]) -> None:
        raised.append(time.monotonic())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, trials, tmp_path, on_result=interrupt)
    # Ctrl-C used to wait for Tune's last trial.
    assert time.monotonic() - raised[0] < 20.0
    assert finetune.finished  # though the trial before it failed
    assert not broken.finished
    kept = (finetune.path / "results.json").stat()

    seen: list[Mapping[str, Any]] = []
    results, failed = run_sweep(SWEEP, trials, tmp_path, on_result=seen.append)
    assert results == seen
    assert list(failed) == ["broken"]
    assert re.match(
        r"stage 0, round 0, client \d .*broken_method\.py, line 14, in report: ZeroDivisionError", failed["broken"]
    )
    assert failed["broken"].endswith(f"; the traceback is in {broken.log_file}")
    assert "Traceback" in broken.log_file.read_text()
    assert (finetune.path / "results.json").stat() == kept
    # In one process, without Ray: the same bits.
    alone = run(trials[1].config, tmp_path / "alone")
    assert [result["adapters_sha256"] for result in seen] == [alone["adapters_sha256"]]
