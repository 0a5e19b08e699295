"""Differential privacy: what clipping bounds, how much noise there is, what epsilon is reported; hidden tokens."""

import math
from statistics import NormalDist

import pytest
import torch
from small import SmallPopulation, client, small_bank, small_setting, trainer

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import Algorithm, make_algorithm
from fcit_ray.experiment.components import AXES, make, part_class
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.crossing import reasons
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.local_optim import LocalRule, Plain
from fcit_ray.federated.lora.base import FactorAverage, LoraRule
from fcit_ray.federated.method import Method
from fcit_ray.federated.privacy import DpFedAvg, NoPrivacy, TokenNoise, epsilon
from fcit_ray.federated.robust import Mean, Median
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import norm, params_sha256
from fcit_ray.results.figures import make_results
from fcit_ray.types import Assignment, ClientUpdate, Setting

HUGE = 1e30


def learned(method=None, **choices):
    method, setting = method or Finetune(), small_setting()
    bank = small_bank(method.num_adapters(setting))
    aggregation = Aggregation(**choices)
    federation = Federation(method, FedAvg(), SmallPopulation(((0, 0), (1, 2))), setting, aggregation=aggregation)
    return params_sha256(simulate(federation, bank.params(), trainer(bank, method, setting)).params)


def update(index, **delta):
    delta = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in delta.items()}
    return ClientUpdate(
        stage=0, round=0, client=client(index, [1.0], 10 + index), assignment=Assignment(train=(0,)), delta=delta
    )


def combine(privacy, updates, seed=0):
    return Aggregation(weights="uniform", privacy=privacy).combine({}, updates, seed)


# Identities


@pytest.fixture(scope="module")
def uniform():
    return learned(weights="uniform")


def test_without_noise_and_clipping_it_is_fedavg_to_the_bit(uniform):
    assert learned(weights="uniform", privacy=DpFedAvg(clip_norm=HUGE, noise_multiplier=0)) == uniform


def test_clipping_and_noise_each_change_the_run_and_the_seed_repeats_it(uniform):
    clipped = learned(weights="uniform", privacy=DpFedAvg(clip_norm=0.01, noise_multiplier=0))
    noised = learned(weights="uniform", privacy=DpFedAvg(clip_norm=0.01, noise_multiplier=1))
    again = learned(weights="uniform", privacy=DpFedAvg(clip_norm=0.01, noise_multiplier=1))
    assert len({uniform, clipped, noised}) == 3
    assert again == noised


def test_tokens_without_noise_are_the_clients_own_to_the_bit():
    clients = [client(0, [3.0, 4.0]), client(1, [0.0, 1.0])]
    for privacy in (NoPrivacy(), TokenNoise(token_noise=0), DpFedAvg()):
        assert all(hidden is plain for hidden, plain in zip(privacy.hide(clients, 7), clients, strict=True))


# Clipping


def test_the_whole_delta_is_clipped_and_not_each_name():
    # (3, 4) over two names has length 5: both are scaled by 1/5. Clipping each name on its own would give (1, 1).
    (clipped,) = DpFedAvg(clip_norm=1.0).clip([update(0, a=[3.0], b=[4.0])])
    torch.testing.assert_close(clipped.delta["a"], torch.tensor([0.6]))
    torch.testing.assert_close(clipped.delta["b"], torch.tensor([0.8]))


def test_no_clients_delta_is_longer_than_the_clip_and_one_client_moves_the_mean_by_no_more_than_its_share():
    draw = torch.Generator().manual_seed(0)
    updates = [
        update(i, a=10.0**i * torch.randn(50, generator=draw), b=torch.randn(5, generator=draw)) for i in range(4)
    ]
    updates.append(update(4, a=torch.full((50,), math.inf), b=torch.zeros(5)))
    privacy = DpFedAvg(clip_norm=0.3, noise_multiplier=0)
    assert all(norm(clipped.delta) <= 0.3 for clipped in privacy.clip(updates))
    mean = combine(privacy, updates)
    for position, one in enumerate(updates):
        zero = update(position, a=torch.zeros(50), b=torch.zeros(5))
        without = combine(privacy, [*updates[:position], zero, *updates[position + 1 :]])
        assert norm({name: mean[name] - without[name] for name in mean}) <= 0.3 / 5 * (1 + 1e-5), one.client.index


