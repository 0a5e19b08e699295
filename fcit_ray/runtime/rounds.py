"""A round on its way out to the workers, and the record of one that has come back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fcit_ray.data.loading.shards import ShardSource
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.models.names import adapter_index
from fcit_ray.params import Lazy, norm, tree_bytes
from fcit_ray.runtime.messages import Store, TrainWork
from fcit_ray.types import ClientJob, ClientUpdate, ServerState


def train_works(state: ServerState, jobs: Sequence[ClientJob], store: Store, shards: ShardSource) -> list[TrainWork]:
    """The jobs of a round as work for the workers: values once in shared memory, however many clients fetch them."""
    groups: dict[int | None, dict[str, Any]] = {}
    for name, value in state.params.items():
        groups.setdefault(adapter_index(name), {})[name] = value
    needed = {index for job in jobs for index in (None, *job.assignment.train, *job.assignment.frozen)}
    handles = {index: store.put(group) for index, group in groups.items() if index in needed}
    knowledge = store.put(jobs[0].knowledge) if jobs[0].knowledge else None
    told = {id(job.local): job.local for job in jobs if job.local}  # one for all clients of an assignment
    local = {key: store.put(value) for key, value in told.items()}
    return [
        TrainWork(
            job=replace(job, params={}, knowledge={}, local={}),
            params=[
                handles[index] for index in (None, *job.assignment.train, *job.assignment.frozen) if index in handles
            ],
            knowledge=knowledge,
            shard=shards.train_shard(job.client.task, job.client.index),
            local=local.get(id(job.local)),
        )
        for job in jobs
    ]


def round_record(
    state: ServerState,
    jobs: Sequence[ClientJob],
    updates: Sequence[ClientUpdate],
    after: ServerState,
    tasks: Sequence[str],
    lora: LoraRule,
    bytes_up: int,
) -> dict[str, Any]:
    """What metrics.jsonl says of a round, but for privacy and time.

    Args:
        state: before the round.
        jobs: of the round.
        updates: what came back, in their order.
        after: the state after it.
        tasks: names, by index.
        lora: which counts the bytes that a client is sent.
        bytes_up: that all clients sent.
    """
    # What nobody trained is the same tensor, and adds nothing to the norm.
    names = [name for name, value in state.params.items() if after.params[name] is not value]
    moved = Lazy(names, lambda name: after.params[name] - state.params[name])
    examples = sum(update.client.num_examples for update in updates)
    clients = [
        {
            "client": update.client.index,
            "task": tasks[update.client.task],
            "num_examples": update.client.num_examples,
            "trained": list(update.assignment.train),
            **update.metrics,
        }
        for update in updates
    ]
    loss = sum(u.metrics["loss"] * u.client.num_examples for u in updates) / examples
    return {
        "kind": "round",
        "stage": state.stage,
        "round": state.round,
        "loss": loss,
        "global_delta_norm": norm(moved),
        "bytes_down": sum(lora.bytes_down(j.params, j.client) + tree_bytes(j.knowledge, j.local) for j in jobs),
        "bytes_up": bytes_up,
        "clients": clients,
    }
