"""What `prepare check` and `prepare parquet` look at: a root of a known benchmark, or what a configuration declares."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcit_ray.cli.arguments import configs_like, split_overrides
from fcit_ray.config.shipped import shipped
from fcit_ray.errors import UserError

if TYPE_CHECKING:
    from fcit_ray.data.records.collection import Collection

Data = Annotated[
    str,
    typer.Argument(
        help="A configuration (its file, or a shipped one's name), whose declared data sets are meant; or the root of "
        "a known benchmark (--catalog).",
        autocompletion=configs_like,
    ),
]
Catalog = Annotated[
    str | None,
    typer.Option(help="With a root: the benchmark whose layout it has (default: fcit).", show_default=False),
]


@dataclass(frozen=True)
class Declared:
    """Data to look at.

    Attributes:
        collection: the datasets and their root.
        names: those that are asked for; none means all that are there.
        partition: the folder of the clients' files that the configuration takes, where it takes such.
    """

    collection: "Collection"
    names: tuple[str, ...]
    partition: Path | None = None


def declared_data(data: str, words: Sequence[str], datasets: Sequence[str], catalog: str | None) -> Declared:
    """What the arguments name.

    Args:
        data: a root, or a configuration.
        words: what follows it: names of datasets, and overrides where it is a configuration.
        datasets: further names of datasets.
        catalog: of a root.

    Raises:
        UserError: it cannot be told which is meant, or something does not belong together.
        ConfigError, DataError: no such configuration, key, catalog or dataset.
    """
    from fcit_ray.data.records.collection import Collection

    names, overrides = split_overrides(words)
    names = list(dict.fromkeys([*names, *datasets]))
    if not _is_config(data):
        if overrides:
            raise UserError(f"{overrides[0]}: an override goes with a configuration; {data} is taken for a data root")
        return Declared(Collection.of_catalog(data, catalog or "fcit"), tuple(names))
    if catalog is not None:
        raise UserError(f"--catalog {catalog}: goes with a root; a configuration says benchmark.catalog itself")
    from fcit_ray.experiment.loading import load_config

    config = load_config(data, overrides=overrides)
    everything = Collection.of(config.benchmark, config.seed)
    for name in names:
        everything[name]
    meant = names or list(dict.fromkeys([*config.benchmark.evaluated_datasets, *config.benchmark.datasets]))
    # Each is expected to be there, also one that a catalog has.
    chosen = replace(everything, datasets={name: everything[name] for name in meant})
    return Declared(chosen, tuple(meant), None if names else config.benchmark.partition_files)


def _is_config(data: str) -> bool:
    """Whether a word means a configuration rather than a root.

    Raises:
        UserError: it could be both.
    """
    if data.endswith((".yaml", ".yml")) and not os.path.isdir(data):
        return True
    if data not in shipped():
        return False
    if Path(data).is_dir():
        raise UserError(f"{data}: is a shipped configuration and a folder here; write ./{data} for the folder")
    return True
