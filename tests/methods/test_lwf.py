"""LwF: the teacher's pull by hand, on the right tokens, and Finetune at lambda = 0 to the bit."""

import math

import pytest
import torch
from small import (
    COLLATOR,
    FLOATS_PER_RANK,
    MODEL,
    PROJECTOR_FLOATS,
    TRAIN,
    SmallPopulation,
    client,
    job_batches,
    random_params,
    sample,
    small_bank,
    small_setting,
    trainer,
)

from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.lwf import Lwf, distillation
from fcit_ray.params import params_sha256, tree_bytes
from fcit_ray.results import checkpoint
from fcit_ray.types import Assignment, ClientJob

SETTING = small_setting()
SCHEDULE = ((0, 0), (1, 2))
STILL = MODEL.model_copy(update={"dropout": 0.0})


def learned(method, num_stages=2, jobs=None):
    setting = small_setting(num_stages)
    bank = small_bank()
    train = trainer(bank, method, setting)

    def watched(job):
        if jobs is not None:
            jobs.append(job)
        return train(job)

    return simulate(Federation(method, FedAvg(), SmallPopulation(SCHEDULE), setting), bank.params(), watched)


@pytest.fixture(scope="module")
def two_stages():
    """The state after two stages, and every job."""
    jobs = []
    return learned(Lwf(), jobs=jobs), jobs


def make_job(teacher=None, params=None, num_examples=4):
    return ClientJob(
        stage=1,
        round=0,
        client=client(0, [1, 0], num_examples),
        assignment=Assignment((0,)),
        params=params or small_bank().params(),
        knowledge={"teacher": teacher} if teacher else {},
        memory={},
        seed=3,
    )


# Against Finetune


def test_without_strength_lwf_is_finetune_to_the_bit_and_keeps_no_teacher():
    state = learned(Lwf(strength=0.0))
    assert params_sha256(state.params) == params_sha256(learned(Finetune()).params)
    assert state.knowledge == {}


def test_the_first_stage_is_finetunes_and_the_second_is_not(two_stages):
    assert params_sha256(learned(Lwf(), 1).params) == params_sha256(learned(Finetune(), 1).params)
    assert params_sha256(two_stages[0].params) != params_sha256(learned(Finetune()).params)


def test_asking_the_teacher_changes_no_bit_of_the_students_training():
    # lambda of 1e-30 adds less than the loss and the gradients can hold, yet the teacher is asked at every step: with
    # dropout 0.1 a single number drawn for it would show.
    told = make_job(random_params(small_bank().params()))
    delta = run_client(told, job_batches(told), small_bank(), Lwf(strength=1e-30), TRAIN, SETTING).delta
    job = make_job()
    plain = run_client(job, job_batches(job), small_bank(), Finetune(), TRAIN, SETTING).delta
    assert params_sha256(delta) == params_sha256(plain)


# The distillation by hand

ONE, TWO = [2 * math.log(3), 0.0], [0.0, 0.0]  # at T = 2: (3/4, 1/4) and (1/2, 1/2)


def test_two_tokens_by_hand():
    # 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; 1/2 ln(2/3) + 1/2 ln 2 = 0.143841; their mean 0.137327, times T^2: ln(3) / 2
    loss = distillation(torch.tensor([ONE, TWO]), torch.tensor([TWO, ONE]), 2.0)
    assert loss.item() == pytest.approx(0.549306, abs=1e-6)
    # the other way around, KL(new || old), each token would be the other's: tell them apart by the first alone
    first = distillation(torch.tensor([ONE]), torch.tensor([TWO]), 2.0)
    assert first.item() == pytest.approx(4 * 0.130812, abs=1e-5)


def test_its_gradient_by_hand():
    # T / N * (p_new - p_old): 2 / 2 * (1/2 - 3/4, 1/2 - 1/4) for the first token, its opposite for the second
    new = torch.tensor([TWO, ONE], requires_grad=True)
    distillation(torch.tensor([ONE, TWO]), new, 2.0).backward()
    torch.testing.assert_close(new.grad, torch.tensor([[-0.25, 0.25], [0.25, -0.25]]))


