"""Ray Tune over launches: every trial is the same launch as `fcit-ray run`, in a run folder of its own."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray
from ray import tune

from fcit_ray.config.sweep import Sweep
from fcit_ray.config.trials import Study, Trial
from fcit_ray.errors import ClusterLost
from fcit_ray.experiment.opening import make_setting
from fcit_ray.results.out import Out
from fcit_ray.results.records import read_records
from fcit_ray.results.sweeps import Ended, Stopped
from fcit_ray.runtime.asking import AsksRay
from fcit_ray.runtime.crew import Crews
from fcit_ray.runtime.head import watch_head
from fcit_ray.runtime.pantry import Pantry
from fcit_ray.runtime.studies import Halving, Studies
from fcit_ray.runtime.trial import named, run_trial

_POLL_S = 1.0
_ABANDON_S = 5.0  # for Tune to end its trials when the sweep is given up
# Tune's newer reporter prints a box and a hint whatever the verbosity; the older one keeps quiet when told to.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


def run_sweep(
    sweep: Sweep,
    studies: Sequence[Study],
    out: Out,
    *,
    on_result: Callable[[Trial, Mapping[str, Any]], None],
    on_stopped: Callable[[Trial, Stopped], None] = lambda trial, stopped: None,
) -> Ended:
    """Carry out the trials on the connected cluster; what finished or was stopped before is taken as it is.

    Args:
        sweep: how trials are chosen, when they stop, how many run at a time.
        studies: what to run.
        out: run folders go in here, and `proposed.jsonl` and `stopped.jsonl`, from which a sweep goes on.
        on_result: called with each trial and its results as it ends.
        on_stopped: called with each trial that ends early.

    Raises:
        ConfigError: Optuna is not installed, or `out` holds a search of another space.
        RunFolderError: the store that `out` lies in does not answer.
    """
    stops, proposed = out.record_file("stopped.jsonl"), out.record_file("proposed.jsonl")
    waiting: list[Trial] = []
    before = _stopped_after(stops) if sweep.stop_early is not None else {}  # else they are to run to their end
    proposals = Studies(studies, sweep.search, proposed, before, waiting.append, out.append)
    scheduler = None
    if sweep.stop_early is not None:
        num_stages = {study.name: make_setting(study.trial(study.point(0)).config).num_stages for study in studies}
        scheduler = Halving(sweep.stop_early, studies, num_stages, stops, out.append)
    runtimes = [study.trial(study.point(0)).config.runtime for study in studies]
    most_workers = max(runtime.num_workers for runtime in runtimes)
    pantry = (
        ray.remote(Pantry)
        .options(num_cpus=0, max_concurrency=sweep.max_concurrent + 2)
        .remote(max(runtime.cache_mb for runtime in runtimes) * 2**20)
    )
    with Crews(sweep.max_concurrent, most_workers, out.path / "logs") as crews:
        tuner = tune.Tuner(
            # The trial function only waits; crews and Ray Data reserve what they use. Tune refuses a plain 0.
            tune.with_resources(run_trial, {"CPU": 0.01}),
            param_space={
                "out": out.place,
                "name": out.name,
                "foreman": crews.foreman,
                "pantry": pantry,
                "stops_early": scheduler is not None,
                "num_workers": sweep.max_concurrent * most_workers,
            },
            tune_config=tune.TuneConfig(
                max_concurrent_trials=sweep.max_concurrent,
                num_samples=sum(study.num_trials for study in studies),
                search_alg=proposals,
                scheduler=scheduler,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str((out.path / "logs").resolve()), verbose=0, stop=_Abandoned()
            ),
        )
        return _watch(tuner, waiting, out, stops if scheduler else None, on_result, on_stopped, crews)


def _watch(
    tuner: tune.Tuner,
    waiting: list[Trial],
    out: Out,
    stops: Path | None,
    on_result: Callable[[Trial, Mapping[str, Any]], None],
    on_stopped: Callable[[Trial, Stopped], None],
    crews: Crews,
) -> Ended:
    fitting: Future[tune.ResultGrid] = Future()
    # Not an executor's thread: that would be waited for, and Ctrl-C with it, until the last trial is over.
    thread = AsksRay(target=_fulfil, args=(fitting, tuner.fit))
    _Abandoned.event.clear()
    thread.start()
    told: set[str] = set()
    finished: dict[str, dict[str, Any]] = {}
    stopped: dict[str, Stopped] = {}
    try:
        with watch_head() as head:
            over, look_at = False, 0.0
            while not over:
                head.check()
                crews.hire()
                over = fitting.done()
                look = over or time.monotonic() >= look_at
                for trial in [trial for trial in list(waiting) if look and trial.folder not in told]:
                    look_at = time.monotonic() + out.poll_s
                    if out.has_now(f"{trial.folder}/results.json"):
                        finished[trial.folder] = out.run(trial.folder).results()
                        told.add(trial.folder)
                        on_result(trial, finished[trial.folder])
                for trial, stop in _stops(stops, waiting) if stops else ():
                    if trial.folder not in told:
                        stopped[trial.folder] = stop
                        told.add(trial.folder)
                        on_stopped(trial, stop)
                if not over:
                    time.sleep(_POLL_S)
        errors = fitting.result().errors
    except ClusterLost:
        raise  # there is nobody left to end trials
    except BaseException:
        _Abandoned.event.set()
        thread.join(timeout=_ABANDON_S)
        raise
    return Ended(
        [(trial, finished[trial.folder]) for trial in waiting if trial.folder in finished],
        [(trial, stopped[trial.folder]) for trial in waiting if trial.folder in stopped],
        [(trial, _why(trial.folder, errors)) for trial in waiting if trial.folder not in told],
    )


def _stopped_after(stops: Path) -> dict[str, int]:
    return {record["folder"]: record["stage"] for record in read_records(stops)}


def _stops(stops: Path, trials: Iterable[Trial]) -> list[tuple[Trial, Stopped]]:
    """The trials of this sweep that have been stopped."""
    known = {trial.folder: trial for trial in list(trials)}
    return [
        (known[record["folder"]], Stopped(record["stage"], record["score"]))
        for record in read_records(stops)
        if record["folder"] in known
    ]


def _why(folder: str, errors: Sequence[BaseException]) -> str:
    """What ended a trial, of the errors that Tune tells of."""
    for error in errors:
        _, found, reason = str(getattr(error, "cause", None) or error).partition(named(folder))
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
