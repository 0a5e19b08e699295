"""Crews: worker groups that outlive a run and serve several at once: processes, imports and base are in place."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

from fcit_ray.config.schema import Config
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.asking import AsksRay
from fcit_ray.runtime.foreman_actor import RayForeman
from fcit_ray.runtime.joining import Leader
from fcit_ray.runtime.messages import Over
from fcit_ray.runtime.parts import run_parts
from fcit_ray.runtime.shape import Shape, base_key
from fcit_ray.runtime.silence import answer
from fcit_ray.runtime.train_group import work_for_crew

_WAIT_S = 5.0
_TELL_S = 2.0  # at least so often the foreman hears what a run has waiting: who was sent for it may have died
_LEAVE_S = 30.0  # for crews to go at the end
_log = logging.getLogger("ray")


class Crews:
    """The crews of one sweep or comparison; a context, at whose end they go.

    Args:
        most: crews at a time.
        num_workers: of the largest.
        storage: folder for Ray Train's own files.
        most_runs: at a time; as many as crews by default.
    """

    def __init__(self, most: int, num_workers: int, storage: Path, most_runs: int | None = None):
        self._storage = storage
        self._threads: list[threading.Thread] = []
        # A call of every worker waits in it, and those of runs must find room beside them.
        calls = most * num_workers + 2 * (most_runs or most) + 8
        self.foreman: Any = ray.remote(RayForeman).options(num_cpus=0, max_concurrency=calls).remote(most)

    def hire(self) -> None:
        """Start the crews that runs wait for; called about once a second."""
        for number, shape in answer(self.foreman.wanted.remote(), "the foreman, who sends workers to runs,"):
            thread = AsksRay(target=self._serve, args=(number, shape))
            self._threads.append(thread)
            thread.start()

    def _serve(self, number: int, shape: Shape) -> None:
        def ended(reason: str) -> None:  # without one of its groups it is no crew any more: the others are sent away
            try:
                ray.get(self.foreman.gone.remote(number, reason))
            except ray.exceptions.RayError:
                _log.info("crew %d ended after the sweep: %s", number, reason)

        run_parts(
            work_for_crew,
            {"foreman": self.foreman, "crew": number},
            shape,
            storage=self._storage,
            name=f"crew-{number}",
            leader=Leader(self.foreman, (number,)),
            ended=ended,
        )

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
    """Who does a run's work: workers that the foreman sends, until it is done."""

    def serve(config: Config, folder: RunFolder, driver: Any) -> None:
        context = {"config": config.model_dump(mode="json"), "folder": folder.place}
        try:
            number = ray.get(foreman.engage.remote(Shape.of(config.runtime), context, driver, base_key(config)))
            waiting: Any = []
            try:
                while not isinstance(waiting := ray.get(driver.waiting.remote(waiting, _TELL_S)), Over):
                    ray.get(foreman.tell.remote(number, waiting))
            finally:
                ray.get(foreman.end.remote(number))
        except ray.exceptions.RayError as error:
            _log.info("the driver or the foreman is gone: %s", error)
            try:
                ray.get(driver.fail.remote("the process that had hired the workers is gone"))
            except ray.exceptions.RayError:
                _log.info("it was the driver")

    return serve
