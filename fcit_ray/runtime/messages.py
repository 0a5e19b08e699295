"""What the driver hands to a worker. Large values travel as handles: put once a round, fetched by who needs them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from fcit_ray.data.loading.shards import Shard
from fcit_ray.storage.trees import plain
from fcit_ray.types import ClientJob, Params

if TYPE_CHECKING:  # What encodes is imported by who encodes.
    from fcit_ray.data.loading.feature_maker import Item
    from fcit_ray.data.loading.features import Half
    from fcit_ray.data.loading.samples import SampleEncoder


class ValueLost(Exception):
    """What a handle stands for went with the process that put it, or its node."""


class Store(Protocol):
    """Shared memory for values that several workers need; `Any` handles are picklable."""

    def put(self, value: Any) -> Any: ...

    def get(self, handles: Sequence[Any]) -> list[Any]:
        """The values.

        Raises:
            ValueLost: one of them is gone.
        """
        ...


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


def job_of(work: TrainWork, store: Store) -> ClientJob:
    """The whole job, with what travels by handle.

    Raises:
        ValueLost: the driver is gone.
    """
    beside = {"knowledge": work.knowledge, "local": work.local}
    told = {name: handle for name, handle in beside.items() if handle is not None}
    values = store.get([*work.params, *told.values()])
    params, trees = values[: len(work.params)], values[len(work.params) :]
    return replace(work.job, params=merge(params), memory=plain(work.job.memory), **dict(zip(told, trees, strict=True)))


def merge(parts: Sequence[Params]) -> Params:
    """Mappings that together are one."""
    return {name: value for part in parts for name, value in part.items()}


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
class FeatureWork:
    """Compute identity features.

    Attributes:
        encoder: of the records that they are of.
        half: of texts or of pictures.
        items: what is encoded; the result is float32 (N, D), in their order.
    """

    encoder: "SampleEncoder"
    half: "Half"
    items: "Sequence[Item]"


@dataclass(frozen=True)
class Over:
    """Instead of work: the run has ended, the worker may go."""
