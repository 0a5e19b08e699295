"""Workers that a run does not wait for: each joins when a node has room for it, and is replaced as any other.

A run's first workers are a Ray Train worker group, which is placed as a whole or not at all. The others are an actor
each, which Ray places whenever it can and asks the autoscaler for a node for; one that waits costs nothing.
"""

import logging
import math
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from fcit_ray.runtime.cluster import at_its_largest
from fcit_ray.runtime.room import Room, may_join
from fcit_ray.runtime.shape import ALONE, FIRST_RANK, SHARE, Shape
from fcit_ray.runtime.train_group import TellLost

_LOOK_S = 1.0
_AGAIN_S = 5.0
_ASK_S = 30.0
_LEAVE_S = 3.0  # for who is there to leave at the end; who is in the middle of an update is not waited for
_log = logging.getLogger("ray")

Loop = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Leader:
    """Whom workers serve, as those who start them know it.

    Attributes:
        actor: has the methods `lost` and `begun`.
        before: arguments of both, in front of the ranks.
    """

    actor: Any
    before: tuple[Any, ...] = ()

    def told_of(self, first: int) -> TellLost:
        """Tells it of workers that have died, of a group whose first worker has this rank among all."""
        return TellLost(self.actor, *self.before, first=first)

    def begun(self, first: Sequence[int]) -> bool | None:
        """Whether workers of these ranks have all come once, so that others may join; None: nobody is wanted more."""
        try:
            answer: bool | None = ray.get(self.actor.begun.remote(*self.before, list(first)), timeout=_ASK_S)
            return answer
        except ray.exceptions.GetTimeoutError:
            return False  # whoever is so busy is there
        except ray.exceptions.RayError:
            return None


class JoiningWorker:
    """The actor of one such worker."""

    def __init__(self) -> None:
        # Ray's own handler waits until `serve` is over.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def serve(self, loop: Loop, context: dict[str, Any]) -> None:
        """A worker's whole life."""
        loop(context)


@dataclass(frozen=True)
class _Hired:
    rank: int
    actor: Any
    placed: Any


def let_join(loop: Loop, context: Mapping[str, Any], shape: Shape, leader: Leader, over: threading.Event) -> None:
    """Start the workers that a run has not waited for, each as it finds room, until the run is over.

    Args:
        loop: what each runs, with `context`, its rank as `FIRST_RANK`, its `SHARE` and `ALONE`.
        context: handed to the loop.
        shape: of all workers.
        leader: whom they serve.
        over: set when the run's first workers have ended.
    """
    hired: dict[Any, _Hired] = {}
    while ray.is_initialized():
        try:
            _keep_hiring(hired, loop, context, shape, leader, over)
            _dismiss(hired)
            return
        except Exception:  # of many types, while the head does not answer: the next look tells
            _log.exception("workers that would join could not be looked after")
            if over.wait(_AGAIN_S):
                return


def _keep_hiring(
    hired: dict[Any, _Hired],
    loop: Loop,
    context: Mapping[str, Any],
    shape: Shape,
    leader: Leader,
    over: threading.Event,
) -> None:
    while not over.is_set() and (begun := leader.begun(shape.first_ranks)) is not None:
        if begun:
            there = {one.rank for one in hired.values()}
            for rank, part in may_join(shape, there, Room.here(), at_its_largest().get("CPU", math.inf)):
                serving, one = _hire(loop, context, rank, part)
                hired[serving] = one
        ended = ray.wait(list(hired), num_returns=len(hired), timeout=_LOOK_S)[0] if hired else []
        for serving in ended:
            one = hired.pop(serving)
            ray.kill(one.actor)  # one that has left by itself would keep its place as long as somebody has its handle
            if not _told(one.rank, serving, leader):
                return
        if not hired or ended:
            over.wait(_LOOK_S)


def _hire(loop: Loop, context: Mapping[str, Any], rank: int, part: Shape) -> tuple[Any, _Hired]:
    actor: Any = (
        ray.remote(JoiningWorker)
        .options(num_cpus=part.cpus, num_gpus=part.share if part.gpu else 0, resources=dict(part.custom))
        .remote()
    )
    of_its_own = {FIRST_RANK: rank, SHARE: part.share if part.gpu else 1.0, ALONE: True}
    placed = actor.__ray_ready__.remote()
    return actor.serve.remote(loop, {**context, **of_its_own}), _Hired(rank, actor, placed)


def _told(rank: int, serving: Any, leader: Leader) -> bool:
    """Tell of a worker that serves no more, if it has died; whether another is wanted in its place."""
    try:
        ray.get(serving)
        return True  # it has left by itself: whether the run is over is asked anyway
    except ray.exceptions.RayError as error:
        _log.info("worker %d, which had joined, has ended: %s", rank, error)
        return leader.told_of(rank).all(1)


def _dismiss(hired: Mapping[Any, _Hired]) -> None:
    """Who is there leaves by himself, if he can at once; who waits for room is wanted no more."""
    if not hired or not ray.is_initialized():
        return
    placed = [one.placed for one in hired.values()]
    there = set(ray.wait(placed, num_returns=len(placed), timeout=0.0)[0])
    leaving = [serving for serving, one in hired.items() if one.placed in there]
    if leaving:
        ray.wait(leaving, num_returns=len(leaving), timeout=_LEAVE_S)
    for one in hired.values():
        ray.kill(one.actor)
