"""One federated run as two pure functions of the server's state: plan a round, close a round.

`simulate` is the reference loop: all of it in one process. Whatever runs the clients elsewhere (the Ray runtime)
must give its bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from fcit_ray.aggregation import Aggregation
from fcit_ray.local_optim import LocalRule, Plain
from fcit_ray.methods.base import Method
from fcit_ray.models.names import adapter_index
from fcit_ray.seeds import derive_seed
from fcit_ray.server_optim import ServerOptimizer
from fcit_ray.types import Assignment, Client, ClientJob, ClientUpdate, Params, ServerState, Setting


class Population(Protocol):
    """Who takes part."""

    def select(self, stage: int, round: int) -> Sequence[Client]:
        """The clients of a round, in the order in which they are aggregated; the same at every call."""
        ...


@dataclass(frozen=True)
class Federation:
    """The server's side of a run; holds nothing learned."""

    method: Method
    server: ServerOptimizer
    population: Population
    setting: Setting
    local: LocalRule = field(default_factory=Plain)
    aggregation: Aggregation = field(default_factory=Aggregation)

    def start(self, params: Params) -> ServerState:
        """The state before the first round, from the bank's initial parameters."""
        return ServerState(
            stage=0,
            round=0,
            params=params,
            knowledge=self.method.init(params, self.setting),
            optimizer=self.server.init(params),
            memories={},
            local=self.local.init(params),
        )

    def is_over(self, state: ServerState) -> bool:
        return state.stage >= self.setting.num_stages

    def plan(self, state: ServerState) -> list[ClientJob]:
        """The jobs of the next round, in the order in which `close` wants their updates."""
        assert not self.is_over(state), "a finished run has no next round"
        clients = self.aggregation.hide(self.population.select(state.stage, state.round), self.setting.seed)
        assignments = self.method.assign(state.knowledge, state.stage, clients)
        knowledge = self.method.brief(state.knowledge)
        travels = [travelling(state.params, assignment) for assignment in assignments]
        return [
            ClientJob(
                stage=state.stage,
                round=state.round,
                client=client,
                assignment=assignment,
                params=params,
                knowledge=knowledge,
                local=self.local.brief(state.local, params),
                memory=state.memories.get(str(client.index), {}),
                seed=derive_seed(self.setting.seed, "client", state.stage, state.round, client.index),
            )
            for client, assignment, params in zip(clients, assignments, travels, strict=True)
        ]

    def close(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """The state after the round whose updates these are, in the order of `plan`."""
        assert all((u.stage, u.round) == (state.stage, state.round) for u in updates), "updates of another round"
        # Sums in another order have other bits, and a missing client would go unnoticed.
        planned = [client.index for client in self.population.select(state.stage, state.round)]
        assert [u.client.index for u in updates] == planned, (
            f"updates not of clients {planned} in the order of the plan"
        )
        seed = derive_seed(self.setting.seed, "server", state.stage, state.round)
        delta = self.aggregation.combine(state.params, updates, seed)
        knowledge = self.method.absorb(state.knowledge, updates)
        params, optimizer = self.server.step(state.params, delta, state.optimizer)
        local = self.local.absorb(state.local, updates, self.setting)
        memories = {**state.memories, **{str(u.client.index): u.memory for u in updates if u.memory}}
        after = replace(state, params=params, knowledge=knowledge, optimizer=optimizer, memories=memories, local=local)
        if state.round + 1 < self.setting.num_rounds:
            return replace(after, round=state.round + 1)
        consolidated = self.method.consolidate(knowledge, params, state.stage)
        optimizer = self.server.new_stage(params, optimizer)
        return replace(after, stage=state.stage + 1, round=0, knowledge=consolidated, optimizer=optimizer)


def travelling(params: Params, assignment: Assignment) -> dict[str, Tensor]:
    """What a client needs of the global parameters: its adapters, and what all clients share."""
    adapters = {None, *assignment.train, *assignment.frozen}
    return {name: value for name, value in params.items() if adapter_index(name) in adapters}


def simulate(federation: Federation, params: Params, train: Callable[[ClientJob], ClientUpdate]) -> ServerState:
    """Run the whole stream in this process, one client after another."""
    state = federation.start(params)
    while not federation.is_over(state):
        state = federation.close(state, [train(job) for job in federation.plan(state)])
    return state
