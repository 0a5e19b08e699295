"""EWC: its Fisher, its penalty, what the server makes of them, and Finetune at lambda = 0 to the bit."""

from dataclasses import replace
from types import SimpleNamespace

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
    sample,
    shard,
    small_bank,
    small_setting,
    trainer,
)

from fcit_ray.data.loading.shards import LocalShard, training_batches
from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import params_sha256, tree_bytes
from fcit_ray.results import checkpoint
from fcit_ray.types import Assignment, ClientJob, ClientUpdate

SCHEDULE = ((0, 0), (1, 2))
ONE_ROUND = small_setting(num_rounds=1)


def learned(method, num_stages=2, seen=None):
    setting = small_setting(num_stages)
    bank = small_bank()
    train = trainer(bank, method, setting)

    def watched(job):
        update = train(job)
        if seen is not None:
            seen.append((job, update))
        return update

    return simulate(Federation(method, FedAvg(), SmallPopulation(SCHEDULE), setting), bank.params(), watched)


@pytest.fixture(scope="module")
def two_stages():
    """The state after two stages, and every job with its update."""
    seen = []
    return learned(Ewc(), seen=seen), seen


def make_job(bank, knowledge=None, num_examples=4, round=0):
    return ClientJob(
        stage=1,
        round=round,
        client=client(0, [1, 0], num_examples),
        assignment=Assignment((0,)),
        params=small_bank().params(),
        knowledge=knowledge or {},
        memory={},
        seed=3,
    )


def train_one(method, job, train=TRAIN, setting=ONE_ROUND, batches=None, bank=None):
    return run_client(job, batches or job_batches(job, train), bank or small_bank(), method, train, setting)


# Against Finetune


@pytest.mark.parametrize("projector", [False, True])
def test_without_strength_ewc_is_finetune_to_the_bit(projector):
    # Two stages, dropout 0.1: neither the penalty of zero nor the Fisher pass may touch a bit of the training.
    plain = learned(Finetune())
    assert params_sha256(learned(Ewc(strength=0.0, projector=projector)).params) == params_sha256(plain.params)


def test_the_first_stage_is_finetunes_and_the_second_is_not(two_stages):
    assert params_sha256(learned(Ewc(strength=1e6), 1).params) == params_sha256(learned(Finetune(), 1).params)
    assert params_sha256(two_stages[0].params) != params_sha256(learned(Finetune()).params)


# The Fisher by hand


class OneWeight:
    """loss = mean over the batch of w x; three times that in training mode, where an estimate has no business."""

    def __init__(self):
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
        self.model = torch.nn.Module()

    @staticmethod
    def is_projector(name):
        return False

    def forward(self, batch, prompts):
        return SimpleNamespace(loss=(self.weight * batch["x"]).mean() * (3.0 if self.model.training else 1.0))


def toy_run(values, epochs=1):
    bank = OneWeight()
    x = torch.tensor(values)

    def batches(size=None):
        for piece in list(x.split(size or len(x))) * epochs:
            yield {"input_ids": torch.zeros(len(piece), 1), "features": torch.zeros(len(piece), 1), "x": piece}

    return LocalRun(
        job=make_job(bank, num_examples=len(x)),
        setting=ONE_ROUND,
        bank=bank,
        start={},
        trained={"w": bank.weight},
        memory={"kept": 1},
        batches=batches,
    )


def test_the_fisher_is_the_mean_of_the_records_squared_gradients():
    # Gradients of the records: 1 and -3; squared 1 and 9; mean 5. The batch's gradient is -1, its square 1: the slip.
    report, memory = Ewc().report(toy_run([1.0, -3.0]))
    assert report["fisher"]["w"].tolist() == [5.0]
    assert report["num_records"] == 2
    assert memory == {"kept": 1}


