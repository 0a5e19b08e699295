"""What Ray Train's controller is told about the workers, and what they run; imports little, as the controller does."""

from collections.abc import Iterable
from typing import Any

import ray
import ray.exceptions
import ray.train
from ray.train.backend import Backend, BackendConfig

from fcit_ray.importing import swift_imports
from fcit_ray.runtime.handles import opened, sealed
from fcit_ray.runtime.head import leave_with_the_head
from fcit_ray.runtime.ranks import rank_of

_TELL_S = 30.0


def work(context: dict[str, Any]) -> None:
    """A worker's whole life: `train_loop`, with its imports.

    The controller reads the loop to hand it on. With the real one it would import all that trains, three seconds of a
    CPU that the driver needs to start.
    """
    with swift_imports():
        from fcit_ray.runtime.train_loop import train_loop

    leave_with_the_head()
    opened(context["driver"]).come.remote(*_seat(context))
    train_loop(context)


def work_for_crew(context: dict[str, Any]) -> None:
    """The same of a worker that serves one run after another: `crew_loop`."""
    with swift_imports():
        from fcit_ray.runtime.crew_loop import crew_loop

    leave_with_the_head()
    context["foreman"].come.remote(context["crew"], *_seat(context))
    crew_loop(context)


def _seat(context: dict[str, Any]) -> tuple[int, str, str]:
    """Of this worker: its rank among all, the ids of its actor and its node."""
    here = ray.get_runtime_context()
    return rank_of(context), here.get_actor_id() or "", here.get_node_id()


class _NoGroup(Backend):
    """Clients train independently of each other: no process group, so no worker waits for another."""

    share_cuda_visible_devices = False
    has_replica_groups = True  # One worker that dies is replaced; the others keep their base and their clients.

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Called in the controller."""
        leave_with_the_head()


class NoGroupConfig(BackendConfig):
    """Not one of torch's: the controller reads it, and would import torch for it, two seconds of a CPU.

    What that would do in a worker is done without: no process group, and the one GPU that each sees is device 0.
    """

    backend = "none"  # TorchTrainer asks for the name of the group's

    @property
    def backend_cls(self) -> type[Backend]:
        return _NoGroup


class TellLost(ray.train.UserCallback):
    """Called in the controller when workers have died.

    Args:
        actor: whose method `lost` is told of their ranks; it answers False where no others are wanted. `led_by` is told
            which controller replaces them.
        before: further arguments of these methods, in front of the ranks, or of the group's first one.
        first: rank of the group's first worker among all.
    """

    def __init__(self, actor: Any, *before: Any, first: int = 0):
        self._actor = sealed(actor)
        self._before = before
        self._first = first

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        opened(self._actor).led_by.remote(*self._before, self._first, ray.get_runtime_context().current_actor)
        if not self._lost(list(worker_exceptions)):
            # Raised here it ends the group, which would put others in their place for ever.
            raise RuntimeError("the run is over: nobody takes the place of workers that have died")

    def all(self, num_workers: int) -> bool:
        """Tell it that all of them have died; false if it wants no others, or is gone itself."""
        try:
            return ray.is_initialized() and self._lost(range(num_workers))
        except ray.exceptions.RayError:
            return False

    def _lost(self, ranks: Iterable[int]) -> bool:
        told = opened(self._actor).lost.remote(*self._before, [self._first + rank for rank in ranks])
        try:
            return ray.get(told, timeout=_TELL_S) is not False
        except ray.exceptions.GetTimeoutError:
            return True  # whoever is so busy is there
