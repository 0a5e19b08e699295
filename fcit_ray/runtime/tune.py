"""Ray Tune over launches: every trial is the same launch as `pipelines/run.py`, in a run folder of its own."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import tune

from fcit_ray.config import Config, ConfigError, describe, load_config, parse_config, with_absolute_paths
from fcit_ray.display import Status
from fcit_ray.errors import RunFailed
from fcit_ray.experiment import open_experiment
from fcit_ray.run_folder import RunFolder
from fcit_ray.runtime.data import quiet
from fcit_ray.runtime.launch import launch
from fcit_ray.runtime.store import share_tensors

_POLL_S = 1.0
_ABANDON_S = 10.0  # for Tune to end its trials when the sweep is given up
# Tune's newer reporter prints a box and a hint whatever the verbosity; the older one keeps quiet when told to.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


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
        chosen = [
            f"{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}" for key, value in point.items()
        ]
        config = load_config([*sweep.config, method], [*sweep.overrides, *overrides, *chosen, f"seed={seed}"])
        label = " ".join([config.name, *(f"{key.split('.')[-1]}={value}" for key, value in point.items())])
        # Tune runs every trial in a directory of its own.
        config = with_absolute_paths(config.model_copy(update={"name": label}))
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
        RunFailed: a trial failed; says why. The others have run to their end.
    """
    tuner = tune.Tuner(
        # The trial function only waits; the worker group and Ray Data reserve what they use. Tune refuses a plain 0.
        tune.with_resources(_run_trial, {"CPU": 0.01}),
        param_space={
            "trial": tune.grid_search([trial.model_dump(mode="json") for trial in trials]),
            "out": str(out.resolve()),
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=sweep.max_concurrent),
        run_config=tune.RunConfig(
            name="tune", storage_path=str((out / "logs").resolve()), verbose=0, stop=_Abandoned()
        ),
    )
    fitting: Future[tune.ResultGrid] = Future()
    # Not an executor's thread: that would be waited for, and Ctrl-C with it, until the last trial is over.
    thread = threading.Thread(target=_fulfil, args=(fitting, tuner.fit), daemon=True)
    _Abandoned.event.clear()
    thread.start()
    try:
        waiting = list(trials)
        while waiting:
            over = fitting.done()
            finished = [trial for trial in waiting if RunFolder(out / trial.folder).finished]
            for trial in finished:
                on_result(RunFolder(out / trial.folder).results())
            waiting = [trial for trial in waiting if trial not in finished]
            if over:
                break
            time.sleep(_POLL_S)
        errors = fitting.result().errors
    except BaseException:
        _Abandoned.event.set()
        thread.join(timeout=_ABANDON_S)
        raise
    if errors:
        raise RunFailed("\n".join(_reason(error) for error in errors))
    return [RunFolder(out / trial.folder).results() for trial in trials]


class _Abandoned(tune.Stopper):
    """Ends all trials once the sweep was given up; asked by Tune's controller, in this process."""

    event = threading.Event()  # of the class, as Tune pickles its stopper and an event cannot be

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.event.is_set()


def _fulfil(promise: Future[Any], call: Callable[[], Any]) -> None:
    try:
        promise.set_result(call())
    except BaseException as error:
        promise.set_exception(error)


def _reason(error: BaseException) -> str:
    """What a trial's error says, without the frames that Tune puts before it."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip()


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
            tune.report({"stage": record["stage"], "mean_score": sum(scores) / len(scores)})
        reported = len(evaluations)

    launch(config, folder, on_status=report, experiment=open_experiment(config))
    report()
