"""MLflow's own client finds every point once, in a database file, over kills, errors and a run that was deleted."""

import os
from pathlib import Path
from typing import Any

import pytest
import tracked_runs
from mlflow import MlflowClient
from tracked_runs import RECORDS

from fcit_ray.config.schema import with_absolute_paths
from fcit_ray.errors import ConfigError
from fcit_ray.tracking.choose import check_trackers
from fcit_ray.tracking.mlflow import Mlflow


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The address of a database file; nothing is written elsewhere, nobody is told of this use."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")  # so that it is put back
        monkeypatch.delenv(name)
    return f"sqlite:///{tmp_path}/mlflow.db"


def the_run(store: str, project: str = "fcit_ray") -> Any:
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name(project).experiment_id])
    return run


def history(store: str, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracking_uri=store).get_metric_history(the_run(store).info.run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


def test_a_run_is_there_once_after_a_kill_in_the_middle_of_a_point(store, tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=["mlflow"], mlflow_uri=store, group="table")
    tracked_runs.write(folder, RECORDS[:2])
    tracked_runs.abandon(folder, config, monkeypatch)
    assert the_run(store).info.status == "RUNNING"
    with monkeypatch.context() as patch:  # the next point arrives in part, and is not counted
        whole = Mlflow._send
        patch.setattr(Mlflow, "_send", lambda self, metrics, step: whole(self, dict(list(metrics.items())[:2]), step))
        patch.setattr("fcit_ray.tracking.memory.Memory.tell", lambda self, **values: None)
        tracked_runs.write(folder, RECORDS[2:3])
        tracked_runs.abandon(folder, config, patch)
    folder.rewind(0, 1)
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, RECORDS[1:])
        (folder.path / "report.html").write_text("<html>")
        tracked_runs.finish(folder)
    assert history(store, "train/loss") == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.5)]
    assert history(store, "eval/mean") == [(2, 70.0), (4, 55.0)]
    assert history(store, "eval/stage") == [(2, 0), (4, 1)]
    assert history(store, "final/learned") == [(4, 60.0)]
    run = the_run(store)
    assert (run.info.run_name, run.info.status) == ("DISCO-seed3", "FINISHED")
    assert run.data.params["benchmark.num_rounds"] == "2"
    assert run.data.tags["fcit_ray.group"] == "table"
    assert "| DISCO | 55.0 |" in run.data.tags["mlflow.note.content"]
    files = {file.path for file in MlflowClient(tracking_uri=store).list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "metrics.jsonl", "results.json", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "mlflow.db", "mlartifacts"}


def test_a_run_that_was_deleted_there_is_begun_anew(store, tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=["mlflow"], mlflow_uri=store)
    tracked_runs.write(folder, RECORDS[:4])
    tracked_runs.abandon(folder, config, monkeypatch)
    MlflowClient(tracking_uri=store).delete_run(the_run(store).info.run_id)
    with tracked_runs.session(folder, config):
        pass
    assert history(store, "train/loss") == [(1, 2.0), (2, 1.5), (3, 1.0)]


def test_a_server_that_is_away_costs_the_run_nothing(tmp_path, store, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder, config = tracked_runs.start(tmp_path / "run", report_to=["mlflow"], mlflow_uri="http://127.0.0.1:9")
    check_trackers([config])  # whether it answers is another matter
    said: list[str] = []
    with tracked_runs.session(folder, config, said):
        tracked_runs.write(folder, RECORDS)
        tracked_runs.finish(folder)
    assert said[-1].startswith("mlflow was not told 6 of 6 records and the final figures and files: ")
    _, there = tracked_runs.start(tmp_path / "other", report_to=["mlflow"], mlflow_uri=store)
    with tracked_runs.session(folder, there):  # as `--resume tracking.mlflow_uri=...` does
        pass
    assert history(store, "train/loss") == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.5)]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (None, "tracking.mlflow_uri: missing, and MLFLOW_TRACKING_URI is not set; expected a server's address"),
        ("mlruns", "tracking.mlflow_uri: mlruns cannot be used: "),
        ("sqlite:////dev/null/m.db", "tracking.mlflow_uri: sqlite:////dev/null/m.db cannot be used: "),
    ],
)
def test_an_address_that_cannot_work_is_refused_before_the_run(store, tmp_path, uri, message) -> None:
    _, config = tracked_runs.start(tmp_path / "run", report_to=["mlflow"], mlflow_uri=uri)
    with pytest.raises(ConfigError) as error:
        check_trackers([config])
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 1


def test_a_database_is_the_same_one_from_any_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, meant in {
        "sqlite:///m.db": f"sqlite:///{Path(os.getcwd())}/m.db",
        "sqlite:////a/m.db": "sqlite:////a/m.db",
        "http://host:5000": "http://host:5000",
    }.items():
        _, config = tracked_runs.start(tmp_path / given.replace("/", "_"), mlflow_uri=given)
        assert with_absolute_paths(config).tracking.mlflow_uri == meant
