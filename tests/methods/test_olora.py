"""O-LoRA: the penalty in numbers, what moves and what does not, and Finetune where there is one stage."""

import pytest
import torch
from small import (
    MODEL,
    TRAIN,
    SmallPopulation,
    client,
    factors,
    job_batches,
    random_params,
    small_bank,
    small_setting,
    trainer,
)

from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation, simulate, travelling
from fcit_ray.federated.method import Method
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.olora import OLora, overlap
from fcit_ray.models.names import adapter_index
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment, ClientJob

DRY = MODEL.model_copy(update={"dropout": 0.0})
# A A_old^T = [[1 + 0, 1 - 2], [3 + 0, 3 + 1]] = [[1, -1], [3, 4]]
A = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
A_OLD = torch.tensor([[1.0, 0.0], [1.0, -1.0]])


def learned(method, schedule, train=TRAIN):
    """The final state, and every update of the run."""
    setting = small_setting(num_stages=len(schedule))
    bank = small_bank(method.num_adapters(setting))
    federation = Federation(method, FedAvg(), SmallPopulation(schedule), setting)
    client_update, updates = trainer(bank, method, setting, train), []

    def keep(job):
        updates.append((job, client_update(job)))
        return updates[-1][1]

    return simulate(federation, bank.params(), keep), updates


def second_stage(params, frozen=(0,)):
    assignment = Assignment((len(frozen),), frozen)
    return ClientJob(
        stage=len(frozen),
        round=0,
        client=client(1, [1, 0], 4),
        assignment=assignment,
        params=travelling(params, assignment),
        knowledge={},
        memory={},
        seed=5,
    )


def run(bank, job, method, train=TRAIN):
    return run_client(job, job_batches(job, train), bank, method, train, small_setting())


# Identities


def test_a_stream_of_one_stage_is_finetune_to_the_bit():
    # The rank is 4 in both banks; dropout and projector included; the overlap's weight has nothing to weigh.
    olora, _ = learned(OLora(l1=0.5), ((0, 1),))
    finetune, _ = learned(Finetune(), ((0, 1),))
    assert params_sha256(olora.params) == params_sha256(finetune.params)
    assert params_sha256(finetune.params) != params_sha256(small_bank().params())


def test_without_penalties_a_later_stage_trains_on_top_of_the_frozen_ones_to_the_bit():
    bank = small_bank(2)
    job = second_stage(random_params(bank.params()))
    plain, ours = run(bank, job, Method()), run(bank, job, OLora(l1=0))
    assert params_sha256(ours.delta) == params_sha256(plain.delta)
    assert params_sha256(run(bank, job, OLora()).delta) != params_sha256(plain.delta)


def test_a_frozen_stage_acts_like_a_change_of_the_base():
    # W + s B_0 A_0 in place of W, s = 8 / 4, and adapter 1 alone: the same loss and the same gradients.
    params = random_params(small_bank(2).params())
    banks = [small_bank(2, config=DRY) for _ in range(2)]
    for bank in banks:
        bank.load(params)
    for path in banks[1].layers:
        a, b = factors(params, path, 0)
        base = banks[1].model.get_base_model().get_submodule(path).base_layer
        base.weight.data += (2.0 * b @ a).float()
    job = second_stage(params)
    batch = next(iter(job_batches(job)()))
    method, gradients = OLora(l1=0), []
    [assignment] = method.assign({}, 1, [job.client])
    for bank, chosen in zip(banks, (assignment, Assignment((1,))), strict=True):
        trained = bank.activate(chosen, with_projector=True)
        loss = bank.forward(batch).loss
        loss.backward()
        gradients.append({"loss": loss.detach(), **{name: p.grad for name, p in trained.items()}})
    ours, dense = gradients
    assert ours.keys() == dense.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, dense[name], rtol=1e-3, atol=1e-5)


# The penalty


def test_the_overlap_is_the_sum_of_absolute_entries():
    # |1| + |-1| + |3| + |4| = 9. The Frobenius norm would be sqrt(27) = 5.2, the paper's sum of squares 27, a sum with
    # signs 7.
    assert overlap(A, A_OLD).item() == 9.0
    # two earlier stages, stacked: the second's product is that of 2 A_old, 18
    assert overlap(A, torch.cat([A_OLD, 2 * A_OLD])).item() == 27.0
    # rows at right angles overlap nowhere
    assert overlap(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0], [2.0, -2.0]])).item() == 0.0


def test_the_overlap_pulls_the_current_a_alone():
    # d/dA = sign(A A_old^T) A_old = [[1, -1], [1, 1]] [[1, 0], [1, -1]] = [[0, 1], [2, -1]]. The released slip (of a
    # port): A_old is in the graph, and would be pulled by sign(...)^T A.
    a, old = A.clone().requires_grad_(), A_OLD.clone().requires_grad_()
    overlap(a, old).backward()
    assert a.grad.tolist() == [[0.0, 1.0], [2.0, -1.0]]
    assert old.grad is None


