"""The messages that pass between server, clients and run folder.

All of them are values: frozen, picklable, no behaviour beyond what can be derived from the fields. `ServerState` is
everything the server has learned; saving it is the checkpoint.

Legend: D features of the frozen encoder, K adapters in the bank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Params = Mapping[str, Tensor]
"""Trainable parameters by name: float32, on the CPU."""

Tree = Mapping[str, Any]
"""Nested mappings with string keys whose leaves are tensors or JSON values: what a checkpoint can hold."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The sizes of one federated run.

    Attributes:
        num_stages: stages of the stream; 0 trains nothing (zero-shot).
        num_rounds: communication rounds in a stage.
        num_clients: clients in the federation, K in the paper.
        clients_per_round: clients selected in a round, without replacement.
        seed: every random draw of the run derives from it.
    """

    num_stages: int
    num_rounds: int
    num_clients: int
    clients_per_round: int
    seed: int


@dataclass(frozen=True)
class Client:
    """A client as the server sees it in one round.

    Attributes:
        index: position in the federation, from 0.
        task: the task of the stream whose shard it trains on in this stage (Het: clients differ).
        num_examples: records in that shard.
        feature: its identity token, the mean frozen feature of the shard's records, (D,).
    """

    index: int
    task: int
    num_examples: int
    feature: Tensor


@dataclass(frozen=True)
class Assignment:
    """What a client does with the adapter bank.

    Attributes:
        train: adapters it trains and sends back.
        frozen: adapters that take part in its forward pass without being trained.
    """

    train: tuple[int, ...]
    frozen: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClientJob:
    """One client's local training, complete but for its data.

    Attributes:
        params: the global values of the assigned adapters and of what all clients share; nothing else travels.
        knowledge: what the method's server tells its clients.
        local: what the local rule's server tells its clients.
        memory: what this client kept for itself last time, {} at first; keys `method`, `local` and `personal`.
        seed: for dropout and the order of the records.
    """

    stage: int
    round: int
    client: Client
    assignment: Assignment
    params: Params
    knowledge: Tree
    memory: Tree
    seed: int
    local: Tree = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, int]:
        """Names the job in the run: a second update under the same key is a late twin."""
        return (self.stage, self.round, self.client.index)


@dataclass(frozen=True, kw_only=True)
class ClientUpdate:
    """What a client sends back.

    Attributes:
        delta: local minus global, of what it trained and of nothing else: absence is meaning.
        report: what the method's server asked for beside it (e.g. a Fisher diagonal).
        local: what the local rule's server asked for (e.g. the change of a control variate).
        memory: what the client wants to find again when it is next selected.
        metrics: scalars for the run's log.
    """

    stage: int
    round: int
    client: Client
    assignment: Assignment
    delta: Params
    report: Tree = field(default_factory=dict)
    local: Tree = field(default_factory=dict)
    memory: Tree = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, int]:
        return (self.stage, self.round, self.client.index)


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """Everything the server knows, between two rounds.

    Attributes:
        stage: the stage of the next round, from 0; `num_stages` when the run is over.
        round: the next round in that stage, from 0.
        params: global values of every adapter and of what all clients share.
        knowledge: what the method remembers.
        optimizer: what the server optimiser remembers.
        local: what the local rule's server remembers.
        memories: clients' own memories by client index (as text: JSON keys are).
    """

    stage: int
    round: int
    params: Params
    knowledge: Tree
    optimizer: Tree
    memories: Tree
    local: Tree = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one test question.

    Attributes:
        question_id: as in the test file.
        prediction: generated text, stripped.
        answer: the reference; for captions the first of them.
        gate: weight of every adapter for this sample, (K,), or empty if the method mixes nothing.
    """

    question_id: str
    prediction: str
    answer: str
    gate: tuple[float, ...] = ()
