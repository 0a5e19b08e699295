"""A Ray Train worker group whose workers need not wait for each other."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.exceptions
import ray.train
from ray.train.torch import TorchTrainer

from fcit_ray.runtime.errors import origin
from fcit_ray.runtime.shape import Shape, too_many_deaths
from fcit_ray.runtime.train_group import NoGroupConfig, TellLost


def run_group(
    loop: Callable[[dict[str, Any]], None],
    context: Mapping[str, Any],
    shape: Shape,
    *,
    storage: Path,
    name: str,
    lost: TellLost,
    max_failures: int,
) -> str:
    """Run a worker group to its end; returns why it ended.

    Args:
        loop: what each worker runs, with `context`.
        context: handed to the loop.
        shape: of the group, whose workers are alike.
        storage: folder for Ray Train's own files.
        name: of the group in it.
        lost: told of workers that have died; Ray Train puts others in their place.
        max_failures: times that it does; -1 does not count them.
    """
    log = logging.getLogger("ray")
    started = 0
    while True:
        started += 1
        try:
            _fit(loop, context, shape, storage, name, lost, max_failures)
            return "the workers left before the run was over"
        except ray.train.WorkerGroupError as error:
            log.exception("the workers failed")
            return too_many_deaths(max_failures, error.worker_failures)
        except Exception as error:
            log.exception("the workers failed")
            cause = origin(getattr(error, "controller_failure", error))
            # A node that dies takes several workers with it: Ray Train, in replacing the first, asks the second, and
            # takes its silence for a fault of its own, which it does not mend.
            died = isinstance(cause, ray.exceptions.RayActorError)
            if died and (max_failures < 0 or started <= max_failures) and lost.all(shape.num_workers):
                log.info("the workers are started anew, all of them: time no. %d", started)
                continue
            lines = str(cause).strip().splitlines() or [repr(error)]
            return f"the workers could not run: {lines[-1]}"


def _fit(
    loop: Callable[[dict[str, Any]], None],
    context: Mapping[str, Any],
    shape: Shape,
    storage: Path,
    name: str,
    lost: TellLost,
    max_failures: int,
) -> None:
    TorchTrainer(
        loop,
        train_loop_config=dict(context),
        torch_config=NoGroupConfig(),  # type: ignore[arg-type]  # any backend does
        scaling_config=ray.train.ScalingConfig(
            num_workers=shape.num_workers, use_gpu=shape.gpu, resources_per_worker=shape.resources
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            callbacks=[lost],  # type: ignore[list-item]  # Ray's annotation is of version 1
        ),
    ).fit()