@pytest.mark.parametrize("frozen", [(0,), (0, 1, 2)])
def test_the_loss_adds_the_overlaps_of_all_layers_with_all_earlier_stages(frozen):
    current = len(frozen)
    bank = small_bank(4, config=DRY.model_copy(update={"rank": 8}))  # with rank 1 each, all norms are one
    params = random_params(bank.params())
    job = second_stage(params, frozen)
    losses = [run(bank, job, OLora(l1=l1)).metrics["first_loss"] for l1 in (0.0, 0.25)]
    products = [
        factors(params, path, current)[0] @ factors(params, path, k)[0].T for path in bank.layers for k in frozen
    ]
    assert len(products) == 6 * len(frozen)
    expected = 0.25 * sum(product.abs().sum().item() for product in products)
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)
    frobenius = 0.25 * sum(product.norm().item() for product in products)
    assert frobenius < 0.9 * expected  # or the test would not tell one norm from the other


def test_the_loss_adds_the_norms_of_the_current_factors():
    # One norm a tensor, the earlier stages' and the projector's left out.
    bank = small_bank(2, config=DRY)
    params = random_params(bank.params())
    job = second_stage(params)
    losses = [run(bank, job, OLora(l1=0, l2=l2)).metrics["first_loss"] for l2 in (0.0, 0.5)]
    norms = [value.double().norm().item() for name, value in params.items() if adapter_index(name) == 1]
    assert len(norms) == 12
    assert losses[1] - losses[0] == pytest.approx(0.5 * sum(norms), rel=1e-4)


def test_a_norm_of_zero_has_a_gradient_of_zero():
    # B starts at zero, where a norm's slope is no number: training must go through.
    bank = small_bank(2)
    update = run(bank, second_stage(bank.params()), OLora(l2=0.1))
    assert all(torch.isfinite(value).all() for value in update.delta.values())


@pytest.mark.parametrize(("l1", "shrinks"), [(50.0, True), (0.0, False)])
def test_a_large_l1_turns_the_current_a_away_from_the_earlier_ones(l1, shrinks):
    bank = small_bank(2)
    params = random_params(bank.params())
    train = TRAIN.model_copy(update={"epochs": 30, "lr": 0.02})
    update = run(bank, second_stage(params), OLora(l1=l1), train)

    def overlaps(values):
        pairs = [(factors(values, path, 1)[0], factors(values, path, 0)[0]) for path in bank.layers]
        return sum(overlap(a, old).item() for a, old in pairs)

    before = overlaps(params)
    after = overlaps({**params, **{name: params[name] + value for name, value in update.delta.items()}})
    assert (after < 0.2 * before) is shrinks
    lengths = [(params[n] + update.delta[n]).norm() / params[n].norm() for n in update.delta if ".lora_A.s1." in n]
    assert min(lengths) > 0.3  # by turning, not by vanishing


# Who moves, who is sent


def test_frozen_stages_move_by_no_bit_and_are_not_sent():
    # Weight decay would move them without any gradient.
    train = TRAIN.model_copy(update={"weight_decay": 0.5})
    state, updates = learned(OLora(), ((0, 1), (1, 2)), train)
    assert [job.stage for job, _ in updates] == [0, 0, 0, 0, 1, 1, 1, 1]
    for job, update in updates:
        assert {adapter_index(name) for name in update.delta} == {job.stage, None}
        received = {adapter_index(name) for name in job.params}
        assert received == ({0, None} if job.stage == 0 else {0, 1, None})
    end_of_first = next(job for job, _ in updates if job.stage == 1).params
    frozen = [name for name in state.params if adapter_index(name) == 0]
    assert len(frozen) == 12
    assert all(torch.equal(state.params[name], end_of_first[name]) for name in frozen)
    assert not torch.equal(state.params[frozen[0]], small_bank(2).params()[frozen[0]])  # the first stage moved them


def test_the_adapters_move_with_rounds_of_their_stage_and_all_answer():
    method = OLora()
    state, _ = learned(method, ((0, 1), (1, 2)))
    assert state.knowledge == {}
    assert method.deploy(state.params, state.knowledge) is state.params
    assert method.gate(state.knowledge, torch.ones(2, 4), 2) is None
    bs = {k: [v for n, v in state.params.items() if f".lora_B.s{k}." in n] for k in (0, 1)}
    assert all(value.any() for k in (0, 1) for value in bs[k])


def test_an_answer_before_the_last_stage_ignores_the_adapters_to_come():
    # Their B is zero, whatever their A.
    bank = small_bank(2)
    params = random_params(bank.params())
    params |= {name: torch.zeros_like(value) for name, value in params.items() if ".lora_B.s1." in name}
    batch = next(iter(job_batches(second_stage(params))()))
    outputs = []
    for scale in (1.0, 100.0):
        scaled = {name: value * scale if ".lora_A.s1." in name else value for name, value in params.items()}
        bank.pack(scaled)
        outputs.append(bank.forward(batch).logits)
    assert torch.equal(*outputs)


def test_the_job_needs_no_more_than_the_frozen_adapters():
    # Nothing about earlier stages is kept in the method: two instances, two workers, the same bits.
    bank = small_bank(2)
    job = second_stage(random_params(bank.params()))
    first = run(bank, job, OLora())
    other = run(small_bank(2, seed=9), job, OLora())
    assert params_sha256(first.delta) == params_sha256(other.delta)
