"""Ray Tune over launches: every trial is the same launch as `pipelines/run.py`, in a run folder of its own."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import tune

from fcit_ray.config import Config, ConfigError, describe, load_config, parse_config
from fcit_ray.display import Status
from fcit_ray.experiment import open_experiment
from fcit_ray.run_folder import RunFolder
from fcit_ray.runtime.data import quiet
from fcit_ray.runtime.launch import launch
from fcit_ray.runtime.store import share_tensors


class Sweep(BaseModel):
    """A sweep file: the product of methods, seeds and a grid of any configuration keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    config: tuple[Path, ...] = Field(min_length=1)
    """Base configuration files, merged in order; relative to the working directory."""
    methods: tuple[Path, ...] = Field(min_length=1)
    """One file a method, merged over the base."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Each method runs with each seed."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values to try by dotted key, e.g. `train.lr: [1.0e-3, 5.0e-3]`; the values name the table's rows."""
    overrides: tuple[str, ...] = ()
    """`key.path=value`, for all trials."""
    max_concurrent: int = Field(1, ge=1)
    """Trials at a time. Together their workers must leave Ray Data a CPU."""


class Trial(BaseModel):
    """One run of a sweep."""

    folder: str
    """Name of its run folder."""
    config: Config
    """Complete."""


def load_sweep(file: Path, overrides: Sequence[str] = ()) -> tuple[Sweep, list[Trial]]:
    """Read a sweep file and check every trial's configuration.

    Args:
        file: YAML.
        overrides: `key.path=value` for all trials, after the file's own.

    Raises:
        ConfigError: names file, key and value.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: no such sweep file")
    try:
        sweep = Sweep.model_validate(yaml.safe_load(file.read_text()))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{file}:\n{describe(error)}") from None
    trials = []
    points = [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    for method, point, seed in itertools.product(sweep.methods, points, sweep.seeds):
        chosen = [f"{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}" for key, value in point.items()]
        config = load_config([*sweep.config, method], [*sweep.overrides, *overrides, *chosen, f"seed={seed}"])
        label = " ".join([config.name, *(f"{key.split('.')[-1]}={value}" for key, value in point.items())])
        config = config.model_copy(update={"name": label})
        trials.append(Trial(folder=f"{label}-seed{seed}".replace(" ", "_").replace("/", "_").lower(), config=config))
    names = [trial.folder for trial in trials]
    if len(set(names)) < len(names):
        raise ConfigError(f"{file}: two trials would share a run folder; give the methods different names")
    return sweep, trials


def run_sweep(
    sweep: Sweep, trials: Sequence[Trial], out: Path, *, on_result: Callable[[Mapping[str, Any]], None]
) -> list[dict[str, Any]]:
    """Carry out the trials on the connected cluster; finished run folders are taken as they are.

    Args:
        sweep: how many at a time.
        trials: what to run.
        out: run folders go in here.
        on_result: called with each trial's results as it ends.

    Returns:
        Every trial's results, in the order of `trials`.

    Raises:
        RuntimeError: a trial failed; names it and its error. The others have run to their end.
    """
    callback = _OnTrialEnd(out, on_result)
    tuner = tune.Tuner(
        # The trial function only waits; the worker group and Ray Data reserve what they use by themselves.
        tune.with_resources(_run_trial, {"CPU": 0}),
        param_space={
            "trial": tune.grid_search([trial.model_dump(mode="json") for trial in trials]),
            "out": str(out.resolve()),
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=sweep.max_concurrent, metric="last", mode="max"),
        run_config=tune.RunConfig(
            name="tune", storage_path=str((out / "logs").resolve()), verbose=0, callbacks=[callback]
        ),
    )
    grid = tuner.fit()
    if grid.errors:
        raise RuntimeError("; ".join(str(error).strip().splitlines()[-1] for error in grid.errors))
    return [RunFolder(out / trial.folder).results() for trial in trials]


def _run_trial(space: Mapping[str, Any]) -> None:
    """One trial, in a process of Tune's: the launch, with a report to Tune after each evaluation."""
    share_tensors()
    quiet()
    trial, out = space["trial"], Path(space["out"])
    config = parse_config(trial["config"])
    folder = RunFolder.open(out / trial["folder"], config, resume=True, overwrite=False)
    reported = 0

    def report(_: Status | None = None) -> None:
        nonlocal reported
        evaluations = [record for record in folder.records() if record["kind"] == "evaluation"]
        for record in evaluations[reported:]:
            scores = record["scores"].values()
            tune.report({"stage": record["stage"], "mean_score": sum(scores) / len(scores), "last": float("nan")})
        reported = len(evaluations)

    results = launch(config, folder, on_status=report, experiment=open_experiment(config))
    tune.report({"stage": len(results["matrix"]) - 1, "mean_score": results["last"], "last": results["last"]})


class _OnTrialEnd(tune.Callback):
    def __init__(self, out: Path, on_result: Callable[[Mapping[str, Any]], None]):
        self._out = out
        self._on_result = on_result

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._on_result(RunFolder(self._out / trial.config["trial"]["folder"]).results())
