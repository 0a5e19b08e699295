"""What a worker of a crew runs: it goes from piece of work to piece of work, each of whichever run the foreman names.

The base stays; what a run puts on it is taken off where the next piece is another run's.
"""

import logging
from typing import Any

import ray

from fcit_ray.config.schema import parse_config
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.errors import AttemptFailed
from fcit_ray.runtime.foreman import Dismissed, Engagement
from fcit_ray.runtime.gpu_share import keep_to_share
from fcit_ray.runtime.messages import Over
from fcit_ray.runtime.ray_line import CutOff
from fcit_ray.runtime.shape import SHARE
from fcit_ray.runtime.store import RayStore
from fcit_ray.runtime.train_loop import begin, join, perform, report, tell_failed
from fcit_ray.runtime.worker import Base, Worker

_WAIT_S = 5.0
_log = logging.getLogger("ray.train")


def crew_loop(context: dict[str, Any]) -> None:
    """Serve the foreman until the crew is dismissed.

    Args:
        context: `foreman` (actor handle) and `crew` (its number there); of `run_parts` the rest.
    """
    rank = begin(context)
    foreman, crew = context["foreman"], context["crew"]
    hand = _Hand(context[SHARE])
    while not isinstance(engagement := ray.get(foreman.next.remote(crew, rank, _WAIT_S)), Dismissed):
        if engagement is None:
            continue
        try:
            hand.serve(engagement)
        except ray.exceptions.RayActorError:
            _log.info("a driver is gone, and with it the run")
            ray.get(foreman.end.remote(engagement.number))
    hand.settle()


class _Hand:
    """What a worker has in hand between two pieces of work: a base, what it carries, a result on its way."""

    def __init__(self, share: float) -> None:
        self._share = share  # of a GPU
        self._worker: Worker | None = None
        self._of: int | None = None
        self._joined: set[int] = set()
        self._sent: tuple[Any, Any] | None = None

    def serve(self, engagement: Engagement) -> None:
        """One piece of a run's work, if it has one yet.

        Raises:
            RayActorError: the run's driver is gone.
        """
        driver = engagement.driver
        try:
            if engagement.number not in self._joined:
                self._join(engagement)
            lease = ray.get(driver.next.remote(engagement.worker, 0.0))
            if lease is None or isinstance(lease, Over):
                return
            result = perform(driver, self._put_on(engagement), lease, engagement.worker)
        except ray.exceptions.RayActorError:
            raise
        except AttemptFailed as failed:
            tell_failed(driver, lease, failed)
            return
        except CutOff:
            _log.info("cut off from Ray; whoever takes this worker's place is handed its work again")
            self._drop()
            return
        except Exception as error:
            report(driver, error)
            self._drop()
            return
        self.settle()
        self._sent = (driver, driver.submit.remote(lease.token, result))  # on its way while the next is fetched

    def settle(self) -> None:
        """Wait until the last result has arrived."""
        if self._sent is None:
            return
        (driver, sent), self._sent = self._sent, None
        try:
            ray.get(sent)
        except ray.exceptions.RayActorError:
            _log.info("a driver is gone, and with it the run")
        except Exception as error:
            report(driver, error)

    def _join(self, engagement: Engagement) -> None:
        driver, worker = engagement.driver, self._put_on(engagement)
        _log.info("worker %d of run %d: attention by %s", engagement.worker, engagement.number, worker.attention)
        if join(driver, engagement.worker, worker):
            ray.get(driver.begin.remote(worker.initial_params()))
        self._joined.add(engagement.number)

    def _put_on(self, engagement: Engagement) -> Worker:
        """The worker of a run, on the base that there is."""
        if self._worker is not None and self._of == engagement.number:
            return self._worker
        base: Base | None = self._worker.leave() if self._worker is not None else None
        self._drop()  # what fails half-way is not to be trusted with another run
        keep_to_share(self._share)
        context = engagement.context
        folder = RunFolder.at(context["folder"], fetch=False)
        self._worker = Worker(parse_config(context["config"]), RayStore(), folder, base)
        self._of = engagement.number
        return self._worker

    def _drop(self) -> None:
        self._worker = self._of = None
