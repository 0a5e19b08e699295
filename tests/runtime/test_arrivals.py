"""Updates folded as they come give the bits of all together, in whatever order they come and wherever they wait."""

import gc
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SmallPopulation, small_setting
from torch import Tensor

from fcit_ray.errors import RunFailed
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.federation import Federation
from fcit_ray.federated.local_optim import Plain, Scaffold
from fcit_ray.federated.lora.fedex import FedEx
from fcit_ray.federated.lora.flora import FLoRA
from fcit_ray.federated.lora.hlora import HLoRA
from fcit_ray.federated.lora.zero_pad import ZeroPad
from fcit_ray.federated.method import Method
from fcit_ray.federated.privacy import DpFedAvg, Privacy
from fcit_ray.federated.robust import ClippedMean, Krum, Median, MultiKrum, Rule, TrimmedMean
from fcit_ray.federated.server_optim import FedAvg, FedAvgM
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import params_sha256
from fcit_ray.runtime import waiting
from fcit_ray.runtime.arrivals import Arrivals
from fcit_ray.runtime.waiting import WaitingRoom
from fcit_ray.types import Assignment, Client, ClientJob, ClientUpdate, ServerState

NAMES = {
    **{f"layer.lora_{f}.s{k}.weight": (4, 6) if f == "A" else (5, 4) for k in range(2) for f in "AB"},
    "layer.residual": (5, 6),
    "multi_modal_projector.weight": (37,),
}
FIVE = ((0, 1, 2, 3, 4),)


@dataclass(frozen=True, kw_only=True)
class Split(Finetune):
    """Every other client trains adapter 1."""

    declares = frozenset()

    def num_adapters(self, setting):
        return 2

    def assign(self, knowledge, stage, clients):
        return [Assignment(train=(client.index % 2,)) for client in clients]


@dataclass(frozen=True, kw_only=True)
class Curious(Split):
    """Its server sums the deltas itself, after the round."""

    def absorb(self, knowledge, updates):
        return {"sum": sum(update.delta["multi_modal_projector.weight"].sum() for update in updates)}


def federation(method: Method | None = None, local: Any = None, server: Any = None, **aggregation: Any) -> Federation:
    return Federation(
        method or Split(), server or FedAvg(), SmallPopulation(FIVE), small_setting(1, 1, len(FIVE[0]), 3),
        local or Plain(), Aggregation(**aggregation),
    )  # fmt: skip


def tensors(names: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tuple(shape), generator=draw) for name, shape in names.items()}


def begun(run: Federation) -> tuple[ServerState, list[ClientJob]]:
    state = run.start(tensors(NAMES, 0))
    if isinstance(run.local, Scaffold):
        state = replace(state, local={"c": tensors(NAMES, 1)})
    return state, run.plan(state)


def answered(run: Federation, job: ClientJob) -> ClientUpdate:
    """What a client might send: all that its assignment and the parts of the algorithm ask for."""
    seed, sent = 10 + job.client.index, {name: NAMES[name] for name in job.params if name in run.sent(job)}
    count = min(50, job.client.num_examples)
    fisher = {n: v.square() for n, v in tensors(sent, seed + 100).items()}
    return ClientUpdate(
        stage=0, round=0, client=job.client, assignment=job.assignment, delta=tensors(sent, seed),
        report={"fisher": fisher, "num_records": count} if isinstance(run.method, Ewc) else {},
        local={"c": tensors(sent, seed + 200)} if isinstance(run.local, Scaffold) else {},
        memory={"local": {"c": tensors(sent, seed + 300)}}, metrics={"loss": 1.0},
    )  # fmt: skip


def closed(run: Federation, order: Sequence[int], room: WaitingRoom, missing: Sequence[int] = ()) -> ServerState:
    """The state after a round whose updates come in an order, each twice, and some do not."""
    state, jobs = begun(run)
    arrivals = Arrivals(run, jobs, room)
    light = {}
    for position in order:
        for _ in range(2):
            if position in missing:
                arrivals.leave_out(jobs[position])
            else:
                light[position] = arrivals.take(jobs[position], answered(run, jobs[position]), frozenset())
    after = run.close(state, [light[position] for position in sorted(light)], arrivals.mean(), missing)
    return replace(after, memories={key: {"c": dict(memory["local"]["c"])} for key, memory in after.memories.items()})


