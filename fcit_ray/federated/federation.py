"""One federated run as two pure functions of the server's state: plan a round, close a round.

`simulate` is the reference loop: all of it in one process. Whatever runs the clients elsewhere (the Ray runtime)
must give its bits.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from fcit_ray.errors import blaming, place
from fcit_ray.federated.admission import check_params, check_update
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.local_optim import LocalRule, Plain
from fcit_ray.federated.method import Method
from fcit_ray.federated.server_optim import ServerOptimizer
from fcit_ray.models.names import adapter_index, is_residual
from fcit_ray.seeds import client_seed, derive_seed
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
        with blaming("before the first round, method.init"):
            knowledge = self.method.init(params, self.setting)
        with blaming("before the first round, local.init"):
            local = self.local.init(params)
        return ServerState(
            stage=0,
            round=0,
            params=params,
            knowledge=knowledge,
            optimizer=self.server.init(params),
            memories={},
            local=local,
        )

    def is_over(self, state: ServerState) -> bool:
        return state.stage >= self.setting.num_stages

    def plan(self, state: ServerState) -> list[ClientJob]:
        """The jobs of the next round, in the order in which `close` wants their updates.

        Raises:
            RunFailed: a hook raised; names stage, round and hook.
        """
        assert not self.is_over(state), "a finished run has no next round"
        where = place(state.stage, state.round)
        clients = self.aggregation.hide(self.population.select(state.stage, state.round), self.setting.seed)
        with blaming(f"{where}, method.assign"):
            assignments = self.method.assign(state.knowledge, state.stage, clients)
        with blaming(f"{where}, method.brief"):
            knowledge = self.method.brief(state.knowledge)
        # Clients of one assignment are sent the same, and are told the same.
        keys = [(tuple(assignment.train), tuple(assignment.frozen)) for assignment in assignments]
        travels = {
            key: travelling(state.params, assignment)
            for key, assignment in dict(zip(keys, assignments, strict=False)).items()
        }
        with blaming(f"{where}, local.brief"):
            told = {key: self.local.brief(state.local, params) for key, params in travels.items()}
        return [
            ClientJob(
                stage=state.stage,
                round=state.round,
                client=client,
                assignment=assignment,
                params=travels[key],
                knowledge=knowledge,
                local=told[key],
                memory=state.memories.get(str(client.index), {}),
                seed=client_seed(self.setting.seed, state.stage, state.round, client.index),
            )
            for client, assignment, key in zip(clients, assignments, keys, strict=True)
        ]

    def admit(self, job: ClientJob, update: ClientUpdate, frozen: frozenset[str] = frozenset()) -> ClientUpdate:
        """An update as it arrives, before anything is made of it.

        Args:
            job: of `plan`.
            update: what came back for it.
            frozen: parameters that no client trains though all have them (a frozen projector).

        Raises:
            UpdateRefused: it cannot be averaged, or nothing was trained; names stage, round, client and parameter.
        """
        check_update(job, update, self.sent(job, frozen), must_move=not self.method.may_stand_still)
        return update

    def sent(self, job: ClientJob, frozen: frozenset[str] = frozenset()) -> frozenset[str]:
        """Names of the parameters whose change comes back for a job; `frozen` as in `admit`."""
        lora, trained = self.aggregation.lora, {None, *job.assignment.train}
        return frozenset(
            name
            for name in job.params
            if adapter_index(name) in trained
            and lora.trains(name)
            and not lora.stays(name)
            and not is_residual(name)
            and name not in frozen
        )

    @property
    def reads_deltas(self) -> bool:
        """Whether a hook looks at the deltas of a round beside the combination of them."""
        return any(part.reads_deltas and part.overrides("absorb") for part in (self.method, self.local))

    def close(
        self,
        state: ServerState,
        updates: Sequence[ClientUpdate],
        mean: Params | None = None,
        missing: Collection[int] = (),
    ) -> ServerState:
        """The state after the round whose updates these are.

        Args:
            state: before it.
            updates: in the order of `plan`.
            mean: as in `Aggregation.combine`.
            missing: indices of the clients that were left out: their updates did not come. Everything is over those
                that did: weights add up to one again, reports are theirs, a missing client keeps its memory.

        Raises:
            RunFailed: a hook raised, or the new parameters are not finite; names stage, round and hook or parameter.
        """
        assert all((u.stage, u.round) == (state.stage, state.round) for u in updates), "updates of another round"
        # Sums in another order have other bits, and a missing client would go unnoticed.
        planned = [client.index for client in self.population.select(state.stage, state.round)]
        planned = [index for index in planned if index not in missing]
        assert planned, "nobody's update has come"
        assert [u.client.index for u in updates] == planned, (
            f"updates not of clients {planned} in the order of the plan"
        )
        if mean is None and missing:
            mean = self._folded(state, updates)
        seed = derive_seed(self.setting.seed, "server", state.stage, state.round)
        where = place(state.stage, state.round)
        with blaming(f"{where}, the combination of the updates"):
            delta = self.aggregation.combine(state.params, updates, seed, mean)
        with blaming(f"{where}, method.absorb"):
            knowledge = self.method.absorb(state.knowledge, updates)
        with blaming(f"{where}, server.step"):
            params, optimizer = self.server.step(state.params, delta, state.optimizer)
        with blaming(f"{where}, local.absorb"):
            local = self.local.absorb(state.local, updates, self.setting)
        check_params(params, where)
        memories = {**state.memories, **{str(u.client.index): u.memory for u in updates if u.memory}}
        after = replace(state, params=params, knowledge=knowledge, optimizer=optimizer, memories=memories, local=local)
        if state.round + 1 < self.setting.num_rounds:
            return replace(after, round=state.round + 1)
        with blaming(f"{where}, method.consolidate"):
            # To be read: what a method changed here nobody would have looked at.
            consolidated = self.method.consolidate(knowledge, MappingProxyType(params), state.stage)
        with blaming(f"{where}, server.new_stage"):
            optimizer = self.server.new_stage(params, optimizer)
        return replace(after, stage=state.stage + 1, round=0, knowledge=consolidated, optimizer=optimizer)

    def _folded(self, state: ServerState, updates: Sequence[ClientUpdate]) -> Params | None:
        """The mean of a round of which some are missing, to the bits of a sum that began before that was known."""
        jobs = self.plan(state)
        fold = self.aggregation.fold([job.client for job in jobs], [self.sent(job) for job in jobs])
        if fold is None:
            return None
        for update in updates:
            fold.add(update)
        return fold.mean()


def travelling(params: Params, assignment: Assignment) -> dict[str, Tensor]:
    """What a client needs of the global parameters: its adapters, and what all clients share."""
    adapters = {None, *assignment.train, *assignment.frozen}
    return {name: value for name, value in params.items() if adapter_index(name) in adapters}


def simulate(
    federation: Federation,
    params: Params,
    train: Callable[[ClientJob], ClientUpdate],
    frozen: frozenset[str] = frozenset(),
) -> ServerState:
    """Run the whole stream in this process, one client after another; `frozen` as in `Federation.admit`.

    Raises:
        RunFailed: an update cannot be averaged, or a hook raised.
    """
    state = federation.start(params)
    while not federation.is_over(state):
        updates = [federation.admit(job, train(job), frozen) for job in federation.plan(state)]
        state = federation.close(state, updates)
    return state
