"""Crews: worker groups that outlive a run, so that the next finds processes, imports and base in place."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

from fcit_ray.config.schema import Config
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.foreman import Foreman
from fcit_ray.runtime.groups import run_group
from fcit_ray.runtime.shape import Shape
from fcit_ray.runtime.train_group import TellLost, work_for_crew

_WAIT_S = 5.0
_LEAVE_S = 30.0  # for crews to go at the end
_log = logging.getLogger("ray")


class Crews:
    """The crews of one sweep; a context, at whose end they go.

    Args:
        most: crews at a time.
        num_workers: of the largest.
        storage: folder for Ray Train's own files.
    """

    def __init__(self, most: int, num_workers: int, storage: Path):
        self._storage = storage
        self._threads: list[threading.Thread] = []
        # A call each of every worker and every run waits in it.
        self.foreman: Any = (
            ray.remote(Foreman).options(num_cpus=0, max_concurrency=most * (num_workers + 2) + 8).remote(most)
        )

    def hire(self) -> None:
        """Start the crews that runs wait for; called about once a second."""
        for number, shape in ray.get(self.foreman.wanted.remote()):
            thread = threading.Thread(target=self._serve, args=(number, shape), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, number: int, shape: Shape) -> None:
        reason = run_group(
            work_for_crew,
            {"foreman": self.foreman, "crew": number},
            shape,
            storage=self._storage,
            name=f"crew-{number}",
            lost=TellLost(self.foreman, number),
            max_failures=-1,  # the foreman counts, run by run
        )
        try:
            ray.get(self.foreman.gone.remote(number, reason))
        except ray.exceptions.RayError:
            _log.info("crew %d ended after the sweep: %s", number, reason)

    def __enter__(self) -> "Crews":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            ray.get(self.foreman.finish.remote(), timeout=_WAIT_S)
        except ray.exceptions.RayError:
            return  # the cluster is gone, and they with it
        if kind is None:
            for thread in self._threads:
                thread.join(timeout=_LEAVE_S)


def engage(foreman: Any) -> Callable[[Config, RunFolder, Any], None]:
    """Who does a run's work: a crew that the foreman finds, until it is done."""

    def serve(config: Config, folder: RunFolder, driver: Any) -> None:
        context = {"config": config.model_dump(mode="json"), "folder": str(folder.path.resolve())}
        try:
            number = ray.get(
                foreman.engage.remote(Shape.of(config.runtime), context, driver, config.runtime.max_worker_failures)
            )
            while not ray.get(foreman.over.remote(number, _WAIT_S)):
                pass
            ray.get(driver.fail.remote(f"the workers left before the run was over; {folder.log_file} says more"))
        except ray.exceptions.RayActorError as error:
            _log.info("the workers are gone: %s", error)
            try:
                ray.get(driver.fail.remote("the sweep that had hired the workers is gone"))
            except ray.exceptions.RayError:
                _log.info("and so is the driver")

    return serve