def test_a_fisher_takes_no_more_records_than_asked_for_and_none_twice():
    # Of 1, -3 and 5 the first two: 5 again. In two epochs each counts once: (1 + 9 + 25) / 3.
    run = toy_run([1.0, -3.0, 5.0], epochs=2)
    report, _ = Ewc(num_fisher=2).report(run)
    assert (report["fisher"]["w"].item(), report["num_records"]) == (5.0, 2)
    report, _ = Ewc().report(run)
    assert report["fisher"]["w"].item() == pytest.approx(35 / 3)
    assert report["num_records"] == 3


def test_a_fisher_leaves_the_run_as_it_was():
    run = toy_run([1.0])
    Ewc().report(run)
    assert run.bank.model.training
    assert run.bank.weight.grad is None


def test_a_fisher_that_is_no_number_says_where():
    with pytest.raises(FloatingPointError, match=r"not finite in stage 1, round 0, client 0; lower train\.lr"):
        Ewc().report(toy_run([1.0, float("nan")]))


# The Fisher of the model


def test_the_models_fisher_is_that_of_each_record_alone():
    # Record by record, not padded, in float64 sums; after the training, so at the values that the bank holds then.
    bank, job = small_bank(), make_job(None)
    update = train_one(Ewc(projector=True), job, bank=bank)
    bank.model.eval()
    expected = dict.fromkeys(update.delta, 0.0)
    together = dict.fromkeys(update.delta, 0.0)
    samples = shard(0, 0, 4).samples
    for record in samples:
        for name, gradient in gradients(bank, [record]).items():
            expected[name] = expected[name] + gradient.double().square() / 4
    for name, gradient in gradients(bank, samples).items():
        together[name] = gradient.double().square()
    assert update.report["fisher"].keys() == update.delta.keys()
    for name, value in update.report["fisher"].items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-3, atol=1e-9)
    b = next(name for name in expected if ".lora_B." in name)
    assert together[b].sum() < 0.8 * expected[b].sum()  # what the batch's gradient squared would have given


def gradients(bank, samples):
    bank.model.zero_grad()
    bank.forward(COLLATOR.train(samples)).loss.backward()
    return {name: bank.parameter(name).grad.clone() for name in bank.params()}


def test_the_fisher_leaves_the_penalty_out():
    # At a learning rate of next to nothing the values are the same with and without a penalty, however strong.
    train = TRAIN.model_copy(update={"lr": 1e-12, "projector_lr": 0.0})
    params = small_bank().params()
    anchor = {name: value + 1.0 for name, value in params.items() if "lora_" in name}
    told = {"fisher": {name: torch.ones_like(value) for name, value in anchor.items()}, "anchor": anchor}
    with_penalty = train_one(Ewc(), make_job(None, told), train)
    without = train_one(Ewc(), make_job(None), train)
    assert with_penalty.metrics["loss"] > 1e3 * without.metrics["loss"]
    for name, value in without.report["fisher"].items():
        torch.testing.assert_close(with_penalty.report["fisher"][name], value, rtol=1e-3, atol=1e-9)


def test_the_projector_is_held_only_if_asked_for():
    floats = MODEL.rank * FLOATS_PER_RANK
    for method, expected in ((Ewc(), floats), (Ewc(projector=True), floats + PROJECTOR_FLOATS)):
        fisher = train_one(method, make_job(None)).report["fisher"]
        assert sum(value.numel() for value in fisher.values()) == expected


def test_only_the_stages_last_round_reports(two_stages):
    _, seen = two_stages
    reporting = [(update.stage, update.round, update.client.index) for _, update in seen if update.report]
    assert reporting == [(0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)]


def test_a_record_without_an_answer_counts_with_a_gradient_of_zero():
    # In company its batch's loss is finite, so training allows it; alone, its mean over no tokens is not a number.
    records = [sample(0), sample(1)]
    records[1]["labels"][:] = -100
    train = TRAIN.model_copy(update={"lr": 1e-12, "projector_lr": 0.0})

    def fisher_of(records):
        batches = training_batches(LocalShard(records), COLLATOR, 2, seed=3, epochs=1)
        return train_one(Ewc(), make_job(None, num_examples=len(records)), train, batches=batches)

    both, one = fisher_of(records), fisher_of(records[:1])
    for name, value in one.report["fisher"].items():
        torch.testing.assert_close(both.report["fisher"][name], value / 2, rtol=1e-3, atol=1e-12)


