"""The datasets of known benchmarks, declared in files that come with the package (`configs/catalogs/`)."""

from collections.abc import Mapping
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from fcit_ray.config.datasets import Dataset
from fcit_ray.config.mistakes import describe, nearest
from fcit_ray.config.shipped import configs_folder
from fcit_ray.errors import ConfigError
from fcit_ray.storage.plain_yaml import YamlError, read_yaml

_DECLARED: TypeAdapter[dict[str, Dataset]] = TypeAdapter(dict[str, Dataset])


def catalog_names() -> list[str]:
    """The catalogs there are, FCIT's first."""
    names = sorted(file.stem for file in (configs_folder() / "catalogs").glob("*.yaml"))
    return sorted(names, key=lambda name: name != "fcit")


@lru_cache(maxsize=16)
def catalog(name: str) -> Mapping[str, Dataset]:
    """A catalog's datasets by name.

    Raises:
        ConfigError: no such catalog, or its file was spoiled.
    """
    if name not in catalog_names():
        raise ConfigError(
            f"unknown catalog {name!r}; known: {', '.join(catalog_names())}{nearest(name, catalog_names())}"
        )
    file = configs_folder() / "catalogs" / f"{name}.yaml"
    try:
        return _DECLARED.validate_python(read_yaml(file.read_bytes()))
    except YamlError as error:
        raise ConfigError(f"{file}: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{file}: {describe(error)}") from None
