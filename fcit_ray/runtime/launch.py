"""One run on a Ray cluster: a driver actor and one Ray Train run whose workers pull their jobs from it."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fcit_ray.config import Config
from fcit_ray.display import Status
from fcit_ray.experiment import Experiment, open_experiment
from fcit_ray.run_folder import RunFolder
from fcit_ray.runtime.data import RayShards, quiet
from fcit_ray.runtime.driver import Driver
from fcit_ray.runtime.store import RayStore, share_tensors
from fcit_ray.runtime.train_loop import train_loop
from fcit_ray.runtime.work_queue import RunFailed

_POLL_S = 0.25


class _NoGroup(Backend):
    """Clients train independently of each other: no process group, so no worker waits for another."""

    share_cuda_visible_devices = False


class _NoGroupConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[Backend]:
        return _NoGroup


class _RayDriver(Driver):
    """The driver inside its actor: reads its run's data there and serves it through Ray Data and the object store."""

    def __init__(self, experiment: Experiment, folder: RunFolder):
        share_tensors()
        quiet()
        shards = RayShards(experiment, experiment.config.runtime.cache_mb * 2**20)
        super().__init__(experiment, folder, shards, RayStore())

    def pid(self) -> int:
        """Process id of the actor, for tests that kill it."""
        return os.getpid()


def start_ray(log_file: Path | None = None, num_cpus: float | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` or `ray start` offers, or start one on this machine; quietly.

    Args:
        log_file: where Ray's Python loggers write instead of the terminal; its other logs lie in its session folder,
            which is noted there.
        num_cpus: CPUs of a cluster started here; all of the machine's by default.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        quiet_level = logging.ERROR
        try:
            ray.init(address="auto", logging_level=quiet_level, log_to_driver=False)
        except ConnectionError:
            ray.init(num_cpus=num_cpus, logging_level=quiet_level, log_to_driver=False, include_dashboard=False)
    share_tensors()
    quiet()
    if log_file is not None:
        redirect_logs(log_file)


def redirect_logs(log_file: Path) -> None:
    """Send the words of Ray's Python loggers in this process to a file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
    logging.getLogger("ray").info("Ray's session folder: %s", ray._private.worker._global_node.get_session_dir_path())


def launch(
    config: Config,
    folder: RunFolder,
    *,
    on_status: Callable[[Status], None] = lambda status: None,
    experiment: Experiment | None = None,
) -> dict[str, Any]:
    """Carry a run through on the cluster that this process is connected to.

    Args:
        config: the run.
        folder: opened for it; if it holds a checkpoint the run goes on from there.
        on_status: called about four times a second.
        experiment: if the caller has opened it already.

    Returns:
        The run's results, as in its results.json.

    Raises:
        RunFailed: says why.
        ConfigError, DataError: before anything is started.
    """
    if folder.finished:
        return folder.results()
    experiment = experiment or open_experiment(config)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    driver = (
        ray.remote(_RayDriver)
        .options(num_cpus=0, max_concurrency=config.runtime.num_workers + 8, scheduling_strategy=here)
        .remote(experiment, folder)
    )
    running = driver.run.remote()
    workers = threading.Thread(target=_run_workers, args=(config, folder, driver), daemon=True)
    workers.start()
    try:
        while not ray.wait([running], timeout=_POLL_S)[0]:
            on_status(ray.get(driver.status.remote()))
        results: dict[str, Any] = ray.get(running)
        on_status(ray.get(driver.status.remote()))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise RunFailed(f"the driver's process died: {error}\n--resume goes on from the last checkpoint") from None
    finally:
        workers.join(timeout=60.0)
        ray.kill(driver)
    return results


def _run_workers(config: Config, folder: RunFolder, driver: Any) -> None:
    """The Ray Train run; if it ends while the driver still waits for work to be done, the driver is told why."""
    runtime = config.runtime
    resources: dict[str, float] = {"CPU": runtime.cpus_per_worker}
    if runtime.gpu:
        resources["GPU"] = 1
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"config": config.model_dump(mode="json"), "driver": driver},
        torch_config=_NoGroupConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=runtime.num_workers, use_gpu=runtime.gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name="workers",
            storage_path=str((folder.path / "logs").resolve()),
            failure_config=ray.train.FailureConfig(max_failures=runtime.max_worker_failures),
        ),
    )
    try:
        trainer.fit()
        reason = "the workers left before the run was over"
    except Exception as error:
        reason = f"the workers failed: {error}"
    try:
        ray.get(driver.fail.remote(reason))
    except ray.exceptions.RayActorError:
        logging.getLogger("ray").info("the workers ended after the driver: %s", reason)
