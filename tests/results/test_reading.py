"""Results as they are read from Python: figures worked out by hand, and what is no finished run."""

from pathlib import Path

import pytest
import torch

import fcit_ray
from fcit_ray.config.schema import Config
from fcit_ray.errors import RunFolderError
from fcit_ray.results.figures import make_results
from fcit_ray.results.opening import open_run

TASKS = ["ArxivQA", "IconQA"]


def finished(path: Path, num_stages: int, evaluations: dict[int, dict[str, float]], **values: object) -> Path:
    config = Config.model_validate({"name": "DISCO", "seed": 3, "benchmark": {"tasks": TASKS}, **values})
    folder = open_run(path, config, resume=False, overwrite=False)
    records = [{"kind": "evaluation", "stage": stage, "scores": scores} for stage, scores in evaluations.items()]
    for record in records:
        folder.log(record)
    folder.write_results(
        make_results(
            label="DISCO", seed=3, tasks=TASKS, num_stages=num_stages, records=records,
            num_records=dict.fromkeys(TASKS, 1), params={"w": torch.zeros(1)},
        )
    )  # fmt: skip
    return path


def test_a_run_is_read_as_tables(tmp_path: Path) -> None:
    path = finished(tmp_path / "run", 2, {0: {"ArxivQA": 70.0}, 1: {"ArxivQA": 60.0, "IconQA": 50.0}})
    results = fcit_ray.open_results(path)
    assert (results.label, results.seed, results.folder) == ("DISCO", 3, path)
    assert results.scores == {"ArxivQA": 60.0, "IconQA": 50.0}
    assert results.accuracy_matrix == [{"stage": 0, "ArxivQA": 70.0}, {"stage": 1, "ArxivQA": 60.0, "IconQA": 50.0}]
    assert results.last == 55.0
    assert results.average == 62.5  # (70 + 55) / 2
    assert results.forgetting == 10.0
    assert results.learned == 60.0  # (70 + 50) / 2
    assert results.learned_scores == {"ArxivQA": 70.0, "IconQA": 50.0}
    assert [record["stage"] for record in results.metrics] == [0, 1]
    assert results.config.seed == 3


def test_a_zero_shot_run_has_one_row_before_all_stages(tmp_path: Path) -> None:
    path = finished(tmp_path / "run", 0, {-1: {"ArxivQA": 4.0, "IconQA": 8.0}}, regime="zero_shot")
    results = fcit_ray.open_results(path)
    assert results.accuracy_matrix == [{"stage": -1, "ArxivQA": 4.0, "IconQA": 8.0}]
    assert (results.last, results.average) == (6.0, None)
    assert (results.learned, results.learned_scores) == (None, {})


def test_what_is_no_finished_run_has_no_results(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no folder of a run"):
        fcit_ray.open_results(tmp_path)
    config = Config.model_validate({"name": "DISCO", "benchmark": {"tasks": TASKS}})
    open_run(tmp_path / "half", config, resume=False, overwrite=False).release()
    with pytest.raises(RunFolderError, match="the run is not finished"):
        fcit_ray.open_results(tmp_path / "half")
