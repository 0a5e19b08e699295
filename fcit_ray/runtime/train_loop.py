"""What a Ray Train worker runs: build a `Worker` once, then pull work from the driver until it is over."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import ray
import ray.train
import torch

from fcit_ray.config.schema import parse_config
from fcit_ray.federated.under_way import Tell
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.blocks import quiet
from fcit_ray.runtime.errors import CERTAIN, AttemptFailed, failure, origin
from fcit_ray.runtime.gpu_share import keep_to_share
from fcit_ray.runtime.handles import opened
from fcit_ray.runtime.messages import Over
from fcit_ray.runtime.partners import Partners
from fcit_ray.runtime.pieces import Lease
from fcit_ray.runtime.places import place_of
from fcit_ray.runtime.ranks import rank_of
from fcit_ray.runtime.ray_line import CutOff, RayLine
from fcit_ray.runtime.shape import SHARE
from fcit_ray.runtime.store import RayStore, share_tensors
from fcit_ray.runtime.worker import Worker
from fcit_ray.types import Params

_WAIT_S = 5.0
_log = logging.getLogger("ray.train")


class Serves(Protocol):
    """A `Worker`, or what a benchmark puts in its place."""

    @property
    def attention(self) -> str: ...

    @property
    def frozen(self) -> frozenset[str]: ...

    def initial_params(self) -> Params: ...

    def perform(self, work: Any, tell: Tell, partners: Partners) -> Any: ...


def train_loop(context: dict[str, Any]) -> None:
    """Serve one driver.

    Args:
        context: `config` (plain mapping), `driver` (actor handle, sealed) and `folder` (path or URI of the run's); of
            `run_parts` the rest.
    """
    _serve_run(opened(context["driver"]), context, begin(context))


def begin(context: Mapping[str, Any]) -> int:
    """Set the process up; returns the worker's rank among all."""
    torch.set_num_threads(1)
    share_tensors()
    quiet()
    return rank_of(context)


def _serve_run(driver: Any, context: Mapping[str, Any], rank: int) -> None:
    """Serve a driver until it is over or gone.

    An error that any worker would meet (a bad record, a model that cannot be loaded) is reported to the driver, which
    ends the run; it is not raised, because Ray Train would start the workers anew to meet it again.
    """
    try:
        keep_to_share(context[SHARE])
        folder = RunFolder.at(context["folder"], fetch=False)
        serve(driver, Worker(parse_config(context["config"]), RayStore(), folder), rank)
    except ray.exceptions.RayActorError:
        _log.info("the driver is gone, and with it the run")  # raised, the workers would be started anew
    except CutOff:
        _log.info("cut off from Ray; whoever takes this worker's place is handed its work again")
    except Exception as error:
        report(driver, error)


def report(driver: Any, error: Exception) -> None:
    """Tell a driver what ends its run."""
    failed = failure(error, "starting a worker")
    try:
        ray.get(driver.fail.remote(str(failed), failed.details))
    except ray.exceptions.RayActorError:
        _log.info("the driver is gone, and with it the run")


def serve(driver: Any, worker: Serves, rank: int) -> None:
    """Do what the driver hands out to the worker of this rank until it answers `Over`; what fails goes back to it."""
    _log.info("worker %d: attention by %s", rank, worker.attention)
    if join(driver, rank, worker):
        ray.get(driver.begin.remote(worker.initial_params()))
    sent = None
    while not isinstance(lease := ray.get(driver.next.remote(rank, _WAIT_S)), Over):
        if lease is None:
            continue
        try:
            result = perform(driver, worker, lease, rank)
        except AttemptFailed as failed:
            tell_failed(driver, lease, failed)
            continue
        if sent is not None:
            ray.get(sent)
        sent = driver.submit.remote(lease.token, result)  # on its way while the next work is fetched
    if sent is not None:
        ray.get(sent)


def join(driver: Any, rank: int, worker: Serves) -> bool:
    """Tell a driver who is there, where, and how to end it; whether it wants the initial parameters."""
    me = ray.get_runtime_context().current_actor
    node = ray.util.get_node_ip_address()
    wanted: bool = ray.get(driver.join.remote(rank, worker.attention, worker.frozen, node, me))
    return wanted


def tell_failed(driver: Any, lease: Lease, failed: AttemptFailed) -> None:
    """Tell a driver that one piece of its work has failed here; its other work goes on."""
    _log.warning("%s\n%s", failed, failed.details)
    ray.get(driver.failed.remote(lease.token, str(failed), failed.details))


def perform(driver: Any, worker: Serves, lease: Lease, rank: int) -> Any:
    """The result of one lease, which the worker has under this number.

    Raises:
        AttemptFailed: says where in the run what went wrong; another attempt may succeed.
        RunFailed: the same, of what every worker would meet.
    """
    try:
        partners = Partners(RayLine(driver), lease.token, rank, RayStore())
        return worker.perform(lease.work, partial(_tell, driver, lease.token), partners)
    except (CutOff, ray.exceptions.RayActorError):  # the driver is gone: it was asked for records
        raise
    except Exception as error:
        failed = failure(error, place_of(lease.work))
        if isinstance(origin(error), CERTAIN):
            raise failed from error
        raise AttemptFailed(str(failed), failed.details) from error


def _tell(driver: Any, token: int, done: int, total: int) -> None:
    try:
        driver.tell.remote(token, done, total)
    except OSError as error:  # of the pipe to Ray's own processes
        raise CutOff from error
