"""All workers of a run or crew: a Ray Train group of those it begins with for each part of its shape, and who joins."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fcit_ray.runtime.asking import AsksRay
from fcit_ray.runtime.groups import run_group
from fcit_ray.runtime.joining import Leader, let_join
from fcit_ray.runtime.shape import FIRST_RANK, SHARE, Shape


def run_parts(
    loop: Callable[[dict[str, Any]], None],
    context: Mapping[str, Any],
    shape: Shape,
    *,
    storage: Path,
    name: str,
    leader: Leader,
    ended: Callable[[str], None],
) -> None:
    """Run the workers of a shape to their end; as `run_group`, but for parts that differ, and workers that may be late.

    Args:
        loop: what each worker runs, with `context`, its group's `FIRST_RANK` and its `SHARE`.
        context: handed to the loop.
        shape: of all groups.
        storage: folder for Ray Train's own files.
        name: of the groups in it.
        leader: whom they serve; told of workers that have died.
        ended: told as each group of the first workers ends, and why; from a thread of the group's, where there are
            several.
    """

    def run(number: int, first: int, part: Shape) -> None:
        ended(
            run_group(
                loop,
                {**context, FIRST_RANK: first, SHARE: part.share if part.gpu else 1.0},
                part,
                storage=storage,
                name=f"{name}-{number}" if shape.groups else name,
                lost=leader.told_of(first),
            )
        )

    over = threading.Event()
    numbered = [(number, rank, part.first) for number, (rank, part) in enumerate(shape.ranked())]
    own, *others = [args for args in numbered if args[-1].num_workers]
    threads = [AsksRay(target=run, args=args) for args in others]
    late = AsksRay(target=let_join, args=(loop, context, shape, leader, over))
    if any(shape.others()):
        late.start()
    for thread in threads:
        thread.start()
    run(*own)
    for thread in threads:
        thread.join()
    over.set()
    if any(shape.others()):
        late.join()
