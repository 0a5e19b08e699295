"""A user's method whose import makes a worker's process die while it helps another, once; the workers import it."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcit_ray.methods.finetune import Finetune
from fcit_ray.runtime.helping import Helper

_help = Helper.help


def _killed(self: Helper, *arguments: Any) -> Any:
    """As it begins its third micro-batch."""
    method = self._algorithm.method
    if not isinstance(method, KilledHelper):
        return _help(self, *arguments)
    marker = Path(method.marker)
    count = getattr(self, "count", 0) + 1
    self.count = count
    if count == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _help(self, *arguments)


Helper.help = _killed


@dataclass(frozen=True, kw_only=True)
class KilledHelper(Finetune):
    """Finetune.

    Attributes:
        marker: a file that is there once a process has died.
    """

    marker: str
