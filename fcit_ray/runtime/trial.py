"""One trial of a sweep, in a process of Tune's: the launch, with a report to Tune after each stage."""

import logging
import time
from collections.abc import Mapping
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
from fcit_ray.storage.location import child_of, is_uri, quoted
from fcit_ray.storage.working_copies import told
from fcit_ray.tracking.following import Following

_STORE_POLL_S = 5.0  # between two looks at a trial's records where they are in a store: each is a request


def run_trial(space: Mapping[str, Any]) -> None:
    """Carry out the trial that Tune hands over; one that is over already only tells what it scored."""
    share_tensors()
    quiet()
    trial = space["trial"]
    try:
        workers, prepare = engage(space["foreman"]), FromPantry(space["pantry"])
        shared = Shared(workers, prepare, abandon_s=0.0, num_workers=space["num_workers"])
        _carry_out(trial, space["out"], space["name"], shared, space["stops_early"])
    except Exception as error:
        failed = failure(error, "the trial")
        if failed.details:
            logging.getLogger("ray").error("%s\n%s", failed, failed.details)
        raise RunFailed(f"{named(trial['folder'])}{told(str(failed))}") from None


def named(folder: str) -> str:
    """How the error of a trial begins, on its way through Tune."""
    return f"trial {folder}: "


def _carry_out(trial: Mapping[str, Any], out: str, group: str, shared: Shared, stops_early: bool) -> None:
    place = child_of(out, quoted(trial["folder"]) if is_uri(out) else trial["folder"])
    folder = RunFolder.at(place)
    stopped_after = trial["stopped_after"]
    if stopped_after is not None:
        _Reports(folder, over=True).tell(stopped_after)
        return
    config = parse_config(trial["config"])
    if stops_early:  # whether there is a next stage is up to the scores of this one
        config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"answer_behind": False})})
    reports = _Reports(folder, over=folder.finished)
    folder = open_run(place, config, resume=True, overwrite=False)
    redirect_logs(folder.log_file)
    if folder.finished:
        folder.release()
        reports.tell(finished=True)
        return
    experiment = open_experiment(config)
    # The last stage is told of once results.json is there: Tune ends a trial that has told of its last.
    before_last = experiment.setting.num_stages - 2

    looked_at = time.monotonic()

    def report(_: Status | None = None) -> None:
        nonlocal looked_at
        if folder.mirror:  # the driver has another working copy
            if time.monotonic() < looked_at + _STORE_POLL_S:
                return
            looked_at = time.monotonic()
            folder.refresh_records()
        reports.tell(before_last)

    try:
        with Following(config, folder, logging.getLogger("ray").warning, group=group):
            launch(config, folder, on_status=report, experiment=experiment, shared=shared)
    finally:
        if why := folder.bring_beside():
            logging.getLogger("ray").warning(why)
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