# Noise


def variance_is(values, deviation):
    """Whether the sample variance is within five standard errors, sqrt(2 / (n - 1)) of it, and the mean too."""
    count = values.numel()
    values = values.double()
    return (
        abs(values.var().item() / deviation**2 - 1) < 5 * math.sqrt(2 / (count - 1))
        and abs(values.mean().item()) < 5 * deviation / math.sqrt(count)
    )  # fmt: skip


def test_the_noise_on_a_mean_over_n_clients_has_deviation_zc_over_n():
    # z = 2, C = 0.5, four clients: 2 * 0.5 / 4 = 0.25 on every coordinate
    zeros = [update(i, a=torch.zeros(200, 100)) for i in range(4)]
    noise = combine(DpFedAvg(clip_norm=0.5, noise_multiplier=2.0), zeros)["a"]
    assert noise.dtype == torch.float32
    assert variance_is(noise, 0.25)
    # the check itself tells 0.25 from a noise not divided by n, and from one a twentieth off
    assert not variance_is(noise, 1.0)
    assert not variance_is(noise, 0.25 * 1.05)


def test_a_subspaces_noise_is_scaled_to_its_own_senders():
    # Two subspaces of one and three senders, the projector of four: z C = 1, so 1, 1/3 and 1/4. Nobody sent s2.
    big = torch.zeros(10_000)
    updates = [update(0, s0=big, projector=big), *(update(i, s1=big, projector=big) for i in (1, 2, 3))]
    noised = combine(DpFedAvg(), updates)
    assert noised.keys() == {"s0", "s1", "projector"}
    assert variance_is(noised["s0"], 1.0)
    assert variance_is(noised["s1"], 1 / 3)
    assert variance_is(noised["projector"], 1 / 4)


def test_one_client_moves_the_result_by_at_most_one_over_z_in_units_of_the_noise():
    # What makes it one Gaussian mechanism of multiplier z although names have different senders: the change of each
    # name over its own noise, all names together.
    privacy, z = DpFedAvg(clip_norm=0.7, noise_multiplier=4.0), 4.0
    updates = [update(0, s0=[9.0], projector=[5.0]), *(update(i, s1=[2.0], projector=[-1.0]) for i in (1, 2, 3))]
    senders = {"s0": 1, "s1": 3, "projector": 4}
    whole = combine(privacy, updates)
    for position, one in enumerate(updates):
        zero = update(position, **{name: [0.0] for name in one.delta})
        without = combine(privacy, [*updates[:position], zero, *updates[position + 1 :]])
        change = {n: (whole[n] - without[n]) / (z * 0.7 / senders[n]) for n in whole}
        # Each client is longer than C, so the bound is met; with noise scaled to |S| everywhere s0 would break it.
        assert norm(change) == pytest.approx(1 / z, rel=1e-4)


def test_a_names_noise_depends_on_the_round_and_the_name_and_on_nothing_else():
    zeros = torch.zeros(8)
    one = combine(DpFedAvg(), [update(0, a=zeros, b=zeros)])
    turned = combine(DpFedAvg(), [update(0, b=zeros, a=zeros)])
    alone = combine(DpFedAvg(), [update(0, b=zeros)])
    assert torch.equal(one["a"], turned["a"])
    assert torch.equal(one["b"], turned["b"])
    assert torch.equal(one["b"], alone["b"])
    assert not torch.equal(one["a"], one["b"])
    assert not torch.equal(one["a"], combine(DpFedAvg(), [update(0, a=zeros)], seed=1)["a"])


# Epsilon


