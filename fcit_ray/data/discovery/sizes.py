"""Numbers of a run that fit the data found: a first run is to end in minutes on the tiny model, and to work at once."""

from dataclasses import dataclass

from fcit_ray.data.discovery.found import Found
from fcit_ray.errors import DataError

_MOST_CLIENTS = 10
_RECORDS_A_CLIENT = 20
"""Clients with fewer records than this learn little in a round; with more data there are more clients, up to ten."""
_TINY_IMAGE_TOKENS = 16
_TINY_POSITIONS = 1024
_TEMPLATE = 64
_ROUND_TO = 64


@dataclass(frozen=True)
class Sizes:
    """Of a run.

    Attributes:
        num_clients: of the federation.
        clients_per_round: of them.
        min_samples: every client has at least so many records of a task.
        max_length: tokens a record may have.
        max_new_tokens: of an answer.
    """

    num_clients: int
    clients_per_round: int
    min_samples: int
    max_length: int
    max_new_tokens: int


def fitting_sizes(found: Found, model: str) -> Sizes:
    """Sizes that every task's data suffice for.

    Args:
        found: the data.
        model: as `model.path`; of the tiny one the lengths are known.

    Raises:
        DataError: a data set is too small to be shared out.
    """
    least = min(found.datasets, key=lambda dataset: dataset.num_trained)
    records = least.num_trained
    if records < 2:
        raise DataError(f"{least.name}: {records} training records are too few to be shared out over clients")
    clients = min(_MOST_CLIENTS, max(2, records // _RECORDS_A_CLIENT))
    held = [len(dataset.group.parts["train"]) for dataset in found.datasets if dataset.group.clients]
    if held and len(held) == len(found.datasets):
        clients = min(held)
    pairs = [pair for d in found.datasets for tables in d.group.parts.values() for t in tables for pair in t.pairs]
    longest = max(
        sum(len(text.encode()) for pair in record.pairs for text in pair) + _TEMPLATE * len(record.pairs)
        for d in found.datasets for tables in d.group.parts.values() for t in tables for record in t.seen
    )  # fmt: skip
    answer = max(len(answer.encode()) for _, answer in pairs)
    length = 2048
    if model == "tiny":  # no tokenizer makes more tokens than there are bytes
        length = min(_TINY_POSITIONS, max(256, _rounded(longest + _TINY_IMAGE_TOKENS, _ROUND_TO)))
    return Sizes(
        num_clients=clients,
        clients_per_round=max(1, (clients + 1) // 2),
        min_samples=max(1, min(10, records // (4 * clients))),
        max_length=length,
        max_new_tokens=min(128, max(8, _rounded(answer + 2, 8))),
    )


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step
