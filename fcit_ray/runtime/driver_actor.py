"""The driver as an actor; light to name, as what it needs is imported swiftly (`importing`)."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import ray

from fcit_ray.importing import swift_imports

with swift_imports():
    from fcit_ray.experiment.opening import Experiment
    from fcit_ray.results.run_folder import RunFolder
    from fcit_ray.runtime.blocks import Block, Prepare, quiet
    from fcit_ray.runtime.controllers import Controllers
    from fcit_ray.runtime.data import RayShards
    from fcit_ray.runtime.driver import Driver
    from fcit_ray.runtime.driver_place import check_same
    from fcit_ray.runtime.errors import MENDABLE, failure, origin
    from fcit_ray.runtime.forecast import Piece
    from fcit_ray.runtime.gauges import run_tags
    from fcit_ray.runtime.head import leave_with_the_head
    from fcit_ray.runtime.messages import Over
    from fcit_ray.runtime.pieces import Lease
    from fcit_ray.runtime.prepared import AskDriver
    from fcit_ray.runtime.presence import GOING_S, Presence, Seat
    from fcit_ray.runtime.ray_gauges import RayGauges
    from fcit_ray.runtime.shape import Shape
    from fcit_ray.runtime.status import Status, duration
    from fcit_ray.runtime.store import RayStore, share_tensors

_TOLD = "the driver was told to terminate (SIGTERM; its node may be going); --resume goes on from the last checkpoint"
SWITCH_S = 0.0005
"""Between two threads of the driver: a worker's call takes less, and must not wait for the one that combines."""


class RayDriver(Driver):
    """The driver inside its actor: reads its run's data there and serves it through Ray Data and the object store."""

    def __init__(self, experiment: Experiment, folder: RunFolder, prepare: Prepare | None):
        share_tensors(copies=False)  # each update is the driver's alone
        sys.setswitchinterval(SWITCH_S)
        quiet()
        # Ray's own handler leaves Python, and then waits until `run` is over, without serving a call any more.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._told_to_leave)
        leave_with_the_head()
        check_same(experiment, folder)
        ask = AskDriver(ray.get_runtime_context().current_actor)
        self._ray_shards = RayShards(
            experiment, experiment.config.runtime.cache_mb * 2**20, prepare, ask, warn=self._warn
        )
        self._gauges = RayGauges(run_tags(experiment.config))
        super().__init__(experiment, folder, self._ray_shards, RayStore(), self._watch)
        self._presence = Presence(super().lost, self._tell_going, self._tell_alone)
        self._controllers = Controllers()
        self._shape = Shape.of(experiment.config.runtime)
        self._says_who_joins = False
        self._node = ray.util.get_node_ip_address()

    def come(self, worker: int, actor: str, node: str) -> None:
        """A worker says where it is: ids of its actor and its node."""
        self._presence.come(worker, Seat(actor, node))
        if worker not in self._shape.first_ranks:
            self._standing.note(f"worker {worker} has joined: {self._num_there()} are there")

    def led_by(self, first: int, controller: Any) -> None:
        """Which actor replaces workers of a group that have died, by the rank of its first worker."""
        self._controllers.come(first, controller)

    def begun(self, first: Sequence[int]) -> bool | None:
        """Whether the first workers have all come, so that others may join; None: the run is over."""
        if self._queue.over:
            return None
        begun = self._presence.have_come(first)
        if begun and not self._says_who_joins:
            self._says_who_joins = True
            self._warn(f"{self._num_there()} workers are there; each of the others joins when it finds room")
        return begun

    def status(self) -> Status:
        """As `Driver.status`, with where it is and the workers that are there; a crew's come to the foreman instead."""
        there = self._presence.num_there
        workers = (there, self._shape.num_workers) if there else (0, 0)
        return replace(super().status(), workers=workers, node=self._node)

    def lost(self, workers: Sequence[int], serving: Sequence[int] | None = None) -> bool:
        """As `Driver.lost`, of those whose death is not known yet."""
        news = [worker for worker in workers if self._presence.leave(worker)]
        return super().lost(news, None if serving is None else [worker for worker in serving if worker in news])

    def next(self, worker: int, timeout_s: float) -> Lease | Over | None:
        """As `Driver.next`; a worker whose node is draining gets nothing new, and ends with its node or the run."""
        if not self._presence.is_going(worker):
            return super().next(worker, timeout_s)
        if not self._queue.over:
            time.sleep(min(timeout_s, GOING_S))
        return Over() if self._queue.over else None

    def _tell_alone(self, seconds: float) -> None:
        what = f"waiting until one finds room in the cluster ({self._shape})"
        if self._controllers.end(seconds):
            what = "the actor of Ray Train's that replaces them may hang, so all of them are started anew"
        self._warn(f"no worker is left for {duration(seconds)}: {what}")

    def _watch(self, record: Mapping[str, Any]) -> None:
        """Every record goes to the gauges, with the workers that are there now."""
        there = self._presence.num_there
        self._gauges({**record, "workers_there": there, "workers_wanted": self._shape.num_workers} if there else record)

    def _num_there(self) -> str:
        return f"{self._presence.num_there} of {self._shape.num_workers}"

    def _tell_going(self, workers: Sequence[int]) -> None:
        which = ", ".join(map(str, sorted(workers)))
        self._warn(f"the node of worker {which} is draining: no new work for it; what it has in hand goes on")

    def blocks(self, pieces: Sequence[Piece], timeout_s: float) -> list[Block] | None:
        """What the workers call for records that were not there when they were handed their work."""
        return self._ray_shards.blocks(pieces, timeout_s)

    def waiting(self, known: Sequence[tuple[float, float]], timeout_s: float) -> list[tuple[float, float]] | Over:
        """What waits to be done, as `WorkQueue.waiting`; before the first round, that somebody brings its start."""
        if self._queue.over:
            return Over()
        start = [(math.inf, math.inf)]
        if not self._begun.is_set() and (list(known) != start or not self._begun.wait(timeout_s)):
            return start
        waiting = self._queue.waiting(known, timeout_s)
        return Over() if self._queue.over else waiting

    def _told_to_leave(self, number: int, frame: FrameType | None) -> None:
        # In a thread: this one may hold what is needed for it.
        threading.Thread(target=self.fail, args=(_TOLD,), daemon=True).start()

    def _end_worker(self, worker: int) -> None:
        """Its process ends, and Ray Train puts another in its place."""
        actor = self._members.end(worker)
        if actor is not None:
            ray.kill(actor)

    def _warn(self, text: str) -> None:
        self._standing.warn(text)

    def run(self) -> dict[str, Any]:
        self._presence.watch()
        try:
            return super().run()
        except Exception as error:
            root = origin(error)
            if isinstance(root, MENDABLE):
                raise root from None
            raise failure(root, "the driver") from None
        finally:
            self._presence.close()
            self._ray_shards.close()

    def pid(self) -> int:
        """Process id of the actor, for tests that kill it."""
        return os.getpid()