def exact_gaussian_epsilon(mu, delta):
    """Epsilon of a Gaussian mechanism of sensitivity mu (unit noise): Balle & Wang, ICML 2018, arXiv 1805.06530, Thm 8.

    delta(eps) = Phi(mu / 2 - eps / mu) - e^eps Phi(-mu / 2 - eps / mu) falls in eps; solved by bisection.
    """
    phi = NormalDist().cdf
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        over = phi(mu / 2 - middle / mu) - math.exp(middle) * phi(-mu / 2 - middle / mu) > delta
        low, high = (middle, high) if over else (low, middle)
    return high


@pytest.mark.parametrize(
    ("published", "noise_multiplier", "sampling_frac", "rounds"),
    [
        (1.26, 4.0, 0.01, 10_000),  # Abadi et al., CCS 2016, arXiv 1607.00133, moments accountant, Figure 2
        # MNIST, 60,000 examples in batches of 256. Bu et al., "Deep Learning with Gaussian Differential Privacy", 2020,
        # Figure 4 (moments accountant), 20 and 70 epochs; TensorFlow Privacy's tutorial, 60 epochs
        (1.34, 1.3, 256 / 60_000, 20 * 60_000 // 256),
        (8.68, 0.7, 256 / 60_000, 70 * 60_000 // 256),
        (2.92, 1.12, 256 / 60_000, 60 * 60_000 // 256),
    ],
)
def test_epsilon_is_the_published_one_or_a_little_less(published, noise_multiplier, sampling_frac, rounds):
    # All at delta 1e-5. Since then the step from Renyi to (epsilon, delta) was tightened (Canonne, Kamath, Steinke,
    # 2020, arXiv 2004.00010, Proposition 12), which takes off up to a fifth; a factor of 1.5 in z would not pass.
    value = epsilon(noise_multiplier=noise_multiplier, sampling_frac=sampling_frac, rounds=rounds, delta=1e-5)
    assert 0.79 * published < value <= published


def test_epsilon_of_all_clients_in_all_rounds_is_that_of_one_gaussian_mechanism():
    # 25 rounds of z = 10 are one mechanism of mu = sqrt(25) / 10 = 0.5. By hand, rho = mu^2 / 2 = 0.125 of zero-
    # concentrated privacy give at most rho + 2 sqrt(rho ln(1e5)) = 0.125 + 2 sqrt(0.125 * 11.5129) = 2.524.
    value = epsilon(noise_multiplier=10.0, sampling_frac=1.0, rounds=25, delta=1e-5)
    assert exact_gaussian_epsilon(0.5, 1e-5) <= value <= 2.524
    assert value < 1.15 * exact_gaussian_epsilon(0.5, 1e-5)


def test_epsilon_grows_with_rounds_and_with_the_share_of_clients_and_falls_with_noise():
    def of(noise_multiplier=2.0, sampling_frac=0.1, rounds=10):
        return epsilon(noise_multiplier=noise_multiplier, sampling_frac=sampling_frac, rounds=rounds, delta=1e-5)

    assert of(rounds=0) == 0.0
    assert 0 < of(rounds=1) < of() < of(rounds=100)
    assert of(sampling_frac=0.05) < of() < of(sampling_frac=0.5)
    assert of(noise_multiplier=4.0) < of() < of(noise_multiplier=1.0)


def test_a_run_reports_what_it_has_spent():
    # Five of fifty clients a round: a share of 0.1.
    setting = Setting(num_stages=2, num_rounds=3, num_clients=50, clients_per_round=5, seed=0)
    spent = DpFedAvg(noise_multiplier=2.0, delta=1e-3).spent(setting, 6)
    assert spent == {
        "epsilon": epsilon(noise_multiplier=2.0, sampling_frac=0.1, rounds=6, delta=1e-3),
        "dp_delta": 1e-3,
    }
    results = make_results(
        label="x", seed=0, tasks=["a"], num_stages=0,
        records=[{"kind": "evaluation", "stage": -1, "scores": {"a": 1.0}}],
        num_records={"a": 1}, params={}, spent=spent,
    )  # fmt: skip
    assert (results["epsilon"], results["dp_delta"]) == (spent["epsilon"], 1e-3)


def test_what_promises_nothing_reports_nothing():
    setting = small_setting()
    for privacy in (NoPrivacy(), TokenNoise(), DpFedAvg(noise_multiplier=0)):
        assert privacy.spent(setting, 6) == {}


# Tokens


def test_a_hidden_token_is_clipped_and_noised_and_nothing_else_of_the_client_changes():
    # (3, 4, 0 ...) of length 5 becomes (0.6, 0.8, 0 ...), times token_clip 2: (1.2, 1.6); noise 0.1 * 2 = 0.2 an entry
    plain = client(3, [3.0, 4.0] + [0.0] * 9_998, num_examples=17, task=2)
    (hidden,) = TokenNoise(token_clip=2.0, token_noise=0.1).hide([plain], seed=5)
    assert (hidden.index, hidden.task, hidden.num_examples) == (3, 2, 17)
    clipped = torch.tensor([1.2, 1.6] + [0.0] * 9_998)
    assert variance_is(hidden.feature - clipped, 0.2)
    assert plain.feature[0] == 3.0


def test_a_tokens_noise_is_the_same_in_every_round_and_differs_by_client_task_and_run():
    # Fresh noise would be averaged away: after n rounds its deviation would be 1 / sqrt(n) of this.
    def noise(index, task, seed, *others):
        clients = [client(index, [0.0] * 6, task=task), *others]
        return TokenNoise().hide(clients, seed)[0].feature.tolist()

    first = noise(0, 0, 0)
    assert noise(0, 0, 0, client(1, [0.0] * 6)) == first  # who else is selected does not matter
    assert len({tuple(first), tuple(noise(1, 0, 0)), tuple(noise(0, 1, 0)), tuple(noise(0, 0, 1))}) == 4


@pytest.mark.parametrize("bits", [0, 4])
def test_the_server_plans_and_learns_with_hidden_tokens_alone(bits):
    setting = small_setting()
    bank = small_bank(2)
    population = SmallPopulation(((0, 1), (0, 1)))
    method = Disco(num_subspaces=2)
    aggregation = Aggregation(privacy=TokenNoise(token_noise=0.05, token_bits=bits))
    federation = Federation(method, FedAvg(), population, setting, aggregation=aggregation)
    state = federation.start(bank.params())
    jobs = federation.plan(state)
    own = [c.feature for c in population.select(0, 0)]
    assert not any(torch.equal(job.client.feature, feature) for job, feature in zip(jobs, own, strict=True))
    train = trainer(bank, method, setting)
    tokens = federation.close(state, [train(job) for job in jobs]).knowledge["tokens"]
    # One client a subspace: its token is the hidden one.
    torch.testing.assert_close(tokens, torch.stack([job.client.feature for job in jobs]))
    assert [job.client.feature.tolist() for job in federation.plan(state)] == [j.client.feature.tolist() for j in jobs]


def test_the_documented_noise_keeps_two_hidden_copies_just_similar_enough_for_disco():
    # token_noise = 0.33 / sqrt(D): the cosine is about 1 / (1 + 0.33^2) = 0.902. It varies by about 1 / sqrt(D) * 0.4.
    width = 10_000
    feature = [1.0] + [0.0] * (width - 1)
    privacy = TokenNoise(token_noise=0.33 / math.sqrt(width))
    one, two = (c.feature for c in privacy.hide([client(0, feature), client(1, feature)], 0))
    assert torch.nn.functional.cosine_similarity(one, two, dim=0).item() == pytest.approx(0.902, abs=0.02)


# The door


def configured(weights="uniform", **sections):
    values = {"benchmark": {"tasks": ["ArxivQA"]}, "weights": weights, "privacy": {"name": "dp_fedavg"}, **sections}
    return make_algorithm(parse_config(values))


def test_a_mean_weighted_by_samples_is_refused():
    configured()
    with pytest.raises(ConfigError, match=r"privacy\.name: dp_fedavg wants `weights: uniform`"):
        configured(weights="samples")
    # Hidden tokens alone ask for nothing.
    configured(weights="samples", privacy={"name": "token_noise"})


def test_rules_of_unknown_sensitivity_are_refused():
    with pytest.raises(ConfigError, match=r"privacy\.name: .*the sensitivity of Median is not C / n"):
        configured(robust={"name": "median"})


class Stacking(LoraRule):
    declares = frozenset({Trait.OTHER_COMBINATION})

    def combine(self, params, updates, weights, rule):
        return {}


class SendsOneFactor(LoraRule):
    def trains(self, name):
        return "lora_A" not in name


class LearnsFromReports(Method):
    declares = frozenset({Trait.LEARNS_FROM_REPORTS})

    def report(self, run):
        return {"fisher": 1.0}, {}

    def absorb(self, knowledge, updates):
        return {"fisher": updates[0].report["fisher"]}


class KeepsAtTheClient(Method):
    def report(self, run):
        return {}, {"mine": 1.0}


class LearnsFromClients(LocalRule):
    declares = frozenset({Trait.LEARNS_FROM_REPORTS})

    def absorb(self, memory, updates, setting):
        return {"control": updates[0].local["change"]}


def conflict(privacy=None, method=None, local=None, rule=None, lora=None, weights="uniform"):
    aggregation = Aggregation(
        weights=weights, lora=lora or FactorAverage(), rule=rule or Mean(), privacy=privacy or DpFedAvg()
    )
    algorithm = Algorithm(
        method=method or Finetune(), local=local or Plain(), server=FedAvg(), aggregation=aggregation
    )  # fmt: skip
    return reasons(algorithm).get("privacy")


def test_what_reaches_the_server_unclipped_is_refused_and_what_does_not_is_not():
    assert "Stacking" in conflict(lora=Stacking())
    assert "LearnsFromReports learns from reports" in conflict(method=LearnsFromReports())
    assert "LearnsFromClients learns from reports" in conflict(local=LearnsFromClients())
    assert "Median" in conflict(rule=Median())
    assert conflict(lora=SendsOneFactor(), method=KeepsAtTheClient()) is None
    assert conflict(method=Disco()) is None
    assert conflict(TokenNoise(), LearnsFromReports(), LearnsFromClients(), Median(), Stacking(), "samples") is None


def test_noise_is_refused_where_anybody_knows_who_was_drawn():
    # Then sampling hides nobody: 5 of 50 clients, z = 1, 20 rounds are epsilon 30, not 4.
    config = {"privacy": {"name": "dp_fedavg"}, "weights": "uniform"}
    seeded, released = (
        config | {"benchmark": {"tasks": ["ArxivQA"], "selection": selection}} for selection in ("seeded", "released")
    )
    make_algorithm(parse_config(seeded))
    with pytest.raises(ConfigError, match=r"privacy\.name: epsilon counts on nobody knowing.*selection=seeded"):
        make_algorithm(parse_config(released))
    clipped = released | {"privacy": {"name": "dp_fedavg", "noise_multiplier": 0.0}}
    make_algorithm(parse_config(clipped))  # which promises nothing


def test_without_the_accountant_a_run_that_needs_it_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'fcit_ray[privacy]'" in conflict()
    assert conflict(DpFedAvg(noise_multiplier=0)) is None  # nothing to compute


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip_norm", 0),
        ("noise_multiplier", -1),
        ("delta", 0),
        ("delta", 1),
        ("token_clip", 0),
        ("token_noise", -0.1),
        ("token_bits", -1),
        ("token_bits", 17),
        ("token_bits", 2.5),
    ],
)
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"privacy\.{key}"):
        configured(privacy={"name": "dp_fedavg", key: value})


@pytest.mark.parametrize("name", AXES["privacy"].parts)
def test_every_privacy_rule_has_sound_defaults(name):
    configured(privacy={"name": name})
    assert make("privacy", {"name": name}) == part_class("privacy", name)()
