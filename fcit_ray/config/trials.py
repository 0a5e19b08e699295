"""From a sweep file to its trials: checked configurations, each with a run folder, gathered into studies.

A study is what is compared: the trials of one method in one setting with one seed, which differ in what is tried.
"""

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fcit_ray.config.reading import load_config
from fcit_ray.config.schema import Config, with_absolute_paths
from fcit_ray.config.section import MOST_LETTERS
from fcit_ray.config.shipped import find_config
from fcit_ray.config.space import Space, corners
from fcit_ray.config.sweep import Sweep, read_sweep
from fcit_ray.errors import ConfigError
from fcit_ray.seeds import derive_seed
from fcit_ray.storage.file_names import file_name

_DRAWS = 100  # after which a space is taken to be used up

Point = Mapping[str, Any]
"""Values by dotted key."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        folder: its run folder, below the sweep's.
        config: complete.
        study: name of the study that it belongs to.
        point: what is tried, by dotted key.
    """

    folder: str
    config: Config
    study: str = ""
    point: Point | None = None


@dataclass(frozen=True)
class Study:
    """The trials of one method in one setting with one seed.

    Attributes:
        label: row of the method in tables, without what is tried.
        group: setting and point of the benchmark's grid; its trials share a table. Empty where there is one table.
        files: configurations, merged in order.
        overrides: for all trials, `key.path=value`.
        seed: of the runs.
        points: what is tried, where that is known beforehand.
        space: what is drawn from, where it is not.
        num_trials: of the search; of a grid the number of its points.
        draws: seed of the search's draws.
        defaults_first: whether the first point is what the configuration has anyway.
    """

    label: str
    group: str
    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    seed: int
    points: tuple[Point, ...]
    space: Mapping[str, Space]
    num_trials: int
    draws: int = 0
    defaults_first: bool = False

    @property
    def name(self) -> str:
        """Tells the studies of a sweep apart."""
        return " ".join([*filter(None, [self.group]), self.label, f"seed {self.seed}"])

    def point(self, number: int) -> Point:
        """What the trial of this number tries: of the grid, or drawn at random from (seed, study, number)."""
        return self.points[number] if not self.space else self._drawn(number + 1)[number]

    def _drawn(self, count: int) -> list[Point]:
        """The first points of a random search, none twice; a point depends on its number and on those before alone."""
        points: list[Point] = [self._defaults()] if self.defaults_first else []
        for number in range(len(points), count):
            for again in range(_DRAWS):
                source = random.Random(derive_seed(self.draws, "search", self.name, number, again))
                point = {key: values.draw(source) for key, values in self.space.items()}
                if point not in points:
                    points.append(point)
                    break
            else:
                raise ConfigError(
                    f"search.trials: {count} asked for, but the space has not many more than {len(points)} points; "
                    "expected fewer trials, or a larger space"
                )
        return points

    def _defaults(self) -> Point:
        """What the configuration has under the keys that are searched.

        Raises:
            ConfigError: it has no such key.
        """
        values = load_config(self.files, self.overrides).model_dump(mode="json")
        point = {}
        for key in self.space:
            value: Any = values
            for part in key.split("."):
                if not isinstance(value, Mapping) or part not in value:
                    raise ConfigError(
                        f"{key}: the configuration has no such key, so there is no default to try first; write it into "
                        "the method's file, or set search.defaults_first to false"
                    )
                value = value[part]
            point[key] = value
        return point

    def trial(self, point: Point) -> Trial:
        """The run that tries a point.

        Raises:
            ConfigError: a key or value that a configuration does not take.
        """
        chosen = [_override(key, value) for key, value in point.items()]
        config = load_config(self.files, [*self.overrides, *chosen, f"seed={self.seed}"])
        label = " ".join([self.label, *(_shown(key, value) for key, value in point.items())])
        if len(label) > MOST_LETTERS:  # long values: cut, and kept apart by a digest
            label = f"{label[: MOST_LETTERS - 9]}…{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        # Tune runs every trial in a directory of its own.
        config = with_absolute_paths(config.model_copy(update={"name": label}))
        own = file_name(f"{label}-seed{self.seed}".replace(" ", "_").lower())
        folder = f"{file_name(self.group.replace(' ', '_').lower())}/{own}" if self.group else own
        return Trial(folder, config, self.name, dict(point))

    def trials(self) -> Iterator[Trial]:
        """All trials that are known before any is run; of a search by Optuna those of a random one."""
        points = self._drawn(self.num_trials) if self.space else self.points
        return (self.trial(point) for point in points)


