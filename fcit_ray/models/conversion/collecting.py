"""Which tensors the files of a checkpoint hold, by the names that they will have, and whether they are the model's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcit_ray.models.conversion.convert import report
from fcit_ray.models.conversion.tensor_files import reading

BUFFERS = re.compile(r"(?:rotary_emb\.inv_freq|\.position_ids)$")  # every version of transformers computes them anew


def collect(
    files: list[Path], rename: Any, origin: dict[str, tuple[Path, str]], shapes: dict[str, tuple[int, ...]]
) -> list[str]:
    """Add what is in the files; return the names that came twice."""
    twice = []
    for file in files:
        with reading(file) as tensors:
            for name, shape in tensors.shapes().items():
                new = rename(name)
                if new is None:
                    continue
                if new in origin:
                    twice.append(name)
                origin[new] = (file, name)
                shapes[new] = shape
    return twice


def compare(
    source: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], twice: list[str]
) -> None:
    """Refuse a checkpoint whose tensors are not those that the model has.

    Raises:
        ModelError: names what is missing, unexpected, given twice or of another shape.
    """
    both = expected.keys() & found.keys()
    report(
        source,
        missing=expected.keys() - found.keys(),
        unexpected=found.keys() - expected.keys(),
        given_twice=twice,
        of_another_shape=[f"{n} {found[n]} for {expected[n]}" for n in both if found[n] != expected[n]],
    )
