"""What is wrong with records, and how a file is refused for it."""

from collections.abc import Iterable
from dataclasses import dataclass

from fcit_ray.errors import DataError

NUM_SHOWN = 5
"""Offenders spelled out in an error; the rest is counted."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one record: its position in its file, its id, and the reason."""

    index: int
    id: str
    reason: str

    def __str__(self) -> str:
        return f"record {self.index} (id {self.id!r}): {self.reason}"


def refuse(place: str, faults: Iterable[object], total: int, what: str = "records") -> None:
    """Raise one error for all faults of a file, if there are any: the first spelled out, the rest counted.

    Raises:
        DataError: there are faults.
    """
    found = list(faults)
    if not found:
        return
    more = f"\n  and {len(found) - NUM_SHOWN} more" if len(found) > NUM_SHOWN else ""
    raise DataError(
        f"{place}: {len(found)} of {total} {what} cannot be used:\n  " + "\n  ".join(map(str, found[:NUM_SHOWN])) + more
    )
