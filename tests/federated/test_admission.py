"""A client's update is looked at before anything is made of it: what cannot be averaged is refused by name."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SmallPopulation, client, small_setting

from fcit_ray.errors import RunFailed
from fcit_ray.experiment.components import part_class
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.method import Method
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.finetune import Finetune
from fcit_ray.types import Assignment, ClientJob, ClientUpdate

A, B, OTHER = "l.lora_A.s0.weight", "l.lora_B.s0.weight", "l.lora_A.s1.weight"
PROJECTOR, RESIDUAL = "projector.weight", "l.residual"
PARAMS = {
    A: torch.zeros(1, 3), B: torch.zeros(2, 1), OTHER: torch.zeros(1, 3), PROJECTOR: torch.zeros(2),
    RESIDUAL: torch.zeros(2, 3),
}  # fmt: skip
WHERE = "stage 0, round 0, client 1 (counted from 0): the client's update is refused: "


def federation(method: Method | None = None, lora: str = "factors") -> Federation:
    aggregation = Aggregation(lora=part_class("lora", lora)())
    return Federation(
        method or Finetune(), FedAvg(), SmallPopulation(((0, 0),)), small_setting(1, 2, 2), aggregation=aggregation
    )


def good(job: ClientJob, **changes: Any) -> ClientUpdate:
    """What adapter 0 and the projector have learned: one everywhere."""
    delta = {name: torch.ones_like(PARAMS[name]) for name in (A, B, PROJECTOR)}
    update = ClientUpdate(
        stage=job.stage, round=job.round, client=job.client, assignment=job.assignment, delta=delta,
        report={"fisher": {A: torch.ones(3)}, "count": 3, "note": None}, memory={"method": {"seen": [1, (2.0, True)]}},
        metrics={"loss": 0.5, "steps": 3},
    )  # fmt: skip
    return replace(update, **changes)


def changed(**values: torch.Tensor) -> Callable[[ClientJob], dict[str, Any]]:
    """Another value under a name of the delta: `a` or `p`."""
    names = {"a": A, "p": PROJECTOR}
    return lambda job: {"delta": {**good(job).delta, **{names[key]: value for key, value in values.items()}}}


def without(name: str) -> Callable[[ClientJob], dict[str, Any]]:
    return lambda job: {"delta": {key: value for key, value in good(job).delta.items() if key != name}}


def added(name: str) -> Callable[[ClientJob], dict[str, Any]]:
    return lambda job: {"delta": {**good(job).delta, name: torch.zeros_like(PARAMS.get(name, torch.zeros(1)))}}


def fields(**values: Any) -> Callable[[ClientJob], dict[str, Any]]:
    return lambda job: values


BAD: dict[str, tuple[Callable[[ClientJob], dict[str, Any]], str]] = {
    "one NaN": (changed(a=torch.tensor([[1.0, math.nan, 1.0]])), f"delta, {A}: 1 of 3 numbers not finite (the first"),
    "infinities that cancel": (
        changed(p=torch.tensor([math.inf, -math.inf])), f"delta, {PROJECTOR}: 2 of 2 numbers not finite (the first: "
    ),
    # would be broadcast over the server's (1, 3), and double it
    "another shape": (changed(a=torch.ones(2, 3)), f"delta, {A}: shape (2, 3), was sent as (1, 3)"),
    "one that broadcasts": (changed(a=torch.ones(3)), f"delta, {A}: shape (3,), was sent as (1, 3)"),
    "another type": (changed(a=torch.ones(1, 3).double()), f"delta, {A}: torch.float64, was sent as torch.float32"),
    "sparse": (changed(a=torch.ones(1, 3).to_sparse()), f"delta, {A}: expected a dense tensor, got Tensor"),
    "no tensor": (changed(a=[1.0]), f"delta, {A}: expected a dense tensor, got list"),  # type: ignore[arg-type]
    "less than it trained": (without(B), f"delta lacks {B}, which its assignment trains"),
    "no projector": (without(PROJECTOR), f"delta lacks {PROJECTOR}, which its assignment trains"),
    "another's adapter": (added(OTHER), f"delta holds {OTHER}, which its assignment does not train"),
    "what nobody trains": (added(RESIDUAL), f"delta holds {RESIDUAL}, which its assignment does not train"),
    "a name unheard of": (added("x"), "delta holds x, which its assignment does not train"),
    "a report": (fields(report={"fisher": {A: torch.tensor(math.nan)}}), f"report, fisher, {A}: 1 of 1 numbers not"),
    "a report's number": (fields(report={"rates": [1.0, -math.inf]}), "report, rates, 1: is -inf"),
    "an object": (fields(report={"f": {1, 2}}), "report, f: expected tensors, numbers, texts, lists or mappings, got"),
    "a key": (fields(report={"f": {3: 1.0}}), "report, f: keys are texts, got 3 of type int"),
    "a local rule's": (fields(local={"c": {A: torch.tensor([math.inf])}}), f"local, c, {A}: 1 of 1 numbers not finite"),
    "a memory": (fields(memory={"method": {"x": math.nan}}), "memory, method, x: is nan"),
    "its own factor": (fields(memory={"personal": {B: torch.ones(4, 1)}}), f"memory, personal, {B}: shape (4, 1), was"),
    "a metric": (fields(metrics={"loss": math.nan}), "metrics, loss: expected a finite number, got nan"),
    "a metric's tensor": (fields(metrics={"loss": torch.tensor(1.0)}), "metrics, loss: expected a finite number, got"),
    "a copy": (
        lambda job: {"delta": {name: torch.zeros_like(value) for name, value in good(job).delta.items()}},
        "it is an exact copy of what was sent: every number of the delta is zero",
    ),
    "another round's": (fields(round=1), "it is of another job than the one that was given out"),
    "another adapter's": (fields(assignment=Assignment((1,))), "it is of another job than the one that was given out"),
    # its number of records is its weight in the mean
    "another weight": (fields(client=client(1, [1.0], 10**9)), "it is of another job than the one that was given out"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_what_cannot_be_averaged_is_refused_by_stage_round_client_and_parameter(case: str) -> None:
    change, told = BAD[case]

    def train(job: ClientJob) -> ClientUpdate:
        return good(job, **change(job)) if job.client.index == 1 else good(job)

    with pytest.raises(RunFailed) as caught:
        simulate(federation(), PARAMS, train)
    message = str(caught.value)
    assert message.startswith(WHERE + told)
    assert "\n" not in message
    assert "--resume" in message


def test_what_was_asked_for_is_taken_as_it_is() -> None:
    [job, _] = federation().plan(federation().start(PARAMS))
    update = good(job)
    assert federation().admit(job, update) is update
    # A sum that overflows is no number that does.
    huge = good(job, **changed(a=torch.full((1, 3), 3e38))(job))
    assert federation().admit(job, huge) is huge


def test_what_has_moved_anywhere_is_no_copy_nor_is_one_where_that_can_be_right() -> None:
    [job, _] = federation().plan(federation().start(PARAMS))
    still = {name: torch.zeros_like(value) for name, value in good(job).delta.items()}
    tiny = {**still, PROJECTOR: torch.tensor([0.0, -1e-30])}
    federation().admit(job, good(job, delta=tiny))
    # FedSA: B stays at the client, and until it has moved the gradient of A is zero.
    run = federation(lora="fedsa")
    [job, _] = run.plan(run.start(PARAMS))
    kept = {"personal": {B: torch.ones(2, 1)}}
    run.admit(job, good(job, delta={A: still[A], PROJECTOR: still[PROJECTOR]}, memory=kept))
    idle = type("Idle", (Finetune,), {"may_stand_still": True})()
    federation(idle).admit(job, good(job, delta=still))


@pytest.mark.parametrize(("lora", "absent"), [("ffa", A), ("fedsa", B)])
def test_a_rule_that_keeps_a_factor_at_the_client_wants_nothing_of_it(lora: str, absent: str) -> None:
    run = federation(lora=lora)
    [job, _] = run.plan(run.start(PARAMS))
    run.admit(job, good(job, **without(absent)(job)))
    with pytest.raises(RunFailed, match="does not train"):
        run.admit(job, good(job))


def test_of_a_frozen_projector_nothing_is_wanted() -> None:
    run = federation()
    [job, _] = run.plan(run.start(PARAMS))
    frozen = frozenset({PROJECTOR})
    run.admit(job, good(job, **without(PROJECTOR)(job)), frozen)
    with pytest.raises(RunFailed, match=f"delta holds {PROJECTOR}"):
        run.admit(job, good(job), frozen)


def test_finite_updates_whose_sum_is_none_do_not_become_the_model() -> None:
    # Two rounds of 3e38 each: the second ends beyond float32's 3.4e38.
    def train(job: ClientJob) -> ClientUpdate:
        return good(job, **changed(a=torch.full((1, 3), 3e38))(job))

    with pytest.raises(RunFailed) as caught:
        simulate(federation(), PARAMS, train)
    assert str(caught.value).startswith(
        f"stage 0, round 1 (counted from 0): the new global parameters are refused: {A}: 3 of 3 numbers not finite"
    )


@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ("init", "before the first round"),
        ("assign", "stage 0, round 0 (counted from 0)"),
        ("brief", "stage 0, round 0 (counted from 0)"),
        ("absorb", "stage 0, round 0 (counted from 0)"),
        ("consolidate", "stage 0, round 1 (counted from 0)"),
    ],
)
def test_a_servers_hook_that_raises_is_named_with_its_place(hook: str, where: str) -> None:
    def fail(self: Method, *arguments: Any) -> Any:
        return 1 // 0

    broken = type("Broken", (Finetune,), {hook: fail, "declares": frozenset({Trait.KEEPS_MODELS})})()
    with pytest.raises(RunFailed) as caught:
        simulate(federation(broken), PARAMS, good)
    line = fail.__code__.co_firstlineno + 1
    told = f"{where}, method.{hook}: {__file__}, line {line}, in fail: ZeroDivisionError: "
    assert str(caught.value).startswith(told)
    assert "Traceback" in caught.value.details
