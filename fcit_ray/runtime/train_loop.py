"""What a Ray Train worker runs: build a `Worker` once, then pull work from the driver until it is over."""

import traceback
from typing import Any

import ray
import ray.train
import torch

from fcit_ray.config import parse_config
from fcit_ray.data.layout import DataError
from fcit_ray.runtime.data import quiet
from fcit_ray.runtime.messages import Over
from fcit_ray.runtime.store import RayStore, share_tensors
from fcit_ray.runtime.worker import Worker

_WAIT_S = 5.0


def train_loop(context: dict[str, Any]) -> None:
    """Serve one driver.

    An error that any worker would meet (a bad record, a loss that is not finite, a mistake in a method) is reported to
    the driver, which ends the run; it is not raised, because Ray Train would start the workers anew to meet it again.

    Args:
        context: `config` (plain mapping) and `driver` (actor handle).
    """
    torch.set_num_threads(1)
    share_tensors()
    quiet()
    driver = context["driver"]
    rank = ray.train.get_context().get_world_rank()
    try:
        worker = Worker(parse_config(context["config"]), RayStore())
        if ray.get(driver.join.remote(rank)):
            ray.get(driver.begin.remote(worker.initial_params()))
        done = None
        while not isinstance(lease := ray.get(driver.next.remote(rank, _WAIT_S, done)), Over):
            done = (lease.token, worker.perform(lease.work)) if lease is not None else None
    except ray.exceptions.RayActorError:
        raise  # the driver is gone, and with it the run
    except Exception as error:
        ray.get(driver.fail.remote(_explain(error)))


def _explain(error: Exception) -> str:
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, DataError | FloatingPointError):
        return str(cause)
    return "".join(traceback.format_exception(error))
