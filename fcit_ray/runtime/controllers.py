"""Ray Train's controllers, who put workers in the place of those that have died; one that does not is ended.

Seen on a machine with ten times the work that it had cores for: of twenty workers killed in a row the ninth was never
replaced. A group whose controller has died is started anew, all of it (`groups.run_group`).
"""

import threading
from collections.abc import Callable, Hashable
from typing import Any

import ray

_ANEW_S = 170.0


class Controllers:
    """Those that have told of a worker's death.

    Args:
        kill: ends an actor.
    """

    def __init__(self, kill: Callable[[Any], None] = ray.kill):
        self._kill = kill
        self._lock = threading.Lock()
        self._known: dict[Hashable, Any] = {}

    def come(self, group: Hashable, controller: Any) -> None:
        """One replaces a group's workers; it takes the place of an earlier one of the same group."""
        with self._lock:
            self._known[group] = controller

    def end(self, alone_s: float) -> bool:
        """End those that have had long enough; each once, as one that waits for room is none that hangs.

        Args:
            alone_s: seconds for which no worker has been there.

        Returns:
            Whether any was ended.
        """
        if alone_s < _ANEW_S:
            return False
        with self._lock:
            ended, self._known = self._known, {}
        for controller in ended.values():
            self._kill(controller)
        return bool(ended)