def flat(tree: Any, path: str = "") -> dict[str, Tensor]:
    if isinstance(tree, Mapping):
        return {name: value for key in tree for name, value in flat(tree[key], f"{path}/{key}").items()}
    return {path: tree if isinstance(tree, Tensor) else torch.tensor(tree)}


def bits(state: ServerState) -> str:
    parts = ("params", "knowledge", "optimizer", "local", "memories")
    return params_sha256(flat({part: getattr(state, part) for part in parts}))


@dataclass(frozen=True, kw_only=True)
class Halved(Rule):
    """A user's rule: half of what the first sent."""

    def combine(self, items, weights):
        return {name: value / 2 for item in reversed(items) for name, value in item.items()}


@dataclass(frozen=True, kw_only=True)
class Shorter(Privacy):
    """A user's: everybody's delta as long as the shortest; it has to see all."""

    declares = frozenset({Trait.CLIPS})

    def clip(self, updates):
        least = min(float(update.delta["multi_modal_projector.weight"].norm()) for update in updates)
        return [replace(u, delta={name: value * least for name, value in u.delta.items()}) for u in updates]


RUNS = {
    "mean": federation(),
    "uniform": federation(weights="uniform", server=FedAvgM()),
    "disco": federation(Disco(num_subspaces=2)),
    "reads deltas": federation(Curious()),
    "dp": federation(weights="uniform", privacy=DpFedAvg(clip_norm=0.5)),
    "own clip": federation(privacy=Shorter()),
    "own rule": federation(rule=Halved()),
    "median": federation(rule=Median()),
    "trimmed": federation(rule=TrimmedMean(drop_frac=0.4)),
    "krum": federation(Finetune(), rule=Krum()),
    "multi-krum": federation(rule=MultiKrum(num_attackers=0)),
    "clipped": federation(rule=ClippedMean()),
    "scaffold": federation(local=Scaffold()),
    "ewc": federation(Ewc()),
    "flora": federation(Finetune(), lora=FLoRA(ranks=(2, 4))),
    "fedex": federation(Finetune(), lora=FedEx()),
    "hlora": federation(Finetune(), lora=HLoRA(ranks=(1, 4, 2))),
    **{f"zero_pad {w}": federation(lora=ZeroPad(weights=w, ranks=(2, 4))) for w in ("samples", "norm", "dimension")},
}
FOLDED = ("mean", "uniform", "disco", "reads deltas", "dp", "scaffold", "ewc")


@pytest.mark.parametrize("name", RUNS)
def test_folded_or_waiting_the_bits_are_those_of_all_together(tmp_path: Path, name: str) -> None:
    run = RUNS[name]
    state, jobs = begun(run)
    expected = bits(run.close(state, [answered(run, job) for job in jobs]))
    assert (run.aggregation.fold([job.client for job in jobs], [run.sent(job) for job in jobs]) is None) == (
        name not in FOLDED
    )
    for order in [*itertools.islice(itertools.permutations(range(5)), 0, None, 17), (4, 3, 2, 1, 0)]:
        for stays in (0, 3000, 2**20):
            with WaitingRoom(tmp_path, stays) as room:
                # The memories' layout differs between the two sides, not their bits.
                found = closed(run, order, room)
            assert bits(replace(found, memories={k: {"local": v} for k, v in found.memories.items()})) == expected


class Fewer(SmallPopulation):
    """The same clients, but for some."""

    def __init__(self, missing: Sequence[int]):
        super().__init__(FIVE)
        self.missing = missing

    def select(self, stage: int, round: int) -> list[Client]:
        return [client for client in super().select(stage, round) if client.index not in self.missing]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("missing", [(2,), (0,), (4, 1)], ids=str)
