"""A user's method whose clients fail as they are told to; the workers import it by this file's name."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcit_ray.methods.finetune import Finetune


@dataclass(frozen=True, kw_only=True)
class Troubled(Finetune):
    """Finetune.

    Attributes:
        marker: a file that is there once a client has failed; empty: none fails once.
        sleeps: index of the client that never comes back; -1: none.
        awaits: a file that every client waits for; empty: none does.
    """

    marker: str = ""
    sleeps: int = -1
    awaits: str = ""

    def report(self, run: Any) -> Any:
        if self.marker and not Path(self.marker).exists():
            Path(self.marker).touch()
            raise OSError("a cosmic ray")
        while run.job.client.index == self.sleeps:
            time.sleep(60.0)
        while self.awaits and not Path(self.awaits).exists():
            time.sleep(0.1)
        return super().report(run)
