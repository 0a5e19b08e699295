"""A sweep file: methods x seeds x a grid of any keys, as checked configurations with a run folder each."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fcit_ray.config.mistakes import describe
from fcit_ray.config.reading import load_config, read_settings
from fcit_ray.config.schema import Config, with_absolute_paths
from fcit_ray.config.section import MOST_LETTERS
from fcit_ray.config.shipped import find_config
from fcit_ray.errors import ConfigError
from fcit_ray.storage.file_names import file_name


class Sweep(BaseModel):
    """A sweep file: the product of methods, seeds and a grid of any configuration keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    config: tuple[str, ...] = Field(min_length=1)
    """Base configurations, merged in order: shipped ones by name, or files, relative to the working directory."""
    methods: tuple[str, ...] = Field(min_length=1)
    """One configuration a method, merged over the base: shipped ones by name, or files."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Each method runs with each seed."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values to try by dotted key, e.g. `train.lr: [1.0e-3, 5.0e-3]`; the values name the table's rows."""
    overrides: tuple[str, ...] = ()
    """`key.path=value`, for all trials."""
    max_concurrent: int = Field(1, ge=1)
    """Trials at a time. Together their workers must leave Ray Data a CPU."""


class Trial(BaseModel):
    """One run of a sweep."""

    folder: str
    """Name of its run folder."""
    config: Config
    """Complete."""


def load_sweep(file: Path, overrides: Sequence[str] = ()) -> tuple[Sweep, list[Trial]]:
    """Read a sweep file and check every trial's configuration.

    Args:
        file: YAML.
        overrides: `key.path=value` for all trials, after the file's own.

    Raises:
        ConfigError: names file, key and value.
    """
    try:
        sweep = Sweep.model_validate(read_settings(file))
    except ValidationError as error:
        raise ConfigError(f"{file}:\n{describe(error, schema=Sweep)}") from None
    trials = []
    points = [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    base = [find_config(name) for name in sweep.config]
    methods = [find_config(name, "methods") for name in sweep.methods]
    for method, point, seed in itertools.product(methods, points, sweep.seeds):
        chosen = [
            # On one line, however long; a plain value is followed by a line that ends the document.
            f"{key}={yaml.safe_dump(value, default_flow_style=True, width=math.inf).split(chr(10))[0]}"
            for key, value in point.items()
        ]
        config = load_config([*base, method], [*sweep.overrides, *overrides, *chosen, f"seed={seed}"])
        label = " ".join([config.name, *(f"{key.split('.')[-1]}={value}" for key, value in point.items())])
        if len(label) > MOST_LETTERS:  # a grid of long values: cut, and kept apart by a digest
            label = f"{label[: MOST_LETTERS - 9]}…{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        # Tune runs every trial in a directory of its own.
        config = with_absolute_paths(config.model_copy(update={"name": label}))
        trials.append(Trial(folder=file_name(f"{label}-seed{seed}".replace(" ", "_").lower()), config=config))
    names = [trial.folder for trial in trials]
    if len(set(names)) < len(names):
        raise ConfigError(f"{file}: two trials would share a run folder; give the methods different names")
    return sweep, trials
