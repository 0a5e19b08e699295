"""FCIT's datasets as its catalog declares them, and roots in their layout."""

from pathlib import Path

from fcit_ray.config.catalogs import catalog
from fcit_ray.data.records.collection import Collection

FCIT = catalog("fcit")


def fcit(root: Path | str) -> Collection:
    """The datasets of FCIT under a root."""
    return Collection.of_catalog(str(root))