# The penalty


def penalised(strength, fisher, anchor, **values):
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    told = {"fisher": {"w": torch.tensor(fisher)}, "anchor": {"w": torch.tensor(anchor)}}
    run = replace(toy_run([0.0]), job=make_job(None, told), trained=parameters)
    run.bank.device = torch.device("cpu")
    output = SimpleNamespace(loss=torch.tensor(1.0))
    loss = Ewc(strength=strength).loss(run, {}, output)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in parameters.items()}


def test_the_penalty_and_its_gradient_by_hand():
    # 10 / 2 * (2 * 0.5^2 + 0 * 3^2) = 2.5 beside the loss of 1; gradient 10 * (2 * 0.5, 0 * 3) = (10, 0).
    loss, grads = penalised(10.0, [2.0, 0.0], [1.0, 1.0], w=[1.5, 4.0], free=[7.0])
    assert loss == 3.5
    assert grads["w"].tolist() == [10.0, 0.0]
    assert grads["free"] is None  # a parameter without a Fisher is not held


def test_under_a_huge_penalty_what_mattered_stays_and_what_did_not_moves_on():
    # Fisher one on the first row of every factor, zero on the others. No clipping: it would scale all gradients down
    # together, and this test is of the penalty.
    train = TRAIN.model_copy(update={"epochs": 10, "max_grad_norm": 1e12, "lr": 1e-2, "projector_lr": 0.0})
    params = {name: value for name, value in small_bank().params().items() if "lora_" in name}
    fisher = {name: torch.zeros_like(value) for name, value in params.items()}
    for value in fisher.values():
        value[0] = 1.0
    held = train_one(Ewc(strength=1e9), make_job(None, {"fisher": fisher, "anchor": params}), train).delta
    free = train_one(Finetune(), make_job(None), train).delta

    def moved(delta, weight):
        return sum(float((delta[name].abs() * (fisher[name] == weight)).sum()) for name in fisher)

    assert moved(held, 1.0) < 0.1 * moved(free, 1.0)
    assert 0.7 < moved(held, 0.0) / moved(free, 0.0) < 1.4


# The server


def fisher_update(index, count, value, records=None):
    return ClientUpdate(
        stage=0,
        round=1,
        client=client(index, [1.0], count),
        assignment=Assignment((0,)),
        delta={},
        report={"fisher": {"w": torch.tensor([value])}, "num_records": min(50, count) if records is None else records},
    )


def test_clients_count_by_their_samples_not_by_the_records_of_their_fisher():
    # (100 * 1 + 300 * 5) / 400 = 4; by the 50 records that each used it would be 3.
    knowledge = Ewc().absorb({}, [fisher_update(0, 100, 1.0), fisher_update(1, 300, 5.0)])
    assert knowledge["new"]["w"].tolist() == [4.0]


def test_a_fisher_of_other_records_than_wanted_is_noticed():
    with pytest.raises(AssertionError, match="client 1: a Fisher of 7 records instead of 8"):
        Ewc(num_fisher=8).absorb({}, [fisher_update(0, 5, 1.0, 5), fisher_update(1, 10, 1.0, 7)])


