"""A run folder that grows record by record, as a driver would write it, and a session of its trackers beside it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import run_folders
import torch

from fcit_ray.config.schema import Config
from fcit_ray.results.figures import make_results
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.tracking import following
from fcit_ray.tracking.following import Following

TASKS = ["ArxivQA", "IconQA"]

RECORDS: list[dict[str, Any]] = [
    {"kind": "round", "stage": 0, "round": 0, "loss": 2.0, "bytes_up": 7, "seconds": {"train": 3.0}, "clients": [
        {"client": 4, "task": "ArxivQA", "num_examples": 10, "trained": [0], "loss": 1.0},
        {"client": 1, "task": "ArxivQA", "num_examples": 30, "trained": [0], "loss": 4.0},
    ]},
    {"kind": "round", "stage": 0, "round": 1, "loss": 1.5, "bytes_up": 7, "seconds": {"train": 3.0}, "clients": []},
    {"kind": "evaluation", "stage": 0, "scores": {"ArxivQA": 70.0}, "datasets": {}, "num_records": 9,
     "seconds": {"answer": 0.5}},
    {"kind": "round", "stage": 1, "round": 0, "loss": 1.0, "bytes_up": 7, "seconds": {"train": 3.0}, "clients": []},
    {"kind": "round", "stage": 1, "round": 1, "loss": 0.5, "bytes_up": 7, "seconds": {"train": 3.0}, "clients": []},
    {"kind": "evaluation", "stage": 1, "scores": {"ArxivQA": 60.0, "IconQA": 50.0}, "transfer": {"DVQA": 30.0},
     "datasets": {}, "num_records": 18, "seconds": {"answer": 0.5}},
]  # fmt: skip
"""Two stages of two rounds; positions in rounds finished: 1, 2, 2, 3, 4, 4."""


def start(path: Path, **tracking: Any) -> tuple[RunFolder, Config]:
    values = {
        "name": "DISCO", "seed": 3, "tracking": tracking,
        "benchmark": {"tasks": TASKS, "num_rounds": 2, "transfer": ["DVQA"]},
    }  # fmt: skip
    folder = run_folders.start(path, **values)
    return folder, Config.model_validate(values)


def write(folder: RunFolder, records: Sequence[dict[str, Any]]) -> None:
    for record in records:
        folder.log(record)


def finish(folder: RunFolder) -> None:
    folder.write_results(
        make_results(
            label="DISCO", seed=3, tasks=TASKS, num_stages=2, records=RECORDS, params={"w": torch.zeros(1)},
            num_records=dict.fromkeys(TASKS, 1), num_unseen={"DVQA": 1},
        )
    )  # fmt: skip


@contextmanager
def session(folder: RunFolder, config: Config, said: list[str] | None = None, **more: Any) -> Iterator[None]:
    """One session of trackers around what the test does; its messages go to `said`."""
    with Following(config, folder, (said if said is not None else []).append, **more):
        yield


def abandon(folder: RunFolder, config: Config, monkeypatch: Any, **more: Any) -> None:
    """A session whose process is killed after it handed over what there is: it closes nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(following._Follower, "run", lambda self: self._hand_over(None))
        with session(folder, config, **more):
            for thread in threading.enumerate():  # on a busy machine it takes longer than an end waits for
                if thread.name.startswith("tracking"):
                    thread.join()
