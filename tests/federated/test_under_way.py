"""An update that was interrupted goes on to the bits of one that was not, wherever it was cut."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from small import COLLATOR, MODEL, TRAIN, SmallPopulation, shard, small_bank, small_setting

from fcit_ray.data.loading.shards import training_batches
from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation
from fcit_ray.federated.local_optim import FedProx, LocalRule, Plain, Scaffold
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.federated.under_way import UnderWay
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import params_sha256
from fcit_ray.results.checkpoint import load, save
from fcit_ray.types import ClientJob, ServerState

LONG = TRAIN.model_copy(update={"epochs": 3, "weight_decay": 0.1, "warmup_frac": 0.3})
STEPS = 6  # three records in steps of two, three times over
SETTING = small_setting(num_stages=1, num_rounds=1, clients=1)


class Cut(BaseException):
    """Ends an update between two steps."""


def first_job(method: Any, local: LocalRule) -> ClientJob:
    federation = Federation(method, FedAvg(), SmallPopulation(((0,),)), SETTING, local=local)
    [job] = federation.plan(federation.start(small_bank().params()))
    # As of a client that has been here before: SCAFFOLD corrects every step.
    c = {name: torch.full_like(value, 0.01) for name, value in job.params.items()}
    return replace(job, memory={"local": {"c": c}} if isinstance(local, Scaffold) else {})


def run(job: ClientJob, method: Any, local: LocalRule, under_way: UnderWay | None, train: Any = LONG) -> Any:
    records = shard(job.client.task, job.client.index, job.client.num_examples)
    batches = training_batches(records, COLLATOR, train.batch_size, job.seed, train.epochs, train.micro_batch_size)
    bank = small_bank(seed=99)  # another process: nothing is there but what was kept
    return run_client(job, batches, bank, method, train, SETTING, local, under_way=under_way)


@pytest.mark.parametrize("step", range(1, STEPS))
@pytest.mark.parametrize(
    ("method", "local", "micro"),
    [
        (Finetune(), Plain(), None),
        (Finetune(), Plain(), 1),
        (Ewc(), FedProx(mu=0.5), None),
        (Finetune(), Scaffold(), None),
    ],
    ids=["plain", "micro-batches", "ewc-fedprox", "scaffold"],
)
def test_an_update_cut_after_any_step_goes_on_to_the_same_bits(
    tmp_path: Any, method: Any, local: LocalRule, micro: int | None, step: int
) -> None:
    assert MODEL.dropout > 0, "the draws of the next step are part of what is kept"
    train = LONG.model_copy(update={"micro_batch_size": micro})
    job = first_job(method, local)
    whole = run(job, method, local, None, train)
    assert whole.metrics["steps"] == STEPS

    def keep(state: ServerState) -> None:
        save(state, tmp_path / "kept")
        if len(state.knowledge["losses"]) == step:
            raise Cut

    with pytest.raises(Cut):
        run(job, method, local, UnderWay(keep=keep, keep_s=0.0), train)
    torch.rand(5)  # whatever else draws in the process that goes on
    taken: list[int] = []
    resumed = UnderWay(kept=load(tmp_path / "kept"), tell=lambda done, total: taken.append(done))
    after = run(job, method, local, resumed, train)
    assert taken[0] > step, "the steps before it were not taken again"
    assert params_sha256(after.delta) == params_sha256(whole.delta)
    for key in ("loss", "first_loss", "last_loss", "steps", "delta_norm"):
        assert after.metrics[key] == whole.metrics[key]
    if isinstance(local, Scaffold):
        assert params_sha256(after.local["c"]) == params_sha256(whole.local["c"])
        assert params_sha256(after.memory["local"]["c"]) == params_sha256(whole.memory["local"]["c"])
    if isinstance(method, Ewc):
        assert params_sha256(after.report["fisher"]) == params_sha256(whole.report["fisher"])


def kept_after(step: int, job: ClientJob, local: LocalRule) -> list[ServerState]:
    states: list[ServerState] = []
    run(job, Finetune(), local, UnderWay(keep=states.append, keep_s=0.0))
    return states[step - 1 : step]


@pytest.mark.parametrize("change", ["seed", "round", "params"])
def test_what_was_kept_of_another_update_is_left(change: str, caplog: pytest.LogCaptureFixture) -> None:
    job = first_job(Finetune(), Plain())
    [state] = kept_after(3, job, Plain())
    moved = {name: value + 1e-6 for name, value in job.params.items()}
    other = replace(job, **{"seed": {"seed": 7}, "round": {"round": 1}, "params": {"params": moved}}[change])
    expected = run(other, Finetune(), Plain(), None)
    found = run(other, Finetune(), Plain(), UnderWay(kept=state))
    assert params_sha256(found.delta) == params_sha256(expected.delta)
    assert "is of another one, and is left" in caplog.text


def test_a_rule_that_counts_and_cannot_say_what_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    """It would go on with other counts: silently another result."""

    @dataclass(frozen=True, kw_only=True)
    class Counting(LocalRule):
        def after_step(self, run: Any, extra: Any, rates: Any) -> None:
            """Counts."""

    assert kept_after(3, first_job(Finetune(), Counting()), Counting()) == []
    assert "Counting counts over its steps and has no `pause`" in caplog.text


def test_it_is_kept_by_the_clock_and_told_every_half_second() -> None:
    now = [0.0]
    told: list[tuple[int, int]] = []
    kept: list[int] = []

    def clock() -> float:
        now[0] += 0.125
        return now[0]

    watch = UnderWay(
        tell=lambda done, total: told.append((done, total)),
        keep=lambda state: kept.append(len(state.knowledge["losses"])),
        keep_s=0.3,
        clock=clock,
    )
    run(first_job(Finetune(), Plain()), Finetune(), Plain(), watch)
    # It begins at 0.125; steps end at 0.25, 0.375, 0.5 (kept, until 0.625), 0.75, 0.875, 1.0.
    assert kept == [3]
    assert told == [(1, STEPS), (4, STEPS), (6, STEPS)]
