"""Averages by hand and against float64, and digests that tell any two different states apart."""

import math

import pytest
import torch

from fcit_ray.params import add, norm, num_bytes, params_sha256, weighted_mean


def draw(seed, shape=(7, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_mean_is_weighted_by_samples():
    # (1 * 10 + 3 * 20) / 4 = 17.5 and (1 * 4 + 3 * 0) / 4 = 1
    mean = weighted_mean([{"w": torch.tensor([10.0, 4.0])}, {"w": torch.tensor([20.0, 0.0])}], [1, 3])
    assert mean["w"].tolist() == [17.5, 1.0]


def test_the_mean_agrees_with_float64():
    items, weights = [{"w": draw(seed)} for seed in range(5)], [3, 1, 4, 1, 59]
    exact = sum(weight * item["w"].double() for item, weight in zip(items, weights, strict=True)) / sum(weights)
    mean = weighted_mean(items, weights)["w"]
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean.double(), exact, rtol=1e-6, atol=1e-6)


def test_a_name_is_averaged_over_those_who_sent_it():
    # Absence is not a zero: b is (2 * 6 + 1 * 3) / 3 = 5 of the two who have it, however much the first weighs.
    items = [{"a": torch.ones(1)}, {"b": torch.tensor([6.0])}, {"b": torch.tensor([3.0]), "a": torch.zeros(1)}]
    mean = weighted_mean(items, [3, 2, 1])
    assert mean["b"].tolist() == [5.0]
    assert mean["a"].tolist() == [0.75]
    assert mean.keys() == {"a", "b"}


def test_nobody_sends_nothing():
    assert weighted_mean([], []) == {}
    assert weighted_mean([{}, {}], [1, 2]) == {}


def test_a_client_without_weight_counts_for_nothing_even_if_its_numbers_are_none():
    spoilt = {"w": torch.tensor([math.inf]), "only": torch.ones(1)}
    mean = weighted_mean([spoilt, {"w": torch.tensor([2.0])}], [0, 5])
    assert mean.keys() == {"w"}
    assert mean["w"].tolist() == [2.0]


def test_a_negative_weight_is_our_own_mistake():
    with pytest.raises(AssertionError, match="counts of samples"):
        weighted_mean([{"w": torch.ones(1)}] * 2, [2, -1])


def test_a_single_client_is_its_own_mean_to_the_bit():
    value = draw(1)
    assert torch.equal(weighted_mean([{"w": value}], [37])["w"], value)


def test_equal_clients_are_a_fixed_point():
    value = draw(1)
    # quarters are exact in binary; fifths are not, so there only up to rounding
    assert torch.equal(weighted_mean([{"w": value}] * 4, [9] * 4)["w"], value)
    torch.testing.assert_close(weighted_mean([{"w": value}] * 5, [1, 2, 3, 4, 5])["w"], value, rtol=1e-6, atol=0)


def test_nothing_is_changed_in_place():
    one, other = {"w": draw(1)}, {"w": draw(2)}
    weighted_mean([one, other], [1, 1])
    add(one, other)
    assert torch.equal(one["w"], draw(1))
    assert torch.equal(other["w"], draw(2))


def test_the_shape_of_one_number_survives():
    assert weighted_mean([{"w": torch.tensor(3.0)}], [2])["w"].shape == ()


def test_add_leaves_what_has_no_delta():
    total = add({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.tensor([1.0, -3.0])})
    assert total["a"].tolist() == [2.0, -2.0]
    assert total["b"].tolist() == [1.0]
    with pytest.raises(AssertionError, match=r"unknown to the state: \['c'\]"):
        add({"a": torch.ones(1)}, {"c": torch.ones(1)})


def test_norm_runs_over_all_entries():
    assert norm({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}) == 5.0
    assert norm({}) == 0.0
    # the squares of 1e30 are beyond float32
    assert norm({"a": torch.tensor([1e30])}) == pytest.approx(1e30, rel=1e-6)


def test_bytes_follow_the_type():
    # 6 float32 = 24 bytes, 3 bfloat16 = 6 bytes
    assert num_bytes({"a": torch.zeros(2, 3), "b": torch.zeros(3, dtype=torch.bfloat16)}) == 30


def test_the_digest_ignores_the_order_of_names_and_the_layout_in_memory():
    matrix = draw(1)
    one = params_sha256({"a": matrix, "b": torch.ones(1)})
    assert one == params_sha256({"b": torch.ones(1), "a": matrix.T.contiguous().T})


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, -0.0])},  # equal in value, not in bits
        {"a": torch.tensor([[1.0, 0.0]])},
        {"b": torch.tensor([1.0, 0.0])},
        {"a": torch.tensor([1.0, 0.0], dtype=torch.float64)},
        {"a": torch.tensor([1.0, 1e-45])},
        {"a": torch.tensor([1.0, 0.0]), "b": torch.zeros(0)},
        {"a": torch.tensor([1065353216, 0], dtype=torch.int32)},  # the same bytes as float32's 1.0 and 0.0
        {},
    ],
)
def test_the_digest_tells_states_apart(other):
    assert params_sha256(other) != params_sha256({"a": torch.tensor([1.0, 0.0])})


def test_a_name_cannot_pass_for_another_with_its_type():
    value = torch.zeros(0)
    assert params_sha256({"a' torch.float32 (0,)\n'b": value}) != params_sha256({"a": value, "b": value})
