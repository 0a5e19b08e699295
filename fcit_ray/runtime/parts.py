"""Workers that differ in what they take of the cluster: a Ray Train worker group for each part of a shape, at once."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fcit_ray.runtime.groups import run_group
from fcit_ray.runtime.shape import FIRST_RANK, SHARE, Shape
from fcit_ray.runtime.train_group import TellLost


def run_parts(
    loop: Callable[[dict[str, Any]], None],
    context: Mapping[str, Any],
    shape: Shape,
    *,
    storage: Path,
    name: str,
    lost: Callable[[int], TellLost],
    ended: Callable[[str], None],
) -> None:
    """Run the worker groups of a shape to their end; as `run_group`, but that it takes parts that differ.

    Args:
        loop: what each worker runs, with `context`, its group's `FIRST_RANK` and its `SHARE`.
        context: handed to the loop.
        shape: of all groups.
        storage: folder for Ray Train's own files.
        name: of the groups in it.
        lost: makes who is told of workers that have died, of a first rank.
        ended: told as each group ends, and why; from a thread of the group's, where there are several.
    """

    def run(number: int, first: int, part: Shape) -> None:
        ended(
            run_group(
                loop,
                {**context, FIRST_RANK: first, SHARE: part.share if part.gpu else 1.0},
                part,
                storage=storage,
                name=f"{name}-{number}" if shape.groups else name,
                lost=lost(first),
            )
        )

    [(first, own), *others] = shape.ranked()
    threads = [
        threading.Thread(target=run, args=(number, rank, part), daemon=True)
        for number, (rank, part) in enumerate(others, start=1)
    ]
    for thread in threads:
        thread.start()
    run(0, first, own)
    for thread in threads:
        thread.join()
