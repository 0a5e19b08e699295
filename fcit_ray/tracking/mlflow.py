"""MLflow: a run a run of ours, in the experiment `tracking.project`, on a server or in a database file.

Credentials are MLflow's own affair: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from fcit_ray.config.tracking import Tracking
from fcit_ray.errors import ConfigError
from fcit_ray.storage.location import redact
from fcit_ray.tracking.memory import Memory
from fcit_ray.tracking.points import End, Point
from fcit_ray.tracking.tracker import Outcome, TrackedRun, Tracker

_STATUS: Final = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_MOST_PARAMS, _MOST_METRICS, _MOST_LETTERS = 100, 1000, 6000  # of one call, of a value
# MLflow would ask a server that is away for four minutes; whoever asks here comes back by itself.
_PATIENCE: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_SQLITE: Final = "sqlite:///"


class Mlflow(Tracker):
    """A point that may have arrived in part, before a kill or an error, is told again but for what is there."""

    def __init__(self, tracking: Tracking):
        self._uri = tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self._client: Any = None
        self._run = ""
        self._doubtful: int | None = None

    def check(self) -> None:
        if not self._uri:
            raise ConfigError(
                "tracking.mlflow_uri: missing, and MLFLOW_TRACKING_URI is not set; expected a server's address, such "
                "as http://localhost:5000, or a database file, such as sqlite:///mlflow.db"
            )
        if not self._uri.startswith(("http://", "https://", "databricks")):
            try:
                self._connect().search_experiments(max_results=1)
            except Exception as error:  # of MLflow, of a database's driver that is missing, of the disk
                said = " ".join(str(error).split(". ")[0].split())
                raise ConfigError(f"tracking.mlflow_uri: {redact(self._uri)} cannot be used: {said}") from None

    def start(self, run: TrackedRun, memory: Memory, points: Sequence[Point]) -> int:
        self._connect()
        self._run = self._known(memory)
        if self._run:
            self._client.update_run(self._run, status="RUNNING")
        else:
            memory.forget()
            made = self._client.create_run(
                self._experiment(run.project),
                run_name=run.name,
                tags={"fcit_ray.folder": str(run.folder), **({"fcit_ray.group": run.group} if run.group else {})},
            )
            self._run = made.info.run_id
            memory.keep(run_id=self._run)
        known = self._client.get_run(self._run).data.params
        params = [Param(key, _text(value)) for key, value in run.flat.items() if key not in known]
        for some in _in_pieces(params, _MOST_PARAMS):
            self._client.log_batch(self._run, params=some)
        self._doubtful = memory.done
        return memory.done

    def log(self, point: Point) -> None:
        missing = self._missing(point.metrics, point.step) if point.index == self._doubtful else point.metrics
        self._doubtful = point.index
        self._send(missing, point.step)
        self._doubtful = None

    def finish(self, end: End) -> None:
        self._send(self._missing(end.figures, end.step), end.step)
        self._client.set_tag(self._run, "mlflow.note.content", end.table)
        for file in end.files:
            self._client.log_artifact(self._run, str(file))

    def close(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._run, status=_STATUS[outcome])

    def _connect(self) -> Any:
        if self._client is None:
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
            for noisy in ("mlflow", "alembic"):  # they tell of every table that a new database gets
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._client = mlflow.MlflowClient(tracking_uri=self._uri)
        return self._client

    def _known(self, memory: Memory) -> str:
        """The run that an earlier session began, if it is still there."""
        run_id = memory.values.get("run_id")
        if not isinstance(run_id, str):
            return ""
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        return run_id if run.info.lifecycle_stage == "active" else ""

    def _experiment(self, name: str) -> str:
        """The id of the experiment, made if absent; other runs may make it at the same moment."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._artifacts()))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _artifacts(self) -> str | None:
        """Beside a database file: MLflow would put files wherever the process stands."""
        if not self._uri.startswith(_SQLITE):
            return None
        return Path(self._uri.removeprefix(_SQLITE)).absolute().with_name("mlartifacts").as_uri()

    def _missing(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Those that the server does not have at this step."""
        return {
            name: value
            for name, value in metrics.items()
            if not any(metric.step == step for metric in self._client.get_metric_history(self._run, name))
        }

    def _send(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        told = [Metric(name, value, now, step) for name, value in metrics.items()]
        for some in _in_pieces(told, _MOST_METRICS):
            self._client.log_batch(self._run, metrics=some)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _in_pieces(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    every = list(items)
    return (every[start : start + size] for start in range(0, len(every), size))
