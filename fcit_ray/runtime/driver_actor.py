"""The driver as an actor; light to name, as what it needs is imported swiftly (`importing`)."""

import os
from typing import Any

from fcit_ray.importing import swift_imports

with swift_imports():
    from fcit_ray.experiment.opening import Experiment
    from fcit_ray.results.run_folder import RunFolder
    from fcit_ray.runtime.blocks import Prepare, quiet
    from fcit_ray.runtime.data import RayShards
    from fcit_ray.runtime.driver import Driver
    from fcit_ray.runtime.errors import MENDABLE, failure, origin
    from fcit_ray.runtime.store import RayStore, share_tensors


class RayDriver(Driver):
    """The driver inside its actor: reads its run's data there and serves it through Ray Data and the object store."""

    def __init__(self, experiment: Experiment, folder: RunFolder, prepare: Prepare | None):
        share_tensors()
        quiet()
        shards = RayShards(experiment, experiment.config.runtime.cache_mb * 2**20, prepare)
        super().__init__(experiment, folder, shards, RayStore())

    def run(self) -> dict[str, Any]:
        try:
            return super().run()
        except Exception as error:
            root = origin(error)
            if isinstance(root, MENDABLE):
                raise root from None
            raise failure(root, "the driver") from None

    def pid(self) -> int:
        """Process id of the actor, for tests that kill it."""
        return os.getpid()