def test_a_round_of_which_some_are_missing_is_the_round_of_the_others(
    tmp_path: Path, name: str, missing: tuple[int, ...]
) -> None:
    run = RUNS[name]
    state, jobs = begun(run)
    came = [answered(run, job) for job in jobs if job.client.index not in missing]
    whole = run.close(state, came, missing=missing)
    # ... in whatever order they come and are left out, to the same bits
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 41):
        with WaitingRoom(tmp_path, 0) as room:
            found = closed(run, order, room, missing)
        assert bits(replace(found, memories={k: {"local": v} for k, v in found.memories.items()})) == bits(whole)
    # ... and, but for rounding where the sum had begun, what a round without them would have been. (What a method opens
    # for whom it opens as it has planned it: Disco's are looked at by themselves.)
    if name != "disco":
        fewer = replace(run, population=Fewer(missing))
        expected, found = flat(fewer.close(state, came).__dict__), flat(whole.__dict__)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, msg=lambda text, key=key: f"{key}: {text}")
    # ... in which the missing have left nothing behind
    assert sorted(whole.memories) == sorted(str(index) for index in range(5) if index not in missing)


def test_the_weights_of_those_that_came_add_up_to_one() -> None:
    """10, 30 and 60 records; without the 30 the others weigh 1/7 and 6/7."""

    class Three(SmallPopulation):
        def select(self, stage: int, round: int) -> list[Client]:
            return [Client(index, 0, count, torch.ones(1)) for index, count in enumerate((10, 30, 60))]

    run = replace(federation(Finetune()), population=Three(FIVE), setting=small_setting(1, 1, 3, 3))
    state, jobs = begun(run)
    updates = [answered(run, job) for job in jobs]
    name = "multi_modal_projector.weight"
    for update, value in zip(updates, (7.0, 1000.0, 14.0), strict=True):
        update.delta[name].fill_(value)
    for local in (Plain(), Scaffold()):
        after = replace(run, local=local).close(
            replace(state, local={"c": {}}),
            [replace(u, local={"c": {name: torch.full((37,), 3.0)}}) for u in (updates[0], updates[2])],
            missing=[1],
        )
        torch.testing.assert_close(after.params[name] - state.params[name], torch.full((37,), 13.0))  # 7/7 + 6/7 * 14
    # SCAFFOLD: c is the mean of everybody's c_k at all times, and the missing one's has not moved: (3 + 0 + 3) / 3.
    torch.testing.assert_close(after.local["c"][name], torch.full((37,), 2.0))


def test_noise_is_scaled_to_those_that_came() -> None:
    """m senders of five: the noise of z C / m, so that what one client can move is as hidden as ever."""
    run = federation(Finetune(), weights="uniform", privacy=DpFedAvg(clip_norm=0.5, noise_multiplier=2.0))
    state, jobs = begun(run)
    big = {"multi_modal_projector.weight": (40_000,)}
    silent = [replace(answered(run, job), delta={n: torch.zeros(s) for n, s in big.items()}) for job in jobs]
    state = replace(state, params=tensors(big, 0))
    after = run.close(state, silent[:2], missing=[2, 3, 4])
    moved = after.params["multi_modal_projector.weight"] - state.params["multi_modal_projector.weight"]
    assert float(moved.std()) == pytest.approx(2.0 * 0.5 / 2, rel=0.02)


def test_the_mean_is_that_of_the_formula(tmp_path: Path) -> None:
    """sum_k (n_k / n) d_k in float32, added up in the order of the plan; n of those who sent the name."""
    run = RUNS["mean"]
    state, jobs = begun(run)
    with WaitingRoom(tmp_path, 0) as room:
        after = closed(run, (3, 1, 4, 0, 2), room)
    for name in NAMES:
        senders = [(answered(run, job).delta[name], job.client.num_examples) for job in jobs if name in run.sent(job)]
        expected = state.params[name].clone()
        if senders:
            total, mean = float(sum(n for _, n in senders)), torch.zeros_like(expected)
            for value, n in senders:
                mean.add_(value, alpha=n / total)
            expected = state.params[name] + mean
        assert after.params[name].equal(expected), name


def test_pieces_of_a_large_tensor_are_combined_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"a": torch.randn(3, 7001, generator=torch.Generator().manual_seed(k))} for k in range(5)]
    for rule in (Median(), TrimmedMean(drop_frac=0.2)):
        whole = rule.combine(items, [1.0] * 5)["a"]
        with monkeypatch.context() as patch:
            patch.setattr("fcit_ray.federated.robust._AT_ONCE", 1)
            assert rule.combine(items, [1.0] * 5)["a"].equal(whole)


