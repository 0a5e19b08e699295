"""Rules over clients: what they make of honest deltas, and how far an attacker moves them."""

import math

import pytest
import torch
from small import SmallPopulation, client, small_bank, small_setting, trainer

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.components import AXES, make, part_class
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.robust import ClippedMean, Krum, Mean, Median, MultiKrum, TrimmedMean, krum_scores
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import clip_to_norm, norm, params_sha256, weighted_mean
from fcit_ray.types import Assignment, ClientUpdate

UNWEIGHTED = [Median(), TrimmedMean(), TrimmedMean(drop_frac=0.4), Krum(), MultiKrum()]
BREADTH = 1000


def items(*values):
    return [{"a": torch.tensor([float(value)])} for value in values]


def combined(rule, *values, weights=None):
    """The rule on one number a client."""
    return rule.combine(items(*values), weights or [1.0] * len(values))["a"].item()


def honest(count, seed=0):
    """Deltas around one direction of length one, each 0.5 away from it."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.full((BREADTH,), BREADTH**-0.5)
    spread = 0.5 * BREADTH**-0.5
    return [{"a": direction + spread * torch.randn(BREADTH, generator=draw)} for _ in range(count)]


def learned(**choices):
    setting = small_setting(clients=3)
    bank = small_bank()
    population = SmallPopulation(((0, 0, 0), (1, 1, 2)))
    federation = Federation(Finetune(), FedAvg(), population, setting, aggregation=Aggregation(**choices))
    return params_sha256(simulate(federation, bank.params(), trainer(bank, Finetune(), setting)).params)


# Identities


@pytest.fixture(scope="module")
def uniform():
    """Two stages of three clients under FedAvg with uniform weights."""
    return learned(weights="uniform")


@pytest.mark.parametrize(
    "rule", [TrimmedMean(drop_frac=0), MultiKrum(num_attackers=0), ClippedMean(clip_norm=1e6)], ids=repr
)
def test_a_rule_that_leaves_nobody_out_is_the_uniform_mean_to_the_bit(rule, uniform):
    assert learned(weights="uniform", rule=rule) == uniform


def test_leaving_somebody_out_is_not_the_uniform_mean(uniform):
    # The identities above say something only if these rules do something.
    others = {learned(rule=rule) for rule in (Median(), Krum(num_attackers=0), ClippedMean())}
    assert len(others) == 3
    assert uniform not in others


def test_the_median_of_two_clients_is_their_mean_to_the_bit():
    pair = honest(2)
    assert params_sha256(Median().combine(pair, [1, 1])) == params_sha256(weighted_mean(pair, [1.0, 1.0]))


def test_trimming_all_but_the_middle_is_the_median_to_the_bit():
    five = honest(5)
    trimmed = TrimmedMean(drop_frac=0.4).combine(five, [1] * 5)
    assert torch.equal(trimmed["a"], Median().combine(five, [1] * 5)["a"])


def test_krum_is_multi_krum_that_keeps_one_to_the_bit():
    five = honest(5)
    multi = MultiKrum(num_attackers=1, num_kept=1).combine(five, [1] * 5)
    krum = Krum(num_attackers=1).combine(five, [1] * 5)
    assert torch.equal(krum["a"], multi["a"])
    assert any(torch.equal(krum["a"], item["a"]) for item in five)


# Numbers worked out by hand


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    assert combined(Median(), 5, -100, 1) == 1.0
    # sorted 1 2 5 90: (2 + 5) / 2; torch.median would take 2
    assert combined(Median(), 90, 1, 5, 2) == 3.5


def test_the_trimmed_mean_drops_a_share_at_each_end():
    # 0.2 * 5 = 1 goes at each end: (1 + 2 + 6) / 3
    assert combined(TrimmedMean(), 100, 1, -50, 2, 6) == 3.0
    # floor(0.2 * 9) = 1, floor(0.2 * 10) = 2
    assert combined(TrimmedMean(), *range(8), 1000) == pytest.approx(4.0)  # (1 + ... + 7) / 7
    assert combined(TrimmedMean(), 1000, 900, 3, 4, 5, 6, 7, 11, -900, -1000) == 6.0  # 36 / 6


def test_a_share_of_few_clients_is_rounded_down_to_nobody():
    # floor(0.2 * 4) = 0: the plain mean, which an attacker moves
    assert combined(TrimmedMean(), 0, 0, 0, 400) == 100.0
    # and the largest share leaves a value: floor(0.4999999999 * 2) = 0
    assert combined(TrimmedMean(drop_frac=0.4999999999), 1, 3) == 2.0


def test_a_share_that_binary_numbers_miss_is_not_rounded_down_too_far():
    # 0.29 * 100 is 28.999999999999996; 29 attackers of 100 are what 0.29 promises to bear.
    assert 0.29 * 100 < 29
    assert combined(TrimmedMean(drop_frac=0.29), *[1.0] * 71, *[1e6] * 29) == pytest.approx(1.0, abs=1e-5)


def test_a_krum_score_sums_the_nearest_others_and_not_the_client_itself():
    # 0 1 3 7 20 and f = 1: n - f - 2 = 2 nearest others. Squared distances:
    #  0: 1, 9 -> 10    1: 1, 4 -> 5    3: 4, 9 -> 13    7: 16, 36 -> 52    20: 169, 289 -> 458
    # Counting itself (distance 0) would give 1, 1, 4, 16, 169 and make 0 the winner.
    assert krum_scores(items(0, 1, 3, 7, 20), 1) == [10.0, 5.0, 13.0, 52.0, 458.0]
    assert combined(Krum(), 0, 1, 3, 7, 20) == 1.0


def test_distances_are_squared():
    # f = 0, n - 2 = 2 nearest others: 1 + 16, 1 + 25, 4 + 16, 4 + 36; not squared -1 and 4 would tie at 6.
    assert krum_scores(items(0, -1, 4, 6), 0) == [17.0, 26.0, 20.0, 40.0]
    assert combined(MultiKrum(num_attackers=0, num_kept=2), 0, -1, 4, 6) == 2.0


def test_multi_krum_averages_the_lowest_scores():
    # Scores as above, 5 10 13 52 458: of 1, 0, 3 the mean is 4/3; by default n - f = 4 are kept: 11/4.
    assert combined(MultiKrum(num_kept=3), 0, 1, 3, 7, 20) == pytest.approx(4 / 3)
    assert combined(MultiKrum(), 0, 1, 3, 7, 20) == 2.75
    # More than n - f are never kept: the fifth is taken for an attacker.
    assert combined(MultiKrum(num_kept=5), 0, 1, 3, 7, 20) == 2.75


def test_of_equal_scores_the_first_client_wins():
    # f = 1, one nearest other: every client has one at distance 1.
    assert krum_scores(items(1, 0, 11, 10), 1) == [1.0, 1.0, 1.0, 1.0]
    assert combined(Krum(), 1, 0, 11, 10) == 1.0
    assert combined(Krum(), 10, 11, 0, 1) == 10.0


def test_the_clipped_mean_scales_what_is_too_long_and_nothing_else():
    # (3, 4) has length 5 and becomes (1.5, 2); (0, 1) stays: ((1.5 + 0) / 2, (2 + 1) / 2)
    deltas = [
        {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])},
        {"a": torch.tensor([0.0]), "b": torch.tensor([1.0])},
    ]
    mean = ClippedMean(clip_norm=2.5).combine(deltas, [1.0, 1.0])
    torch.testing.assert_close(mean["a"], torch.tensor([0.75]))
    torch.testing.assert_close(mean["b"], torch.tensor([1.5]))


def test_without_a_norm_the_median_of_the_round_is_taken():
    # lengths 1 2 3 8 40: all are cut to 3: (1 + 2 - 3 + 3 + 3) / 5
    assert combined(ClippedMean(), 1, 2, -3, 8, 40) == pytest.approx(6 / 5)
    # of four the lower of the middle two, 2: (1 + 2 + 2 + 2) / 4
    assert combined(ClippedMean(), 1, 2, 8, 40) == pytest.approx(7 / 4)


def test_a_clip_holds_after_rounding_and_leaves_short_ones_their_bits():
    draw = torch.Generator().manual_seed(0)
    for length in (0.1, 1 / 3, 1.0, 7.77):
        for _ in range(20):
            params = {"a": torch.randn(37, generator=draw), "b": torch.randn(5, 3, generator=draw)}
            clipped = clip_to_norm(params, length)
            if norm(params) <= length:
                assert clipped is params
            assert norm(clipped) <= length
            assert norm(clipped) > min(length, norm(params)) * (1 - 1e-6)
    assert clip_to_norm({"a": torch.zeros(3)}, 1.0)["a"].tolist() == [0.0] * 3
    assert clip_to_norm({"a": torch.tensor([1.0, math.nan])}, 1.0)["a"].tolist() == [0.0, 0.0]


# Weights


@pytest.mark.parametrize("rule", UNWEIGHTED, ids=repr)
def test_a_client_that_claims_many_samples_counts_no_more(rule):
    deltas = honest(5)
    honestly = rule.combine(deltas, [10.0] * 5)
    boasting = rule.combine(deltas, [10.0, 10.0, 1e9, 10.0, 10.0])
    assert torch.equal(honestly["a"], boasting["a"])


def test_the_clipped_mean_takes_weights():
    # (3 * 1 + 1 * 2) / 4, the 8 being cut to 2
    assert combined(ClippedMean(clip_norm=2.0), 1, 8, weights=[3.0, 1.0]) == pytest.approx(1.25)


# Attacks


def moved(rule, attack):
    """Distance from the honest mean of four of what the rule makes of them and an attacker, in honest lengths."""
    four = honest(4)
    mean = weighted_mean(four, [1.0] * 4)["a"]
    result = rule.combine([*four[:2], attack(four), *four[2:]], [1.0] * 5)["a"]
    return ((result - mean).norm() / mean.norm()).item()


def hundredfold(four):
    """The attacker's own honest delta, turned round, a hundred times as long."""
    return {"a": -100 * honest(5)[4]["a"]}


