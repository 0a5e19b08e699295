"""One trial of a sweep, in a process of Tune's: the launch, with a report to Tune after each stage."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import RunFailed
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.blocks import quiet
from fcit_ray.runtime.cluster import redirect_logs
from fcit_ray.runtime.crew import engage
from fcit_ray.runtime.errors import failure
from fcit_ray.runtime.launch import Shared, launch
from fcit_ray.runtime.pantry import FromPantry
from fcit_ray.runtime.status import Status
from fcit_ray.runtime.store import share_tensors
from fcit_ray.runtime.studies import SCORE, STAGES
from fcit_ray.tracking.following import Following


def run_trial(space: Mapping[str, Any]) -> None:
    """Carry out the trial that Tune hands over; one that is over already only tells what it scored."""
    share_tensors()
    quiet()
    trial = space["trial"]
    try:
        workers, prepare = engage(space["foreman"]), FromPantry(space["pantry"])
        shared = Shared(workers, prepare, abandon_s=0.0, num_workers=space["num_workers"])
        _carry_out(trial, Path(space["out"]), shared, space["stops_early"])
    except Exception as error:
        failed = failure(error, "the trial")
        if failed.details:
            logging.getLogger("ray").error("%s\n%s", failed, failed.details)
        raise RunFailed(f"{named(trial['folder'])}{failed}") from None


def named(folder: str) -> str:
    """How the error of a trial begins, on its way through Tune."""
    return f"trial {folder}: "


def _carry_out(trial: Mapping[str, Any], out: Path, shared: Shared, stops_early: bool) -> None:
    folder = RunFolder(out / trial["folder"])
    stopped_after = trial["stopped_after"]
    if stopped_after is not None:
        _Reports(folder, over=True).tell(stopped_after)
        return
    config = parse_config(trial["config"])
    if stops_early:  # whether there is a next stage is up to the scores of this one
        config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"answer_behind": False})})
    reports = _Reports(folder, over=folder.finished)
    folder = open_run(out / trial["folder"], config, resume=True, overwrite=False)
    redirect_logs(folder.log_file)
    if folder.finished:
        folder.release()
        reports.tell(finished=True)
        return
    experiment = open_experiment(config)
    # The last stage is told of once results.json is there: Tune ends a trial that has told of its last.
    before_last = experiment.setting.num_stages - 2

    def report(_: Status | None = None) -> None:
        reports.tell(before_last)

    with Following(config, folder, logging.getLogger("ray").warning, group=out.name):
        launch(config, folder, on_status=report, experiment=experiment, shared=shared)
    reports.tell(finished=True)


class _Reports:
    """What Tune has been told of a trial's evaluations."""

    def __init__(self, folder: RunFolder, over: bool):
        self._folder = folder
        self._over = over
        self._told = 0

    def tell(self, last: float = float("inf"), finished: bool = False) -> None:
        """Tell of the evaluations up to a stage that have not been told of yet."""
        evaluations = [
            record for record in self._folder.records() if record["kind"] == "evaluation" and record["stage"] <= last
        ]
        for number, record in enumerate(evaluations[self._told :], start=self._told + 1):
            scores = record["scores"].values()
            tune.report(
                {
                    STAGES: record["stage"] + 1,
                    SCORE: sum(scores) / len(scores),
                    "finished": finished and number == len(evaluations),
                    "over": self._over,
                }
            )
        self._told = len(evaluations)
