"""One run on a Ray cluster: a driver actor and one Ray Train run whose workers pull their jobs from it."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from fcit_ray.config.schema import Config
from fcit_ray.data.partition.writing import partition_counts
from fcit_ray.errors import ClusterLost, RunFailed
from fcit_ray.experiment.opening import Experiment, open_experiment
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.asking import AsksRay
from fcit_ray.runtime.blocks import Prepare
from fcit_ray.runtime.cluster import redirect_logs
from fcit_ray.runtime.driver_actor import RayDriver
from fcit_ray.runtime.driver_place import Beside, abroad, place_of_driver
from fcit_ray.runtime.errors import origin
from fcit_ray.runtime.handles import sealed
from fcit_ray.runtime.head import watch_head
from fcit_ray.runtime.joining import Leader
from fcit_ray.runtime.parts import run_parts
from fcit_ray.runtime.room import Room, refuse_crowding
from fcit_ray.runtime.shape import Shape
from fcit_ray.runtime.silence import DriverSilence, answer
from fcit_ray.runtime.status import Status
from fcit_ray.runtime.train_group import work

_POLL_S = 0.25
_STATUS_S = 5.0
_FINISH_S = 2.0  # for the driver to finish a checkpoint that it is writing when the run is given up
_LEAVE_S = 10.0  # for the workers to leave at the end of a run; one whose place is vacant never comes
_ABANDON_S = 5.0  # the same when the run was given up; who is in the middle of an update is not waited for


def _own_log(log_file: Path) -> AbstractContextManager[None]:
    """The process has one run after another, each with a log of its own."""
    redirect_logs(log_file)
    return nullcontext()


@dataclass(frozen=True)
class Shared:
    """What runs of one sweep have in common.

    Attributes:
        workers: who does the work, called with configuration, folder and driver; returns when they have left.
        prepare: makes blocks of records, or finds them made; None makes them in the driver.
        abandon_s: how long workers are waited for where the run was given up; those of a crew see to themselves.
        num_workers: that may serve the run, where they are more than its own.
        log: within it what Ray's loggers say in this process goes to the run's file.
    """

    workers: Callable[[Config, RunFolder, Any], None]
    prepare: Prepare | None = None
    abandon_s: float = _ABANDON_S
    num_workers: int = 0
    log: Callable[[Path], AbstractContextManager[None]] = _own_log


def check_room(config: Config) -> None:
    """Refuse a run that could never be placed on this cluster, rather than wait for ever.

    A cluster that grows is taken at its largest.

    Raises:
        ConfigError: names the keys to change.
    """
    if (room := Room.here()) is not None:  # else Ray Train checks against its maximum.
        refuse_crowding(Shape.of(config.runtime), room)


def launch(
    config: Config,
    folder: RunFolder,
    *,
    on_status: Callable[[Status], None] = lambda status: None,
    experiment: Experiment | None = None,
    shared: Shared | None = None,
) -> dict[str, Any]:
    """Carry a run through on the cluster that this process is connected to.

    Args:
        config: the run.
        folder: opened for it; if it holds a checkpoint the run goes on from there. It is released at the end.
        on_status: called about four times a second.
        experiment: if the caller has opened it already.
        shared: what it has in common with other runs; by default nothing.

    Returns:
        The run's results, as in its results.json.

    Raises:
        RunFailed: says why.
        ConfigError, DataError: before anything is started.
    """
    try:
        if folder.finished:
            return folder.results()
        shared = shared or Shared(run_workers)
        with shared.log(folder.log_file):
            return _launch(config, folder, on_status, experiment, shared)
    finally:
        folder.release()


def _launch(
    config: Config,
    folder: RunFolder,
    on_status: Callable[[Status], None],
    experiment: Experiment | None,
    shared: Shared,
) -> dict[str, Any]:
    experiment = experiment or open_experiment(config)
    config = experiment.config
    check_room(config)
    num_workers = max(config.runtime.num_workers, shared.num_workers)
    driver: Any = (
        ray.remote(RayDriver)
        .options(num_cpus=0, max_concurrency=3 * num_workers + 8, scheduling_strategy=place_of_driver(config))
        .remote(experiment, abroad(folder), shared.prepare)
    )
    running = driver.run.remote()
    workers = AsksRay(target=shared.workers, args=(config, folder, driver))
    workers.start()
    lost, beside = False, Beside(folder)
    head = watch_head()
    silence = DriverSilence(config.name)
    try:
        _show_partition(experiment, folder)
        with head:
            while not ray.wait([running], timeout=_POLL_S)[0]:
                head.check()
                try:
                    status = ray.get(driver.status.remote(), timeout=_STATUS_S)
                    silence.heard(status)
                    beside.tell(status)
                except ray.exceptions.GetTimeoutError:  # it is busy, or gone: then `running` or the watch will tell
                    status = silence.status()
                if status is not None:
                    on_status(status)
        results: dict[str, Any] = answer(running, "the driver")
        folder.refresh()  # of a store: the driver had another working copy
        on_status(answer(driver.status.remote(), "the driver"))
        workers.join(timeout=_LEAVE_S)
        return results
    except ClusterLost:
        lost = True
        raise
    except KeyboardInterrupt:
        driver.fail.remote("interrupted")
        ray.wait([running], timeout=_FINISH_S)  # at once, unless it is closing a round
        raise
    except ray.exceptions.RayTaskError as error:
        root = origin(error)
        if isinstance(root, RunFailed) and root.details:
            logging.getLogger("ray").error("%s\n%s", root, root.details)
            raise RunFailed(f"{root}; the traceback is in {folder.log_file}") from None
        raise root from None
    except ray.exceptions.RayActorError as error:
        logging.getLogger("ray").error("the driver's process died: %s", error)
        try:
            head.check_now()
        except ClusterLost:
            lost = True
            raise
        if error.actor_init_failed:
            raise RunFailed(f"the driver could not start: {str(error).strip().splitlines()[-1]}") from None
        died = "the driver's process died (killed, or out of memory?)"
        if config.runtime.driver == "anywhere":
            died = f"{silence.driver} died (killed, out of memory, or its node lost?)"
        raise RunFailed(f"{died}; --resume goes on from the last checkpoint") from None
    finally:
        if not lost:  # there is nobody left to be asked
            ray.kill(driver)
        # Without their driver the workers leave, and Ray Train tidies up; cut off, it would leave a process behind.
        workers.join(timeout=0.0 if lost else shared.abandon_s)


def _show_partition(experiment: Experiment, folder: RunFolder) -> None:
    """Who has which records, as a file and as a picture; while the driver and the workers start."""
    if not experiment.stream.tasks:  # zero-shot has no clients
        return
    from fcit_ray.results.plots import plot_counts

    counts = partition_counts(experiment.config, experiment.stream)
    folder.write_partition(counts)
    with folder.using():
        plot_counts(counts, folder.partition_picture)


def run_workers(config: Config, folder: RunFolder, driver: Any, loop: Callable[[dict[str, Any]], None] = work) -> None:
    """A Ray Train run of its own; if it ends while the driver still waits for work to be done, the driver is told why.

    Args:
        config: how many workers of what size.
        folder: for Ray Train's own files.
        driver: handle of the driver actor.
        loop: what a worker runs; a benchmark may put another in its place.
    """

    def ended(reason: str) -> None:
        try:
            ray.get(driver.fail.remote(f"{reason}; {folder.log_file} says more"))
        except ray.exceptions.RayError:
            logging.getLogger("ray").info("the workers ended after the driver: %s", reason)

    run_parts(
        loop,
        {"config": config.model_dump(mode="json"), "driver": sealed(driver), "folder": folder.place},
        Shape.of(config.runtime),
        storage=folder.path / "logs",
        name="workers",
        leader=Leader(driver),
        ended=ended,
    )
