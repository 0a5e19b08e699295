"""What a client adds to its steps: FedProx's pull and SCAFFOLD's control variates.

Some tests drive the hooks themselves with plain SGD on one number, where all can be worked out by hand; the others run
whole federations of the small model.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from repository import ROOT
from small import TRAIN, SmallPopulation, client, job_batches, small_bank, small_setting

from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import Algorithm
from fcit_ray.experiment.components import AXES, make
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.client import run_client
from fcit_ray.federated.crossing import reasons
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.local_optim import FedProx, Plain, Scaffold
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.federated.privacy import Privacy
from fcit_ray.federated.robust import Rule
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import norm, params_sha256
from fcit_ray.results import checkpoint
from fcit_ray.types import Assignment, ClientUpdate

SCHEDULE = ((0, 0), (1, 1))


class SomeOfThem(SmallPopulation):
    """Two clients a round, another two in the next."""

    def select(self, stage, round):
        clients = super().select(stage, round)
        chosen = {(2 * round + turn) % len(clients) for turn in (0, 1)}
        return [client for client in clients if client.index in chosen]


def one_round(federation, bank, state, train=TRAIN):
    """The jobs of the next round and their updates."""
    jobs = federation.plan(state)
    answers = [
        run_client(
            job, job_batches(job, train), bank, federation.method, train, federation.setting, local=federation.local
        )
        for job in jobs
    ]
    return jobs, answers


def make_federation(local, method=None, schedule=SCHEDULE, population=SmallPopulation, **sizes):
    setting = small_setting(**{"num_stages": len(schedule), "clients": len(schedule[0]), **sizes})
    method = method or Finetune()
    bank = small_bank(method.num_adapters(setting))
    return Federation(method, FedAvg(), population(schedule), setting, local=local), bank


def learned(local, train=TRAIN, **options):
    federation, bank = make_federation(local, **options)

    def answer(job):
        batches = job_batches(job, train)
        return run_client(job, batches, bank, federation.method, train, federation.setting, local=local)

    return simulate(federation, bank.params(), answer)


def toy(start, trained, local=None, memory=None):
    """A run of a model that is nothing but a few numbers."""
    job = SimpleNamespace(local=local or {}, memory={"local": memory} if memory else {})
    return SimpleNamespace(start=start, trained={n: torch.nn.Parameter(v.clone()) for n, v in trained.items()}, job=job)


def scalar(value):
    return torch.tensor([value], dtype=torch.float64)


# FedProx


def test_the_penalty_is_half_mu_times_the_squared_distance_over_all_tensors():
    # Away by (3, -4) in the adapter and by 2 in the projector: (0.5 / 2) * (9 + 16 + 4) = 7.25, gradient mu times the
    # distance. With the norm not squared (Flower's docstring) it were 0.25 * sqrt(29) = 1.35.
    start = {"lora": torch.tensor([1.0, 1.0]), "projector": torch.tensor([5.0])}
    run = toy(start, {"lora": torch.tensor([4.0, -3.0]), "projector": torch.tensor([7.0])})
    rule = FedProx(mu=0.5)
    penalty = rule.penalty(run, rule.start(run))
    assert penalty.item() == 7.25
    penalty.backward()
    assert run.trained["lora"].grad.tolist() == [1.5, -2.0]
    assert run.trained["projector"].grad.tolist() == [1.0]


def test_fedprox_of_mu_zero_is_plain_to_the_bit():
    plain = params_sha256(learned(Plain()).params)
    assert params_sha256(learned(FedProx(mu=0.0)).params) == plain
    assert params_sha256(learned(FedProx(mu=0.1)).params) != plain


def job_of(bank, count):
    federation = Federation(Finetune(), FedAvg(), SmallPopulation(((0,),)), small_setting(1, 1, 1))
    (job,) = federation.plan(federation.start(bank.params()))
    return replace(job, client=client(0, [1.0, 0, 0, 0], count)), federation.setting


def test_the_first_step_of_a_round_is_plain_since_nobody_has_left_the_anchor():
    bank = small_bank()
    job, setting = job_of(bank, 2)  # two records, one step
    plain, prox = (
        run_client(job, job_batches(job), bank, Finetune(), TRAIN, setting, rule) for rule in (Plain(), FedProx(mu=50))
    )
    assert all(torch.equal(prox.delta[name], value) for name, value in plain.delta.items())


def test_a_strong_pull_keeps_adapters_and_projector_near_the_global_values():
    # Plain AdamW drifts for 20 steps; under the pull it turns back whenever it leaves, a few steps' length at most.
    bank = small_bank()
    job, setting = job_of(bank, 4)
    train = TRAIN.model_copy(update={"epochs": 10, "warmup_frac": 0.0})
    plain, prox = (
        run_client(job, job_batches(job, train), bank, Finetune(), train, setting, rule).delta
        for rule in (Plain(), FedProx(mu=1e4))
    )
    for part in ("lora_B", "projector"):
        far, near = (norm({n: v for n, v in delta.items() if part in n}) for delta in (plain, prox))
        assert near < 0.5 * far


# SCAFFOLD by hand


def test_the_variate_is_the_mean_gradient_by_the_rates_really_used():
    # theta 10, c 2, c_k 1, so the correction is 1. Gradients 1, 2, 3 at rates 1/2, 1/4, 1/4 (sum 1):
    #   10 - 0.5 = 9.5, corrected 9; 9 - 0.5 = 8.5, corrected 8.25; 8.25 - 0.75 = 7.5, corrected 7.25.
    # c_k <- (10 - 7.25) / 1 - 1 = 1.75 = 0.5 * 1 + 0.25 * 2 + 0.25 * 3, the mean gradient; its change is 0.75.
    # Dividing by steps times the peak rate (OpenFedLLM), 1.5, gives 0.83.
    rule = Scaffold()
    start = {"x": torch.tensor([10.0])}
    run = toy(start, start, local={"c": {"x": torch.tensor([2.0])}}, memory={"c": {"x": torch.tensor([1.0])}})
    extra, seen = rule.start(run), []
    for gradient, rate in ((1.0, 0.5), (2.0, 0.25), (3.0, 0.25)):
        run.trained["x"].data -= rate * gradient
        rule.after_step(run, extra, {"x": rate})
        seen.append(run.trained["x"].item())
    assert seen == [9.0, 8.25, 7.25]
    report, memory = rule.report(run, extra)
    assert report["c"]["x"].tolist() == [0.75]
    assert memory["c"]["x"].tolist() == [1.75]


def reported(index, **changes):
    return ClientUpdate(
        stage=0,
        round=0,
        client=client(index, [1.0]),
        assignment=Assignment(train=(0,)),
        delta={},
        local={"c": {name: torch.tensor([value]) for name, value in changes.items()}},
    )


def test_the_servers_variate_moves_by_the_changes_over_all_clients_not_over_the_selected():
    # x: 1 + (0.5 + 1.5) / 4 = 1.5; over the two selected it were 2. y: only one sent it: 0 + 2 / 4. z: nobody did.
    before = {"c": {"x": torch.tensor([1.0]), "z": torch.tensor([7.0])}}
    setting = small_setting(clients=4)
    after = Scaffold().absorb(before, [reported(0, x=0.5), reported(3, x=1.5, y=2.0)], setting)
    assert {name: value.item() for name, value in after["c"].items()} == {"x": 1.5, "z": 7.0, "y": 0.5}
    assert before["c"]["x"].item() == 1.0


def test_a_client_is_told_of_what_it_is_sent_and_nothing_while_all_is_zero():
    rule, told = Scaffold(), torch.tensor([1.0])
    assert rule.brief(rule.init({}), {"a.s0.": told}) == {}
    assert rule.brief({"c": {"a.s0.": told, "a.s1.": told}}, {"a.s1.": told, "p": told}) == {"c": {"a.s1.": told}}


def test_with_sgd_scaffold_finds_the_optimum_that_averaging_misses():
    # Two clients, (1/2)(x - 0)^2 and (9/2)(x - 1)^2: together the optimum is (1 * 0 + 9 * 1) / 10 = 0.9. One round of
    # ten steps of rate 0.1 shrinks the distances to 0 and to 1 by 0.9^10 = 0.348678 and by 0.1^10 = 1e-10. The fixed
    # point of their average is x = (0.348678 x + 1) / 2, so 1 / 1.651322 = 0.605575.
    def run(rule, rounds):
        x, shared, memories = scalar(0.3), rule.init({}), [{}, {}]
        for _ in range(rounds):
            results, updates = [], []
            for index, (slope, centre) in enumerate(((1.0, 0.0), (9.0, 1.0))):
                here = toy({"x": x}, {"x": x}, rule.brief(shared, {"x": x}), memories[index])
                extra = rule.start(here)
                for _ in range(10):
                    here.trained["x"].data -= 0.1 * slope * (here.trained["x"].data - centre)
                    rule.after_step(here, extra, {"x": 0.1})
                report, memories[index] = rule.report(here, extra)
                updates.append(replace(reported(index), local=report))
                results.append(here.trained["x"].data)
            x, shared = sum(results) / 2, rule.absorb(shared, updates, small_setting(clients=2))
        return x.item()

    # c_k are cast to float32 on their way, hence the tolerance
    assert run(Plain(), 60) == pytest.approx(0.605575, abs=1e-5)
    assert run(Scaffold(), 200) == pytest.approx(0.9, abs=1e-4)


# SCAFFOLD in a federation


def test_the_first_round_is_plain_to_the_bit_and_the_second_is_not():
    for rounds, same in ((1, True), (2, False)):
        plain, scaffold = (
            learned(rule, schedule=((0, 1),), num_rounds=rounds).params for rule in (Plain(), Scaffold())
        )
        assert (params_sha256(plain) == params_sha256(scaffold)) is same


def test_a_lone_client_has_no_drift_to_correct():
    # K = 1: after the first round c = c_k to the bit, so the second is plain as well.
    plain, scaffold = (learned(rule, schedule=((0,),), num_rounds=2).params for rule in (Plain(), Scaffold()))
    assert params_sha256(plain) == params_sha256(scaffold)


def test_adapters_and_projector_are_divided_by_their_own_rates():
    # Client 1 has 4 records: two steps, without warm-up at 1 and 1/2 of the peak, so the rates add up to 1.5 times
    # 0.01 and 1.5 times 0.001. In the first round c_k = -delta / sum. (Steps times the peak would be 2.)
    federation, bank = make_federation(Scaffold(), schedule=((0, 0),))
    train = TRAIN.model_copy(update={"warmup_frac": 0.0})
    jobs, updates = one_round(federation, bank, federation.start(bank.params()), train)
    assert [job.local for job in jobs] == [{}, {}]
    update = updates[1]
    assert update.delta.keys() == update.local["c"].keys() == update.memory["local"]["c"].keys()
    for name, delta in update.delta.items():
        total = 0.0015 if bank.is_projector(name) else 0.015
        torch.testing.assert_close(update.local["c"][name], -delta / total)


def test_the_servers_variate_is_the_mean_of_all_clients_at_all_times():
    # Three clients, two a round, over two stages: the sums of changes telescope only if each c_k survives the rounds
    # in which its client rests, and the change of stage, and if K counts the resting.
    state = learned(Scaffold(), schedule=((0, 1, 0), (1, 1, 2)), population=SomeOfThem, num_rounds=3)
    assert len(state.memories) == 3
    for name, c in state.local["c"].items():
        own = [state.memories[str(index)]["local"]["c"][name].double() for index in range(3)]
        torch.testing.assert_close(c.double(), sum(own) / 3, rtol=1e-4, atol=1e-5)
        if ".lora_B." in name:
            assert c.abs().max() > 0.01


def test_a_variate_of_a_subspace_that_is_not_trained_keeps_its_bits():
    # DISCO: both clients train subspace 0 in the first stage and subspace 1 in the second.
    method = Disco(num_subspaces=2)
    federation, bank = make_federation(Scaffold(), method=method, num_rounds=1)
    state = federation.start(bank.params())
    states = []
    for _ in range(2):
        state = federation.close(state, one_round(federation, bank, state)[1])
        states.append(state)
    first, second = states
    assert not any(".s1." in name for name in first.local["c"])
    assert any(".s1." in name for name in second.local["c"])
    trees = [(first.local["c"], second.local["c"])]
    trees += [tuple(s.memories[index]["local"]["c"] for s in states) for index in ("0", "1")]
    for before, after in trees:
        assert all(torch.equal(after[name], value) for name, value in before.items() if ".s0." in name)
        assert any(".s0." in name for name in before)


def test_a_federation_with_scaffold_resumes_to_the_same_bits(tmp_path):
    federation, bank = make_federation(Scaffold(), schedule=((0, 1),), num_rounds=2)
    state = federation.start(bank.params())
    state = federation.close(state, one_round(federation, bank, state)[1])
    checkpoint.save(state, tmp_path / "state")
    ends = []
    for begin in (state, checkpoint.load(tmp_path / "state")):
        end = federation.close(begin, one_round(federation, bank, begin)[1])
        ends.append((params_sha256(end.params), params_sha256(end.local["c"])))
    assert ends[0] == ends[1]


# What does not go with it


@dataclass(frozen=True, kw_only=True)
class Clipping(Privacy):
    declares = frozenset({Trait.CLIPS})

    def clip(self, updates):
        return list(updates)


@dataclass(frozen=True, kw_only=True)
class Hiding(Privacy):
    def hide(self, clients, seed):
        return list(clients)


@dataclass(frozen=True, kw_only=True)
class Median(Rule):
    """Stands for any rule that bounds what one client can do."""


@dataclass(frozen=True, kw_only=True)
class KeepB(LoraRule):
    declares = frozenset({Trait.KEEPS_FACTORS})

    def stays(self, name):
        return ".lora_B." in name


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"privacy": Clipping()}, "beside the delta that privacy clips or noises"),
        ({"rule": Median()}, "can do what robust prevents"),
        ({"lora": KeepB()}, "factors that this lora rule keeps at the client"),
        ({"privacy": Hiding()}, None),
        ({}, None),
    ],
)
def test_scaffold_is_refused_where_its_variates_would_undo_another_choice(parts, reason):
    algorithm = Algorithm(method=Finetune(), local=Scaffold(), server=FedAvg(), aggregation=Aggregation(**parts))
    told = reasons(algorithm).get("local")
    assert told is None if reason is None else reason in str(told)
    assert "local" not in reasons(replace(algorithm, local=FedProx()))


# Configuration


def test_a_negative_pull_is_refused():
    with pytest.raises(ConfigError, match=r"local\.mu: expected at least 0 \(got -1\)"):
        make("local", {"name": "fedprox", "mu": -1})


@pytest.mark.parametrize("name", [name for name in AXES["local"].parts if name != "plain"])
def test_the_shipped_file_says_the_sources_values(name):
    section = yaml.safe_load((ROOT / "configs" / "methods" / f"{name}.yaml").read_text())["local"]
    assert make("local", section) == {"fedprox": FedProx(mu=0.01), "scaffold": Scaffold()}[name]