def test_the_pull_does_not_fade_with_the_temperature():
    # For small logits T^2 KL tends to the squared distance of the logits / (2 V), whatever T: 0.02^2 / 8 = 5e-5.
    old, new = torch.tensor([[0.01, -0.01]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    for temperature in (1.0, 2.0, 8.0):
        assert distillation(old, new, temperature).item() == pytest.approx(5e-5, rel=1e-3)


# In the model


def student(bank, job):
    bank.load(job.params)
    trained = bank.activate(job.assignment, with_projector=True)
    return LocalRun(
        job=job, setting=SETTING, bank=bank, start=job.params, trained=trained, memory={}, batches=job_batches(job)
    )


def test_the_loss_is_the_formula_over_the_answers_tokens():
    # In float64, token by token: the logits at position t predict the token at t + 1, if that has a label.
    bank = small_bank(config=STILL)
    params = random_params(bank.params(), 1)
    teacher = random_params(params, 2)
    batch = COLLATOR.train([sample(seed, 4 + seed) for seed in range(3)])
    tokens = {name: value for name, value in batch.items() if name not in ("features", "labels")}
    logits = []
    for values in (teacher, params):
        bank.load(values)
        bank.model.eval()
        with torch.no_grad():
            logits.append(bank.model(**tokens).logits.double())
    terms = []
    for row in range(3):
        for position, label in enumerate(batch["labels"][row].tolist()):
            if label != -100:
                old, new = (torch.softmax(z[row, position - 1] / 2.0, 0) for z in logits)
                terms.append(float((old * (old / new).log()).sum()))
    assert len(terms) == 9  # three samples, three tokens an answer
    run = student(bank, make_job(teacher, params))
    output = bank.forward(batch)
    added = Lwf(strength=0.5).loss(run, batch, output) - output.loss
    assert added.item() == pytest.approx(0.5 * 4 * sum(terms) / 9, rel=1e-3)
    assert added.item() > 0.1


def test_the_gradient_reaches_the_student_though_the_teacher_sat_in_its_place():
    # The teacher's values stand in the parameters between the student's forward pass and its backward. Compared with
    # the same loss from teacher's logits that were computed before.
    bank = small_bank(config=STILL)
    params = random_params(bank.params(), 1)
    teacher = random_params(params, 2)
    batch = COLLATOR.train([sample(seed, 5) for seed in range(2)])
    run = student(bank, make_job(teacher, params))
    bank.load(teacher)
    with torch.no_grad():
        old = bank.answer_logits(batch, bank.forward(batch))
    bank.load(params)
    gradients = []
    for early in (True, False):
        bank.model.zero_grad()
        output = bank.forward(batch)
        if early:
            loss = output.loss + 0.5 * distillation(old, bank.answer_logits(batch, output), 2.0)
        else:
            loss = Lwf().loss(run, batch, output)
        loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in run.trained.items()})
    for name, expected in gradients[0].items():
        assert torch.equal(gradients[1][name], expected), name


def test_a_student_that_agrees_is_not_pulled():
    bank = small_bank(config=STILL)
    params = random_params(bank.params())
    batch = COLLATOR.train([sample(0)])
    run = student(bank, make_job(params, params))
    output = bank.forward(batch)
    assert (Lwf().loss(run, batch, output) - output.loss).item() == pytest.approx(0.0, abs=1e-6)


def test_a_stronger_teacher_is_followed_more_closely():
    def distance(strength):
        bank = small_bank(config=STILL)
        teacher = random_params(bank.params(), 7)
        job = make_job(teacher, teacher)
        train = TRAIN.model_copy(update={"epochs": 5})
        run_client(job, job_batches(job, train), bank, Lwf(strength=strength), train, SETTING)
        batch = next(job_batches(job)())
        new = bank.answer_logits(batch, bank.forward(batch))
        with bank.holding(teacher):
            return distillation(bank.answer_logits(batch, bank.forward(batch)), new, 1.0).item()

    free, held, firm = distance(0.0), distance(1.0), distance(100.0)
    assert firm < 0.5 * held
    assert held < 0.8 * free


# The server


def test_the_teacher_is_the_last_stages_global_model(two_stages):
    state, jobs = two_stages
    first = learned(Lwf(), 1)
    told = {(job.stage, job.round): job.knowledge for job in jobs}
    assert told[0, 0] == told[0, 1] == {}
    assert params_sha256(told[1, 0]["teacher"]) == params_sha256(told[1, 1]["teacher"]) == params_sha256(first.params)
    assert params_sha256(state.knowledge["teacher"]) == params_sha256(state.params)
    # Adapter and projector, four bytes a number.
    assert tree_bytes(told[1, 1]) == 4 * (MODEL.rank * FLOATS_PER_RANK + PROJECTOR_FLOATS)


def test_the_teacher_survives_a_checkpoint(two_stages, tmp_path):
    state, _ = two_stages
    checkpoint.save(state, tmp_path / "state")
    back = checkpoint.load(tmp_path / "state").knowledge
    assert params_sha256(back["teacher"]) == params_sha256(state.knowledge["teacher"])
