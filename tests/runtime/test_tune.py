"""A sweep on Ray Tune: its trials are launches like any other; one that fails, or Ctrl-C, costs the others nothing."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Configure
from in_process import run

from fcit_ray.config.schema import Config
from fcit_ray.config.sweep import Sweep
from fcit_ray.config.trials import Study, Trial, load_sweep
from fcit_ray.results.out import Out
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.sweeps import Stopped
from fcit_ray.runtime.tune import run_sweep


def written(config: Config, folder: Path, stem: str, **keys: Any) -> str:
    """A file of a configuration, or of the part of it that differs."""
    file = folder / f"{stem}.yaml"
    file.write_text(yaml.safe_dump(keys or config.model_dump(mode="json")))
    return str(file)


def loaded(folder: Path, **keys: Any) -> tuple[Sweep, list[Study]]:
    file = folder / "sweep.yaml"
    file.write_text(json.dumps(keys))
    return load_sweep(file)


@pytest.mark.usefixtures("cluster")
def test_a_sweep_goes_on_after_a_failed_trial_and_after_an_interrupt(configure: Configure, tmp_path: Path) -> None:
    base = configure(benchmark={"tasks": ["ArxivQA"], "num_rounds": 1}, runtime={"num_workers": 1})
    methods = [
        written(base, tmp_path, "broken", name="broken", method={"name": "broken_method:Broken"}),
        written(base, tmp_path, "finetune", name="finetune", method={"name": "finetune"}),
    ]
    sweep, studies = loaded(tmp_path, config=[written(base, tmp_path, "base")], methods=methods)
    out = tmp_path / "out"
    broken, finetune = (RunFolder(out / f"{name}-seed0") for name in ("broken", "finetune"))
    raised: list[float] = []

    def interrupt(trial: Trial, results: Mapping[str, Any]) -> None:
        raised.append(time.monotonic())
        raise KeyboardInterrupt

    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, studies, Out(out), on_result=interrupt)
    # Ctrl-C used to wait for Tune's last trial.
    assert time.monotonic() - raised[0] < 20.0
    assert finetune.finished  # though the trial before it failed
    assert not broken.finished
    kept = (finetune.path / "results.json").stat()

    seen: list[Mapping[str, Any]] = []
    ended = run_sweep(sweep, studies, Out(out), on_result=lambda trial, results: seen.append(results))
    assert [results for _, results in ended.finished] == seen
    [(trial, why)] = ended.failed
    assert trial.folder == "broken-seed0"
    assert re.match(r"stage 0, round 0, client \d .*broken_method\.py, line 14, in report: ZeroDivisionError", why)
    assert "\n" not in why
    assert why.endswith(f"; the traceback is in {broken.log_file}")
    assert "Traceback" in broken.log_file.read_text()
    assert "return 1 // 0" in broken.log_file.read_text()
    assert (finetune.path / "results.json").stat() == kept
    # In one process, without Ray: the same bits, though the worker had another trial before.
    alone = run(studies[1].trial({}).config, tmp_path / "alone")
    assert [result["adapters_sha256"] for result in seen] == [alone["adapters_sha256"]]


@pytest.mark.usefixtures("cluster")
def test_a_crew_serves_the_next_trial_and_a_bad_one_ends_at_a_stage_s_end(configure: Configure, tmp_path: Path) -> None:
    base = configure(benchmark={"num_rounds": 1}, runtime={"num_workers": 1})
    sweep, studies = loaded(
        tmp_path,
        config=[written(base, tmp_path, "base")],
        methods=[written(base, tmp_path, "finetune", name="finetune", method={"name": "finetune"})],
        grid={"train.lr": [5e-3, 10.0]},  # at 10 nothing is left of what the base knew
        stop_early={"reduction_factor": 2},
    )
    out = tmp_path / "out"
    out.mkdir()
    stops: list[tuple[str, Stopped]] = []
    ended = run_sweep(
        sweep, studies, Out(out), on_result=lambda trial, results: None,
        on_stopped=lambda trial, stopped: stops.append((trial.folder, stopped)),
    )  # fmt: skip
    [(good, results)] = ended.finished
    assert good.folder == "finetune_lr=0.005-seed0"
    assert not ended.failed
    assert stops == [("finetune_lr=10.0-seed0", Stopped(stage=0, score=0.0))]
    # One worker group for both: Ray Train keeps a folder a group.
    assert len([*(out / "logs").glob("crew-*")]) == 1
    bad = RunFolder(out / stops[0][0])
    assert not bad.finished
    rounds = len(bad.records())

    again = run_sweep(sweep, studies, Out(out), on_result=lambda trial, results: None)
    assert [(trial.folder, stopped) for trial, stopped in again.stopped] == stops
    assert [result["adapters_sha256"] for _, result in again.finished] == [results["adapters_sha256"]]
    assert len(bad.records()) == rounds  # nothing of it was run again