@pytest.mark.parametrize(
    ("gamma", "expected"), [(1.0, [3.0, 2.0, 4.0]), (0.5, [2.0, 1.0, 4.0]), (0.0, [1.0, 0.0, 4.0])]
)
def test_fishers_add_up_around_the_anchors_mean(gamma, expected):
    # a: gamma * 2 + 1; b, of which the last stage says nothing: gamma * 2; c, new: 4. Anchors:
    # a: (gamma * 2 * -1 + 1 * 5) / F = 3 / 3, 4 / 2 or 5 / 1; b keeps -1; c: 7
    old = {"a": torch.tensor(2.0), "b": torch.tensor(2.0)}
    new = {"a": torch.tensor(1.0), "c": torch.tensor(4.0)}
    knowledge = {"fisher": old, "anchor": {"a": torch.tensor(-1.0), "b": torch.tensor(-1.0)}, "new": new}
    params = {name: torch.tensor(value) for name, value in (("a", 5.0), ("b", 6.0), ("c", 7.0), ("other", 8.0))}
    after = Ewc(gamma=gamma).consolidate(knowledge, params, 1)
    assert after == {
        "fisher": dict(zip("abc", map(torch.tensor, expected), strict=True)),
        "anchor": {"a": torch.tensor({1.0: 1.0, 0.5: 2.0, 0.0: 5.0}[gamma]), "b": torch.tensor(-1.0), "c": params["c"]},
    }


def test_one_penalty_pulls_as_the_sum_of_the_stages():
    # Prism's form: gradient = lambda * sum_s F_s (theta - theta*_s), here in float64; without a Fisher there is none.
    draw = torch.Generator().manual_seed(0)
    fishers = [torch.rand(50, generator=draw) * (torch.rand(50, generator=draw) > 0.3) for _ in range(4)]
    for fisher in fishers:
        fisher[:5] = 0.0
    anchors = [torch.randn(50, generator=draw) for _ in range(4)]
    knowledge = {}
    for stage, (fisher, anchor) in enumerate(zip(fishers, anchors, strict=True)):
        knowledge = Ewc().consolidate({**knowledge, "new": {"w": fisher}}, {"w": anchor}, stage)
    theta = torch.randn(50, generator=draw)
    pulls = [f.double() * (theta.double() - a.double()) for f, a in zip(fishers, anchors, strict=True)]
    _, grads = penalised(10.0, knowledge["fisher"]["w"].tolist(), knowledge["anchor"]["w"].tolist(), w=theta.tolist())
    torch.testing.assert_close(grads["w"].double(), 10.0 * sum(pulls), rtol=1e-4, atol=1e-5)
    assert not grads["w"][:5].any()
    # The slip: all Fishers around the last anchor.
    assert (grads["w"].double() - 10.0 * sum(fishers).double() * (theta - anchors[-1]).double()).abs().max() > 1.0


def test_the_anchor_is_the_stages_last_global_model_and_the_fisher_all_its_clients(two_stages):
    state, seen = two_stages
    first = learned(Ewc(), 1)
    jobs = {job.key: job for job, _ in seen}
    told = jobs[1, 0, 0].knowledge
    assert params_sha256(told["anchor"]) == params_sha256({n: v for n, v in first.params.items() if "lora_" in n})
    # Clients of 3 and 4 records: weights 3/7 and 4/7. Over two stages the Fishers add up.
    reports = {update.key: update.report["fisher"] for _, update in seen if update.report}
    for name, value in state.knowledge["fisher"].items():
        means = [(3 * reports[stage, 1, 0][name] + 4 * reports[stage, 1, 1][name]) / 7 for stage in (0, 1)]
        torch.testing.assert_close(told["fisher"][name], means[0])
        torch.testing.assert_close(value, means[0] + means[1])
    assert state.knowledge.keys() == {"fisher", "anchor"}


def test_clients_are_told_nothing_in_the_first_stage_and_two_adapters_then(two_stages):
    # Fisher and anchor, four bytes a number: 2 * 4 * 4 * 240.
    _, seen = two_stages
    told = {job.stage: tree_bytes(job.knowledge) for job, _ in seen}
    assert told == {0: 0, 1: 2 * 4 * MODEL.rank * FLOATS_PER_RANK}


def test_what_is_learned_survives_a_checkpoint(two_stages, tmp_path):
    state, _ = two_stages
    checkpoint.save(state, tmp_path / "state")
    back = checkpoint.load(tmp_path / "state").knowledge
    for key in ("fisher", "anchor"):
        assert params_sha256(back[key]) == params_sha256(state.knowledge[key])