def test_one_attacker_of_five_moves_the_mean_and_not_the_others():
    # Honest deltas have length sqrt(1 + 0.25), the attacker's is 100 times that: the mean goes off by 1/5 of
    # |attack - mean of four|, above 20. A rule that stays among the honest ones is within about 0.5 of their mean: Krum
    # is one of them (0.5 * sqrt(3/4) = 0.43); coordinates of median and trimmed mean are pulled to one side by less
    # than a half of the spread; Multi-Krum without the attacker is the honest mean itself. A clipped attacker has the
    # length of an honest one (1.12): it takes away 1/5 of 2.1, and the mean over 1.03.
    assert moved(Mean(), hundredfold) > 20
    assert moved(Median(), hundredfold) < 0.3
    assert moved(TrimmedMean(), hundredfold) < 0.3
    assert moved(Krum(), hundredfold) < 0.5
    assert moved(MultiKrum(), hundredfold) < 1e-6
    assert moved(ClippedMean(), hundredfold) < 0.5


@pytest.mark.parametrize("rule", [*UNWEIGHTED, ClippedMean(), ClippedMean(clip_norm=1.0)], ids=repr)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_what_is_no_number_does_not_reach_the_result(rule, value):
    assert moved(rule, lambda four: {"a": torch.full((BREADTH,), value)}) < 1


