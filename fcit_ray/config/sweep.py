"""A sweep file: what is crossed, what is searched, what stops early."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fcit_ray.config.mistakes import describe
from fcit_ray.config.reading import read_settings
from fcit_ray.config.space import Space
from fcit_ray.errors import ConfigError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Search(_Part):
    """Values that are drawn, the same number of trials for every method."""

    by: Literal["random", "optuna"] = "random"
    """`random` draws from (seed, method, number), so more trials only add to those there were; `optuna` (the extra
    `search`) lets its tree-structured Parzen estimator learn from the trials that are over."""
    trials: int = Field(ge=1)
    """Of every method, in every setting, at every point of the grid: an equal budget."""
    seed: int = Field(0, ge=0)
    """Of the draws; the runs have their own."""
    defaults_first: bool = True
    """The first trial of every method takes the values that its configuration has anyway; it counts as the others do.
    What is chosen is then never worse, on what it was judged by, than what was there."""
    space: dict[str, Space] = Field(default_factory=dict)
    """By dotted key, for all methods."""
    own: dict[str, dict[str, Space]] = Field(default_factory=dict)
    """More keys, or other values of the same, for single methods by their name in `methods`."""


class StopEarly(_Part):
    """Asynchronous successive halving (ASHA, Li et al., MLSys 2020, arXiv 1810.05934) over the stages of the stream.

    After the stages `grace_stages`, `grace_stages * reduction_factor`, ... a trial goes on if its mean score over the
    tasks seen so far is among the best 1 / `reduction_factor` of those that got so far of the same method, setting,
    grid point of the benchmark and seed. Needs `evaluation.every_stage`.
    """

    grace_stages: int = Field(1, ge=1)
    """No trial ends before so many stages."""
    reduction_factor: float = Field(3.0, gt=1)
    """One in so many goes on."""


class Sweep(_Part):
    """A sweep file: methods x settings x seeds x a grid of any keys; at each of its points a search, or ablations."""

    config: tuple[str, ...] = Field(min_length=1)
    """Base configurations, merged in order: shipped ones by name, or files, relative to the working directory."""
    settings: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Configurations that go on top of the base, by the name of the setting; each setting has a table of its own."""
    methods: tuple[str, ...] = Field(min_length=1)
    """One configuration a method, merged over the base: shipped ones by name, or files."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Each method runs with each seed."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values to try by dotted key, e.g. `train.lr: [1.0e-3, 5.0e-3]`; or by section, e.g. `local: [{name: plain},
    {name: fedprox, mu: 0.1}]`. The values name the table's rows; those of `benchmark.*` make tables of their own."""
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values to try one at a time, by dotted key, the others as configured: an ablation. The configuration as it is
    runs too."""
    search: Search | None = None
    """Values that are drawn."""
    stop_early: StopEarly | None = None
    """Ends bad trials at a stage's end; null lets all run to their end."""
    leave_out: bool = False
    """Leave out what does not cross (a method and a rule that contradict each other) and say so; false refuses it."""
    overrides: tuple[str, ...] = ()
    """`key.path=value`, for all trials; what a trial takes of the cluster is `runtime.num_workers` times
    `runtime.cpus_per_worker`, and a GPU each with `runtime.gpu`."""
    max_concurrent: int = Field(1, ge=1)
    """Trials at a time. Together their workers must leave Ray Data a CPU."""

    @field_validator("grid", "vary")
    @classmethod
    def _no_empty_axis(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        if empty := [key for key, values in grid.items() if not values]:
            raise ValueError(f"{', '.join(empty)}: no values, so there would be no trials; expected at least one")
        return grid

    @model_validator(mode="after")
    def _search_fits(self) -> "Sweep":
        search = self.search
        if search is None:
            return self
        if self.vary:
            raise ValueError("search: draws values where vary tries them one at a time; expected one of the two")
        if len(self.seeds) > 1:
            raise ValueError(
                "search: each point that is drawn is judged by one run; expected one seed (what the search chose is "
                "then run with several, in a sweep of its own)"
            )
        if unknown := [name for name in search.own if name not in self.methods]:
            raise ValueError(f"search.own.{unknown[0]}: none of this sweep's methods; they are {list(self.methods)}")
        for name in self.methods:
            space = {**search.space, **search.own.get(name, {})}
            if not space:
                raise ValueError(
                    f"search: nothing to draw for {name}; give search.space, or search.own.{name}, a key and its values"
                )
            if both := [key for key in space if key in self.grid]:
                raise ValueError(f"{both[0]}: stands in grid and in search; expected one of them")
        return self


def read_sweep(file: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        ConfigError: names file, key and value.
    """
    try:
        return Sweep.model_validate(read_settings(file))
    except ValidationError as error:
        raise ConfigError(f"{file}:\n{describe(error, schema=Sweep)}") from None