def test_a_refused_update_is_neither_folded_nor_kept(tmp_path: Path) -> None:
    run = RUNS["mean"]
    _, jobs = begun(run)
    with WaitingRoom(tmp_path, 0) as room:
        arrivals = Arrivals(run, jobs, room)
        bad = answered(run, jobs[1])
        bad.delta["multi_modal_projector.weight"][3] = torch.inf
        with pytest.raises(RunFailed, match=r"client 1 .* refused: .* not finite"):
            arrivals.take(jobs[1], bad, frozenset())
        assert room.file_bytes == 0


def test_whoever_asks_for_a_delta_that_is_gone_is_told_what_to_declare(tmp_path: Path) -> None:
    run = federation(Disco(num_subspaces=2))
    _, jobs = begun(run)
    with WaitingRoom(tmp_path) as room:
        light = Arrivals(run, jobs, room).take(jobs[0], answered(run, jobs[0]), frozenset())
        assert "multi_modal_projector.weight" in light.delta
        with pytest.raises(LookupError, match=r"projector.weight: the delta of .* `reads_deltas = True`"):
            light.delta["multi_modal_projector.weight"]


# Where they wait


def test_places_of_what_was_folded_are_used_again_and_nothing_is_left(tmp_path: Path) -> None:
    tree = {"a": torch.arange(1000.0)}
    with WaitingRoom(tmp_path, 0) as room:
        for _ in range(3):
            first, second = room.keep(tree), room.keep({"a": torch.ones(1000)})
            assert first["a"].equal(tree["a"])
            assert second["a"].sum() == 1000
            assert room.file_bytes == 8000
            room.drop(first)
            room.drop(second)
        descriptors = len(os.listdir("/proc/self/fd"))
        assert list(tmp_path.iterdir()) == [], "the file has no name, so that a kill leaves nothing"
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1


def test_every_kind_of_value_waits_and_a_part_of_it_can_be_read(tmp_path: Path) -> None:
    odd = torch.tensor([[1 + 2j, 3j]], dtype=torch.complex128)
    tree = {
        "odd": odd.conj(), "none": torch.zeros(0, 3), "one": torch.tensor(True),
        "turned": torch.arange(6.0).view(2, 3).T,
        "deep": {"half": torch.ones(3, dtype=torch.bfloat16), "list": [torch.ones(1), 2, ("x", None)]}, "n": 1.5,
    }  # fmt: skip
    with WaitingRoom(tmp_path, 0) as room:
        kept = room.keep(tree)
        assert list(kept) == list(tree)
        for key in ("odd", "none", "one", "turned"):
            assert kept[key].dtype == tree[key].dtype
            assert kept[key].equal(tree[key].resolve_conj())
        assert kept["deep"]["half"].equal(tree["deep"]["half"])
        assert kept["deep"]["list"] == [torch.ones(1), 2, ("x", None)]
        assert kept["n"] == 1.5
        assert kept.part("turned", 1, 4).tolist() == [3.0, 1.0, 4.0]


def test_what_stays_in_memory_is_bounded_by_what_it_holds_on_to(tmp_path: Path) -> None:
    with WaitingRoom(tmp_path, stays=1000) as room:
        small = {"a": torch.ones(10)}
        assert room.keep(small, holds=900) is small
        assert room.keep({"a": torch.ones(10)}, holds=900)["a"].sum() == 10
        assert room.file_bytes == 40
        room.drop(small)
        assert room.keep(small, holds=900) is small


def test_a_waiting_update_does_not_keep_the_message_it_came_in(tmp_path: Path) -> None:
    """Its client's feature is a view of the whole message, in shared memory."""
    run = RUNS["mean"]
    _, jobs = begun(run)
    came = answered(run, jobs[2])
    came = replace(came, client=Client(2, came.client.task, came.client.num_examples, came.client.feature.clone()))
    with WaitingRoom(tmp_path, 0) as room:
        light = Arrivals(run, jobs, room).take(jobs[2], came, frozenset())
        assert light.client is jobs[2].client
        assert not isinstance(light.memory, dict)


def test_the_file_of_a_round_that_ends_early_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WaitingRoom(tmp_path, 0) as room:
        kept = room.keep({"a": torch.ones(10)})
        monkeypatch.setattr(waiting.os, "preadv", lambda *_: 0)
        with pytest.raises(OSError, match="ends before they do"):
            kept["a"]
    gc.collect()