def load_sweep(file: Path, overrides: Sequence[str] = ()) -> tuple[Sweep, list[Study]]:
    """Read a sweep file and check every configuration that may come of it.

    Args:
        file: YAML.
        overrides: `key.path=value` for all trials, after the file's own.

    Raises:
        ConfigError: names file, key and value.
    """
    sweep = read_sweep(file)
    studies = list(_studies(sweep, overrides))
    folders: set[str] = set()
    for study in studies:
        try:
            ends = [study.trial(point) for point in corners(study.space)]
            trials = list(study.trials())
        except ConfigError as error:
            raise ConfigError(f"{file}: {study.name}: {error}") from None
        if sweep.stop_early and not all(trial.config.evaluation.every_stage for trial in [*trials, *ends]):
            raise ConfigError(
                f"{file}: {study.name}: evaluation.every_stage is false, so there is nothing to stop early by; set it "
                "to true, or stop_early to null"
            )
        mine = {trial.folder for trial in trials}
        if mine & folders or (not study.space and len(mine) < len(trials)):
            raise ConfigError(f"{file}: two trials would share a run folder; give the methods different names")
        folders |= mine
    return sweep, studies


def _studies(sweep: Sweep, overrides: Sequence[str]) -> Iterator[Study]:
    base = [find_config(name) for name in sweep.config]
    settings: dict[str, tuple[str, ...]] = sweep.settings or {"": ()}
    of_benchmark = {key: values for key, values in sweep.grid.items() if key.partition(".")[0] == "benchmark"}
    of_run = {key: values for key, values in sweep.grid.items() if key not in of_benchmark}
    for setting, place, method, seed in itertools.product(settings, _points(of_benchmark), sweep.methods, sweep.seeds):
        files = (*base, *map(find_config, settings[setting]), find_config(method, "methods"))
        group = " ".join(filter(None, [setting, *(_shown(key, value) for key, value in place.items())]))
        given = (*sweep.overrides, *overrides, *(_override(key, value) for key, value in place.items()))
        label = load_config(files, given).name
        if sweep.search is None:
            points = tuple(_points(of_run, sweep.vary))
            yield Study(label, group, files, given, seed, points, {}, len(points))
            continue
        search = sweep.search
        space = {**search.space, **search.own.get(method, {})}
        for point in _points(of_run):
            also = (*given, *(_override(key, value) for key, value in point.items()))
            name = " ".join([label, *(_shown(key, value) for key, value in point.items())])
            yield Study(name, group, files, also, seed, (), space, search.trials, search.seed, search.defaults_first)


def _points(grid: Mapping[str, Sequence[Any]], vary: Mapping[str, Sequence[Any]] | None = None) -> list[dict[str, Any]]:
    """Every combination of the grid's values, and each again with one of the varied values at a time."""
    crossed = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    alone = [{}, *({key: value} for key, values in (vary or {}).items() for value in values)]
    return [{**point, **one} for point in crossed for one in alone]


def _override(key: str, value: Any) -> str:
    # On one line, however long; a plain value is followed by a line that ends the document.
    return f"{key}={yaml.safe_dump(value, default_flow_style=True, width=math.inf).split(chr(10))[0]}"


def _shown(key: str, value: Any) -> str:
    """A key and its value in the name of a run: the last part of the key, a section by what it names."""
    if isinstance(value, Mapping) and "name" in value:
        rest = "".join(f" {inner}={of}" for inner, of in value.items() if inner != "name")
        value = f"{value['name']}{rest}"
    return f"{key.split('.')[-1]}={value}"
