"""What the driver hands to a worker. Large values travel as handles: put once a round, fetched by who needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fcit_ray.data.loading.shards import Shard
from fcit_ray.types import ClientJob


class Store(Protocol):
    """Shared memory for values that several workers need; `Any` handles are picklable."""

    def put(self, value: Any) -> Any: ...

    def get(self, handles: Sequence[Any]) -> list[Any]: ...


class DirectStore:
    """The store of one process: the value is its own handle."""

    def put(self, value: Any) -> Any:
        return value

    def get(self, handles: Sequence[Any]) -> list[Any]:
        return list(handles)


@dataclass(frozen=True)
class TrainWork:
    """Train one client.

    Attributes:
        job: without `params`, `knowledge` and `local`, which are fetched.
        params: handles of mappings that together are the job's params.
        knowledge: handle of the job's knowledge; None if there is none.
        local: handle of what the local rule tells; None if it tells nothing.
        shard: the client's records.
    """

    job: ClientJob
    params: Sequence[Any]
    knowledge: Any
    shard: Shard
    local: Any = None


@dataclass(frozen=True)
class AnswerWork:
    """Answer one piece of a test set.

    Attributes:
        version: names the state; a worker that has packed it already need not again.
        params: handles of mappings that together are all global parameters.
        knowledge: handle of the method's knowledge.
        dataset: for messages.
        shard: the prompts.
        stage: after which it is answered, for messages; -1 is zero-shot.
    """

    version: int
    params: Sequence[Any]
    knowledge: Any
    dataset: str
    shard: Shard
    stage: int = -1


@dataclass(frozen=True)
class Over:
    """Instead of work: the run has ended, the worker may go."""