@pytest.mark.parametrize("rule", [Median(), TrimmedMean()], ids=repr)
def test_coordinates_stay_between_what_honest_clients_sent(rule):
    four = honest(4)
    stacked = torch.stack([item["a"] for item in four])
    for sign in (-1, 1):
        result = rule.combine([*four, {"a": torch.full((BREADTH,), sign * 1e9)}], [1.0] * 5)["a"]
        assert (result >= stacked.min(0).values - 1e-6).all()
        assert (result <= stacked.max(0).values + 1e-6).all()


@pytest.mark.parametrize("rule", [Median(), Krum()], ids=repr)
def test_the_order_of_clients_does_not_matter(rule):
    five = honest(5)
    turned = rule.combine(five[::-1], [1] * 5)
    assert torch.equal(rule.combine(five, [1] * 5)["a"], turned["a"])


# Subspaces


def update(index, subspace, **delta):
    assignment = Assignment(train=(subspace,))
    return ClientUpdate(stage=0, round=0, client=client(index, [1.0]), assignment=assignment, delta=delta)


def two_subspaces():
    """Clients 0-3 send s0 (0 1 3 20), clients 4-6 send s1 (5 5 95); all send the projector (0 1 2 3 4 5 600)."""
    spaces = [("l.s0.w", v) for v in (0, 1, 3, 20)] + [("l.s1.w", v) for v in (5, 5, 95)]
    projector = (0, 1, 2, 3, 4, 5, 600)
    return [
        update(
            i, int("s1" in name), **{name: torch.tensor([float(v)]), "projector": torch.tensor([float(projector[i])])}
        )
        for i, (name, v) in enumerate(spaces)
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Medians of four, three and seven senders.
        (Median(), {"l.s0.w": 2.0, "l.s1.w": 5.0, "projector": 3.0}),
        # 0.25 of 4, 3 and 7 senders, rounded down: 1, 0 and 1; (1 + 3) / 2, 105 / 3, (1 + 2 + 3 + 4 + 5) / 5.
        (TrimmedMean(drop_frac=0.25), {"l.s0.w": 2.0, "l.s1.w": 35.0, "projector": 3.0}),
        # s0: one nearest other each, squared 1 1 4 289: the first. s1: three senders are fewer than f + 3, the median.
        # Projector: four nearest others: 2 has 1 + 1 + 4 + 4 = 10 and 3 the same, 1 and 4 have 15: so 2.
        (Krum(), {"l.s0.w": 0.0, "l.s1.w": 5.0, "projector": 2.0}),
        # s0: all but 20, 4 / 3; s1: the median; projector: all but 600, 15 / 6.
        (MultiKrum(), {"l.s0.w": 4 / 3, "l.s1.w": 5.0, "projector": 2.5}),
    ],
    ids=repr,
)
def test_each_subspace_is_combined_over_its_own_clients(rule, expected):
    delta = Aggregation(rule=rule).combine({}, two_subspaces(), 0)
    assert {name: pytest.approx(value.item()) for name, value in delta.items()} == expected


