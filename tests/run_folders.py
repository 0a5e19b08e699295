"""Run folders as after a few steps of a run, for tests of what becomes of them."""

from pathlib import Path
from typing import Any

import torch

from fcit_ray.config.schema import Config
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.types import ServerState


def make_config(**values: Any) -> Config:
    return Config.model_validate({"benchmark": {"tasks": ["ArxivQA", "IconQA"]}, **values})


def make_state(stage: int, round: int) -> ServerState:
    params = {"w": torch.full((2,), float(10 * stage + round))}
    return ServerState(stage=stage, round=round, params=params, knowledge={}, optimizer={}, memories={})


def start(path: Path, **values: Any) -> RunFolder:
    return open_run(path, make_config(**values), resume=False, overwrite=False)


def begin(path: Path, **values: Any) -> RunFolder:
    """A run after its first round."""
    folder = start(path, **values)
    folder.log({"kind": "round", "stage": 0, "round": 0})
    folder.save_checkpoint(make_state(0, 1), keep=9)
    return folder


def resume(path: Path, **values: Any) -> RunFolder:
    return open_run(path, make_config(**values), resume=True, overwrite=False)
