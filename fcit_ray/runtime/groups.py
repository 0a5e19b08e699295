"""A Ray Train worker group whose workers need not wait for each other."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.exceptions
import ray.train
from ray.train.torch import TorchTrainer

from fcit_ray.runtime.errors import origin
from fcit_ray.runtime.shape import Shape
from fcit_ray.runtime.train_group import NoGroupConfig, TellLost


def run_group(
    loop: Callable[[dict[str, Any]], None],
    context: Mapping[str, Any],
    shape: Shape,
    *,
    storage: Path,
    name: str,
    lost: TellLost,
) -> str:
    """Run a worker group to its end; returns why it ended.

    Args:
        loop: what each worker runs, with `context`.
        context: handed to the loop.
        shape: of the group, whose workers are alike.
        storage: folder for Ray Train's own files.
        name: of the group in it.
        lost: told of workers that have died, and counts them; Ray Train puts others in their place.
    """

    def trainer() -> TorchTrainer:
        return TorchTrainer(
            loop,
            train_loop_config=dict(context),
            torch_config=NoGroupConfig(),  # type: ignore[arg-type]  # any backend does
            scaling_config=ray.train.ScalingConfig(
                num_workers=shape.num_workers, use_gpu=shape.gpu, resources_per_worker=shape.resources
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=str(storage.resolve()),
                failure_config=ray.train.FailureConfig(max_failures=-1),
                callbacks=[lost],  # type: ignore[list-item]  # Ray's annotation is of version 1
            ),
        )

    log = logging.getLogger("ray")
    started = 0
    while True:
        started += 1
        try:
            trainer().fit()
            return "the workers left before the run was over"
        except Exception as error:
            log.exception("the workers failed")
            cause = origin(getattr(error, "controller_failure", error))
            # A node that dies takes several workers with it: Ray Train, in replacing the first, asks the second, and
            # takes its silence for a fault of its own, which it does not mend.
            if isinstance(cause, ray.exceptions.RayActorError) and lost.all(shape.num_workers):
                log.info("the workers are started anew, all of them: time no. %d", started)
                continue
            lines = str(cause).strip().splitlines() or [repr(error)]
            return f"the workers could not run: {lines[-1]}"