def test_names_that_the_same_clients_sent_are_compared_together():
    # By "a" alone (0 1 3 20, one nearest other) client 0 would win, by "b" alone (0 50 50 50) client 1. Together,
    # squared: 0-1 1 + 2500, 0-2 9 + 2500, 1-2 4, 1-3 361, 2-3 289: client 1 wins, and both its values are taken.
    deltas = [
        {"a": torch.tensor([float(a)]), "b": torch.tensor([float(b)])} for a, b in ((0, 0), (1, 50), (3, 50), (20, 50))
    ]
    assert krum_scores(deltas, 1) == [2501.0, 4.0, 4.0, 289.0]
    result = Krum().combine(deltas, [1.0] * 4)
    assert (result["a"].item(), result["b"].item()) == (1.0, 50.0)


@pytest.mark.parametrize("rule", [*UNWEIGHTED, ClippedMean()], ids=repr)
def test_a_name_that_nobody_sent_is_absent_and_a_lone_sender_is_believed(rule):
    delta = rule.combine(
        [{"a": torch.tensor([2.0])}, {"b": torch.tensor([1.0])}, {"b": torch.tensor([1.0])}], [1.0] * 3
    )
    assert delta.keys() == {"a", "b"}
    assert delta["b"].item() == pytest.approx(1.0)
    assert delta["a"].item() == pytest.approx(1.0 if isinstance(rule, ClippedMean) else 2.0)


# The door


def configured(robust, clients=5, **values):
    benchmark = {"tasks": ["ArxivQA"], "num_clients": 10, "clients_per_round": clients}
    return make_algorithm(parse_config({"benchmark": benchmark, "robust": robust, **values}))


def test_krum_among_too_few_clients_is_refused():
    # f + 3 = 5 clients for f = 2
    configured({"name": "krum", "num_attackers": 2}, clients=5)
    with pytest.raises(ConfigError, match=r"robust.name: with num_attackers=2 it compares at least 5 clients .* is 4"):
        configured({"name": "krum", "num_attackers": 2}, clients=4)
    with pytest.raises(ConfigError, match=r"num_attackers=1 and num_kept=5 it compares at least 6 clients .* is 5"):
        configured({"name": "multi_krum", "num_kept": 5})
    # A run that is no federation has one client, whom nobody doubts.
    configured({"name": "krum", "num_attackers": 2}, clients=4, regime="centralised")


def test_shares_that_leave_nothing_are_refused():
    for drop_frac in (0.5, -0.1):
        with pytest.raises(ConfigError, match=r"robust\.drop_frac"):
            configured({"name": "trimmed_mean", "drop_frac": drop_frac})
    with pytest.raises(ConfigError, match=r"robust\.clip_norm"):
        configured({"name": "clipped_mean", "clip_norm": 0})


@pytest.mark.parametrize("name", AXES["robust"].parts)
def test_every_rule_has_sound_defaults(name):
    configured({"name": name})
    assert make("robust", {"name": name}) == part_class("robust", name)()
