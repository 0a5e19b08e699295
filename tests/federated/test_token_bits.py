"""Quantised identity tokens: values worked out by hand, and what the docstring says of them."""

import math

import pytest
import torch
from small import client

from fcit_ray.federated.privacy import DpFedAvg, TokenNoise

WIDTH = 512


def hidden(feature, seed=0, **rule):
    return TokenNoise(**rule).hide([client(0, torch.as_tensor(feature).tolist())], seed)[0].feature


def tokens(count):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        # One bit: levels -1, 1; 0 lies between them and goes to the even one of the two, number 0.
        (1, [1.0, -1.0, 1.0, -1.0]),
        # Two: -1, -1/3, 1/3, 1; 0 lies between numbers 1 and 2.
        (2, [1.0, -1 / 3, 1 / 3, 1 / 3]),
        # Three: sevenths. (-0.5 + 1) / 2 * 7 = 1.75 -> 2, which is 4/7 - 1; 0.2: 4.2 -> 4, 1/7; 0: 3.5 -> 4.
        (3, [1.0, -3 / 7, 1 / 7, 1 / 7]),
    ],
)
def test_entries_go_to_the_nearest_of_even_levels_up_to_the_largest(bits, expected):
    feature = [1.0, -0.5, 0.2, 0.0]
    torch.testing.assert_close(
        hidden(feature, token_clip=10.0, token_noise=0.0, token_bits=bits), torch.tensor(expected)
    )


def test_a_token_is_clipped_before():
    # (6, -8) of norm 10 becomes (0.6, -0.8). 0.6 of two bits: (0.6 / 0.8 + 1) / 2 * 3 = 2.625 -> 3, so 0.8.
    quantised = hidden([6.0, -8.0], token_clip=1.0, token_noise=0.0, token_bits=2)
    torch.testing.assert_close(quantised, torch.tensor([0.8, -0.8]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_few_values_near_the_tokens_own_and_the_same_when_quantised_again(bits):
    steps = 2**bits - 1
    for feature in tokens(20):
        quantised = hidden(feature, token_clip=100.0, token_noise=0.0, token_bits=bits)
        largest, length = feature.abs().max().item(), feature.norm().item()
        assert len(quantised.unique()) <= steps + 1
        assert quantised.abs().max() == largest
        assert (quantised - feature).abs().max() <= largest / steps * (1 + 1e-5)
        assert torch.equal(hidden(quantised, token_clip=100.0, token_noise=0.0, token_bits=bits), quantised)
        worst = WIDTH * (largest / steps / length) ** 2
        cosine = torch.cosine_similarity(quantised.double(), feature.double(), dim=0).item()
        assert cosine >= math.sqrt(max(0.0, 1 - worst)) - 1e-6
        if bits > 2:  # levels much nearer to each other than entries are
            assert cosine == pytest.approx(1 / math.sqrt(1 + worst / 3), abs=0.1 * worst / 3)


def test_noise_comes_first_and_levels_hide_nothing_of_its_seed():
    (feature,) = tokens(1)
    noise = {"token_clip": 1.0, "token_noise": 0.02}
    both = hidden(feature, **noise, token_bits=3)
    assert torch.equal(both, hidden(hidden(feature, **noise), token_clip=100.0, token_noise=0.0, token_bits=3))
    assert len(both.unique()) <= 8
    assert torch.equal(both, hidden(feature, **noise, token_bits=3))
    assert not torch.equal(both, hidden(feature, seed=1, **noise, token_bits=3))


def test_a_token_of_zeros_stays_and_without_noise_no_seed_matters():
    assert torch.equal(hidden([0.0, 0.0], token_noise=0.0, token_bits=4), torch.zeros(2))
    (feature,) = tokens(1)
    rule = {"token_noise": 0.0, "token_bits": 4}
    assert torch.equal(hidden(feature, seed=0, **rule), hidden(feature, seed=1, **rule))


def test_dp_fedavg_quantises_tokens_too():
    (shown,) = DpFedAvg(token_bits=1, token_clip=10.0).hide([client(0, [3.0, -1.0])], 0)
    assert shown.feature.tolist() == [3.0, -3.0]


def test_the_documented_threshold_is_what_a_cosine_of_nine_tenths_is_between_signs():
    one, other = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0)).double()
    other -= other @ one / (one @ one) * one
    like = 0.9 * one / one.norm() + math.sqrt(1 - 0.9**2) * other / other.norm()
    signs = [hidden(feature, token_noise=0.0, token_bits=1).double() for feature in (one, like)]
    # 1 - 2 arccos(0.9) / pi = 0.713; of 20,000 signs the standard error is 2 sqrt(0.144 * 0.856 / 20,000) = 0.005.
    assert torch.cosine_similarity(*signs, dim=0).item() == pytest.approx(0.713, abs=0.02)
