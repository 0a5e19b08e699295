"""Weights & Biases: a run a run of ours, in `tracking.project`; offline its files are in the run folder's `wandb/`.

Credentials are W&B's own affair: `wandb login`, or WANDB_API_KEY.
"""

import inspect
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import wandb

from fcit_ray.config.tracking import Tracking
from fcit_ray.errors import ConfigError
from fcit_ray.tracking.memory import Memory
from fcit_ray.tracking.points import End, Point
from fcit_ray.tracking.tracker import Outcome, TrackedRun, Tracker

_STEP: Final = "progress/rounds"
_EXIT: Final = {"finished": 0, "failed": 1, "interrupted": 130}
_INIT_S, _FINISH_S = 30.0, 45.0  # less than the end of a run waits for


class WeightsAndBiases(Tracker):
    """W&B's step is a record's number, which only rises; its plots go by the rounds finished.

    Online the server says how many it has, and takes none twice. Offline a kill loses what W&B had not written yet, and
    two folders of one run do not add up to one: a session that goes on tells everything again, in a folder of its own,
    and puts the earlier ones aside.
    """

    def __init__(self, tracking: Tracking):
        self._entity = tracking.wandb_entity
        self._mode = tracking.wandb_mode
        self._run: Any = None

    def check(self) -> None:
        mode = self._mode or wandb.setup().settings.mode
        if mode == "online" and not _has_credentials():
            raise ConfigError(
                "tracking.report_to: wandb has no credentials; `wandb login`, or set WANDB_API_KEY, or keep its files "
                "here with tracking.wandb_mode=offline (`wandb sync` sends them later)"
            )

    def start(self, run: TrackedRun, memory: Memory, points: Sequence[Point]) -> int:
        if "id" not in memory.values:
            memory.forget()
            memory.keep(id=secrets.token_hex(4))
        online = (self._mode or wandb.setup().settings.mode) == "online"
        if not online:
            _put_aside(run.folder / "wandb", memory.values["id"])
        settings = {"console": "off", "silent": True, "init_timeout": _INIT_S, "finish_timeout": _FINISH_S}
        settings["finish_timeout_raises"] = True
        known = wandb.Settings.model_fields  # older releases wait without end
        self._run = wandb.init(
            project=run.project,
            entity=self._entity,
            group=run.group or None,
            name=run.name,
            id=memory.values["id"],
            resume="allow" if online else None,
            dir=str(run.folder),
            mode=self._mode,
            config=dict(run.config),
            allow_val_change=True,  # of runtime.* and tracking.*
            reinit="create_new",
            settings=wandb.Settings(**{name: value for name, value in settings.items() if name in known}),
        )
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)
        if not online:
            return 0
        self.where = self._run.url or ""
        return int(self._run.starting_step)

    def log(self, point: Point) -> None:
        self._run.log({**point.metrics, _STEP: point.step}, step=point.index, commit=True)

    def finish(self, end: End) -> None:
        self._run.summary.update(end.figures)
        files = wandb.Artifact(f"run-{self._run.id}-results", type="results")
        for file in end.files:
            files.add_file(str(file))
        self._run.log_artifact(files)

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=_EXIT[outcome])


def _put_aside(folder: Path, run_id: str) -> None:
    """Move offline folders of a run to where `wandb sync` does not look."""
    for earlier in folder.glob(f"offline-run-*-{run_id}"):
        (folder / "earlier").mkdir(exist_ok=True)
        earlier.rename(folder / "earlier" / earlier.name)


def _has_credentials() -> bool:
    """Asks nobody, neither the server nor the user."""
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # what older releases have for it
