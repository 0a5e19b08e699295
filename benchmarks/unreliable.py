"""Finetune whose clients fail at random, for `failures.py`; the workers import it by this file's name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcit_ray.methods.finetune import Finetune
from fcit_ray.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Unreliable(Finetune):
    """Finetune.

    Attributes:
        frac: of the clients that fail, drawn by stage, round and client.
        once: a folder in which a client that fails leaves a file, and does not fail again; empty: it always fails.
    """

    frac: float = 0.05
    once: str = ""

    def report(self, run: Any) -> Any:
        if derive_seed(0, "unreliable", *run.job.key) / 2**63 < self.frac:
            failed = Path(self.once) / "_".join(map(str, run.job.key))
            if not self.once or not failed.exists():
                if self.once:
                    failed.touch()
                raise ConnectionError("the line broke")
        return super().report(run)
