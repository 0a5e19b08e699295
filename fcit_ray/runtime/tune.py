"""Ray Tune over launches: every trial is the same launch as `fcit-ray run`, in a run folder of its own."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ray import tune

from fcit_ray.config.schema import parse_config
from fcit_ray.config.sweep import Sweep, Trial
from fcit_ray.errors import ClusterLost, RunFailed
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.cluster import redirect_logs, watch_head
from fcit_ray.runtime.data import quiet
from fcit_ray.runtime.errors import failure
from fcit_ray.runtime.launch import launch
from fcit_ray.runtime.status import Status
from fcit_ray.runtime.store import share_tensors
from fcit_ray.tracking.following import Following

_POLL_S = 1.0
_ABANDON_S = 10.0  # for Tune to end its trials when the sweep is given up
# Tune's newer reporter prints a box and a hint whatever the verbosity; the older one keeps quiet when told to.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


def run_sweep(
    sweep: Sweep, trials: Sequence[Trial], out: Path, *, on_result: Callable[[Mapping[str, Any]], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Carry out the trials on the connected cluster; finished run folders are taken as they are.

    Args:
        sweep: how many at a time.
        trials: what to run.
        out: run folders go in here.
        on_result: called with each trial's results as it ends.

    Returns:
        The results of the trials that finished, in the order of `trials`, and why the others did not, by the name of
        their run folder.
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
    waiting = list(trials)
    try:
        with watch_head() as head:
            while waiting:
                head.check()
                over = fitting.done()
                finished = [trial for trial in waiting if RunFolder(out / trial.folder).finished]
                for trial in finished:
                    on_result(RunFolder(out / trial.folder).results())
                waiting = [trial for trial in waiting if trial not in finished]
                if over:
                    break
                time.sleep(_POLL_S)
        errors = fitting.result().errors
    except ClusterLost:
        raise  # there is nobody left to end trials
    except BaseException:
        _Abandoned.event.set()
        thread.join(timeout=_ABANDON_S)
        raise
    failed = {trial.folder: _why(trial.folder, errors) for trial in waiting}
    return [RunFolder(out / trial.folder).results() for trial in trials if trial not in waiting], failed


def _named(folder: str) -> str:
    """How the error of a trial begins, on its way through Tune."""
    return f"trial {folder}: "


def _why(folder: str, errors: Sequence[BaseException]) -> str:
    """What ended a trial, of the errors that Tune tells of."""
    for error in errors:
        _, found, reason = str(getattr(error, "cause", None) or error).partition(_named(folder))
        if found:
            return reason.strip()
    return "its process ended without a word (killed, or out of memory?)"


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


def _run_trial(space: Mapping[str, Any]) -> None:
    """One trial, in a process of Tune's: the launch, with a report to Tune after each evaluation."""
    share_tensors()
    quiet()
    try:
        _carry_out(space["trial"], Path(space["out"]))
    except Exception as error:
        failed = failure(error, "the trial")
        if failed.details:
            logging.getLogger("ray").error("%s\n%s", failed, failed.details)
        raise RunFailed(f"{_named(space['trial']['folder'])}{failed}") from None


def _carry_out(trial: Mapping[str, Any], out: Path) -> None:
    config = parse_config(trial["config"])
    folder = open_run(out / trial["folder"], config, resume=True, overwrite=False)
    redirect_logs(folder.log_file)
    reported = 0

    def report(_: Status | None = None) -> None:
        nonlocal reported
        evaluations = [record for record in folder.records() if record["kind"] == "evaluation"]
        for record in evaluations[reported:]:
            scores = record["scores"].values()
            tune.report({"stage": record["stage"], "mean_score": sum(scores) / len(scores)})
        reported = len(evaluations)

    with Following(config, folder, logging.getLogger("ray").warning, group=out.name):
        launch(config, folder, on_status=report, experiment=open_experiment(config))
    report()
