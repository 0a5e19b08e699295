"""A configuration as users name it: shipped ones and files of their own, merged, with overrides."""

from collections.abc import Sequence
from pathlib import Path

from fcit_ray.config import reading
from fcit_ray.config.schema import Config
from fcit_ray.config.shipped import find_config
from fcit_ray.experiment.components import check_names


def load_config(*names: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a configuration: what is named merges from left to right, then come the overrides.

    `load_config("miniature", "disco", overrides=["train.epochs=2"])` is what `fcit-ray run miniature disco
    train.epochs=2` runs.

    Args:
        *names: shipped configurations by name (`fcit-ray list configs`), or YAML files.
        overrides: `key.path=value`, the value read as YAML.

    Returns:
        The configuration, complete, checked and frozen. The keys of a method or rule are checked when it is run.

    Raises:
        ConfigError: names every key, name or file that cannot be used, and what was probably meant.
    """
    config = reading.load_config([find_config(name) for name in names], overrides)
    check_names(config)
    return config
