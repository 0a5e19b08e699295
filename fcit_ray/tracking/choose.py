"""The trackers that a configuration names, made and looked over before anything starts."""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

from fcit_ray.config.mistakes import nearest
from fcit_ray.config.schema import Config
from fcit_ray.config.tracking import Tracking
from fcit_ray.errors import ConfigError
from fcit_ray.tracking.tracker import Tracker

TRACKERS = {
    "tensorboard": ("fcit_ray.tracking.tensorboard", "TensorBoard", "tensorboardX"),
    "wandb": ("fcit_ray.tracking.wandb", "WeightsAndBiases", "wandb"),
    "mlflow": ("fcit_ray.tracking.mlflow", "Mlflow", "mlflow"),
}
"""Module, class and package of each built-in tracker."""


def check_trackers(configs: Iterable[Config]) -> None:
    """Refuse trackers that could not work: an unknown name, a package that is missing, no credentials.

    Args:
        configs: of runs; what several have in common is looked at once.

    Raises:
        ConfigError: a line for every mistake.
    """
    seen: list[Tracking] = []
    for config in configs:
        if config.tracking not in seen:
            seen.append(config.tracking)
    mistakes: dict[str, None] = {}
    for tracking in seen:
        for name in tracking.report_to:
            try:
                make_tracker(name, tracking).check()
            except ConfigError as error:
                mistakes[str(error)] = None
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def make_tracker(name: str, tracking: Tracking) -> Tracker:
    """The tracker of a name.

    Args:
        name: of `tracking.report_to`.
        tracking: the section.

    Raises:
        ConfigError: no such name or class, or a package is missing.
    """
    if name in TRACKERS:
        module, attribute, package = TRACKERS[name]
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:  # without origin: a folder of that name, as wandb makes one
            extra = "" if name == "tensorboard" else f"; pip install 'fcit_ray[{name}]'"
            raise ConfigError(f"tracking.report_to: {name} needs the package {package}, which is not installed{extra}")
        made: Tracker = getattr(importlib.import_module(module), attribute)(tracking)
        return made
    return _own(name, tracking.options.get(name, {}))


def _own(name: str, options: dict[str, Any]) -> Tracker:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            f"tracking.report_to: unknown {name!r}; one of {', '.join(TRACKERS)}, or module:Class of your own"
            + nearest(name, TRACKERS)
        )
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the latter two: no module's name at all
        raise ConfigError(f"tracking.report_to: cannot import {name!r}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Tracker)):
        raise ConfigError(f"tracking.report_to: {name!r} is not derived from fcit_ray.tracking.tracker.Tracker")
    try:
        tracker: Tracker = cls(**options)
    except TypeError as error:
        raise ConfigError(f"tracking.options.{name}: {error}") from error
    return tracker
