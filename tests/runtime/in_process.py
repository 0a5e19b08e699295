"""A whole run without Ray: driver and workers, in threads, in this process; or no driver either, client by client."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.shards import LocalShards
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.federated.federation import simulate
from fcit_ray.params import params_sha256
from fcit_ray.results.cover import values_sha256
from fcit_ray.results.opening import open_run
from fcit_ray.results.so_far import SoFar
from fcit_ray.runtime.data import sample_encoder
from fcit_ray.runtime.driver import Driver
from fcit_ray.runtime.errors import failure
from fcit_ray.runtime.messages import DirectStore, Over, TrainWork
from fcit_ray.runtime.places import place_of
from fcit_ray.runtime.worker import Worker

Perform = Callable[[Worker, Any], Any]


class Lost(BaseException):
    """Ends a worker without a word, as a kill would."""


def run(
    config: Config,
    path: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    perform: Perform = Worker.perform,
    watch: Callable[[Driver], None] = lambda driver: None,
    draws: bool = False,
) -> dict[str, Any]:
    """Launch without Ray: the driver here, each worker in a thread; `watch` is called when work has been handed in.

    Unless it `draws`, there are no pictures of the scores, which take longer than a round.
    """
    experiment = open_experiment(config)
    folder = open_run(path, config, resume=resume, overwrite=False)
    shards = LocalShards(experiment.stream, experiment.tests, sample_encoder(experiment))
    driver = Driver(experiment, folder, shards, DirectStore())

    def serve(rank: int) -> None:
        try:
            worker = Worker(config, DirectStore(), folder)
            if driver.join(rank, worker.attention, worker.frozen):
                driver.begin(worker.initial_params())
            while not isinstance(lease := driver.next(rank, 0.1), Over):
                if lease is None:
                    continue
                try:
                    driver.submit(lease.token, perform(worker, lease.work))
                except Exception as error:
                    failed = failure(error, place_of(lease.work))
                    driver.failed(lease.token, str(failed), failed.details)
                watch(driver)
        except Lost:
            pass
        except Exception as error:
            driver.fail(str(error))

    threads = [threading.Thread(target=serve, args=(rank,), daemon=True) for rank in range(workers)]
    for thread in threads:
        thread.start()
    try:
        with nullcontext() if draws else patch.object(SoFar, "draw"):
            return driver.run()
    finally:
        for thread in threads:
            thread.join(timeout=60.0)
            assert not thread.is_alive(), "a worker was not told that the run is over"


_IN_ONE_PROCESS: dict[str, str] = {}


def in_one_process(config: Config) -> str:
    """Digest of the adapters that one process learns; learned once of what decides the bits."""
    key = values_sha256(config.model_dump(mode="json"))
    if key not in _IN_ONE_PROCESS:
        experiment = open_experiment(config)
        shards = LocalShards(experiment.stream, experiment.tests, sample_encoder(experiment))
        worker = Worker(config, DirectStore())

        def train(job: Any) -> Any:
            shard = shards.train_shard(job.client.task, job.client.index)
            return worker.train(TrainWork(job, [job.params], job.knowledge, shard))

        state = simulate(experiment.federation(shards.feature), worker.initial_params(), train)
        _IN_ONE_PROCESS[key] = params_sha256(state.params)
    return _IN_ONE_PROCESS[key]
