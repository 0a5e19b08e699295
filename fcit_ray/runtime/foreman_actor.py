"""The foreman as an actor: what Ray knows of the workers, it knows too. Light: whoever holds its handle imports it."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fcit_ray.runtime.controllers import Controllers
from fcit_ray.runtime.foreman import Dismissed, Engagement, Foreman
from fcit_ray.runtime.head import leave_with_the_head
from fcit_ray.runtime.presence import GOING_S, Presence, Seat


class RayForeman(Foreman):
    """The foreman inside its actor.

    Args:
        most: crews at a time.
    """

    def __init__(self, most: int):
        super().__init__(most)
        leave_with_the_head()
        self._controllers = Controllers()
        self._presence = Presence(self._lost_seats, alone=self._controllers.end)
        self._presence.watch()

    def come(self, crew: int, rank: int, actor: str, node: str) -> None:
        """A worker says where it is: ids of its actor and its node."""
        self._presence.come((crew, rank), Seat(actor, node))

    def begun(self, crew: int, first: Sequence[int]) -> bool | None:
        """Whether a crew's first workers have all come, so that others may join; None: it is dismissed."""
        return None if self.is_dismissed(crew) else self._presence.have_come([(crew, rank) for rank in first])

    def led_by(self, crew: int, first: int, controller: Any) -> None:
        """Which actor replaces the workers of a crew's group that have died, by the rank of its first worker."""
        self._controllers.come((crew, first), controller)

    def next(self, crew: int, rank: int, timeout_s: float) -> Engagement | Dismissed | None:
        """As `Foreman.next`; a worker whose node is draining is sent to no run, and ends with its node or its crew."""
        if not self._presence.is_going((crew, rank)):
            return super().next(crew, rank, timeout_s)
        if not self.is_dismissed(crew):
            time.sleep(min(timeout_s, GOING_S))
        return Dismissed() if self.is_dismissed(crew) else None

    def lost(self, crew: int, ranks: Sequence[int]) -> None:
        """As `Foreman.lost`, of those whose death is not known yet."""
        super().lost(crew, [rank for rank in ranks if self._presence.leave((crew, rank))])

    def _lost_seats(self, workers: Sequence[tuple[int, int]]) -> None:
        of_crew: dict[int, list[int]] = defaultdict(list)
        for crew, rank in workers:
            of_crew[crew].append(rank)
        for crew, ranks in of_crew.items():
            super().lost(crew, ranks)
