"""FedEx-LoRA's residual: by hand, the right way round, and without rounding where clients agree."""

import pytest
import torch
from dense import IN, OUT, A, B, P, R, answer, close, matrix, numbers, start, trained

from fcit_ray.federated.lora.fedex import FedEx
from fcit_ray.federated.lora.flora import FLoRA
from fcit_ray.params import weighted_mean


def test_a_residual_by_hand():
    # Rank 1, three inputs, two outputs, two clients alike. B_1 A_1 = [1,0]^T [1,0,0], B_2 A_2 = [0,1]^T [0,0,2], so
    # the mean product is [[.5,0,0],[0,0,1]]. B = [.5,.5]^T, A = [.5,0,1]: B A = [[.25,0,.5],[.25,0,.5]].
    # R = [[.25,0,-.5],[-.25,0,.5]], on top of what was there.
    before = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    params = {A: torch.zeros(1, 3), B: torch.zeros(2, 1), R: before}
    updates = [
        answer(0, 7, a=[[1.0, 0.0, 0.0]], b=[[1.0], [0.0]]),
        answer(1, 7, a=[[0.0, 0.0, 2.0]], b=[[0.0], [1.0]]),
    ]
    delta = FedEx().combine(params, updates, [7.0, 7.0], weighted_mean, 0)
    assert delta[A].tolist() == [[0.5, 0.0, 1.0]]
    assert delta[B].tolist() == [[0.5], [0.5]]
    assert delta[R].tolist() == [[0.25, 0.0, -0.5], [-0.25, 0.0, 0.5]]
    assert torch.equal(close(FedEx(), params, updates)[R], before + delta[R])


@pytest.mark.parametrize("rule", [FedEx(), FLoRA()], ids=repr)
def test_a_residual_is_never_transposed(rule):
    # The released slip: R^T is added, whatever the layer. In a square layer that fits, and is wrong.
    params = {
        A: torch.zeros(2, 3),
        B: torch.zeros(3, 2),
        R: torch.zeros(3, 3),
    }
    updates = [answer(k, 10, a=numbers(2, 3, seed=k).tolist(), b=numbers(3, 2, seed=9 + k).tolist()) for k in range(2)]
    mean = sum(0.5 * u.delta[B].double() @ u.delta[A].double() for u in updates)
    after = close(rule, params, updates)
    torch.testing.assert_close(matrix(after), mean, rtol=1e-5, atol=1e-5)
    transposed = matrix({**after, R: after[R].T})
    assert (transposed - mean).norm() > 0.1 * mean.norm()


def test_the_residual_has_the_shape_and_rank_that_the_paper_says():
    # (out, in); of rank at most (n + 1) r, for n clients of rank r.
    params = start(FedEx(), rank=1)
    updates = [trained(FedEx(), params, index)[0] for index in range(2)]
    delta = FedEx().combine(params, updates, [10.0, 20.0], weighted_mean, 0)
    assert delta[R].shape == (OUT, IN)
    # w_1 (B_1 - B) and w_2 (B_2 - B) sum to zero, so two clients of rank one leave a residual of rank one.
    values = torch.linalg.svdvals(delta[R].double())
    assert values[0] > 0.1
    assert values[1] < 1e-5 * values[0]


def test_equal_clients_leave_exactly_nothing():
    # Weights of a half have no rounding; the difference sum w B A - B A would still have some, the centred sum not.
    params = start(FedEx())
    updates = [trained(FedEx(), params, index, seed=3)[0] for index in range(2)]
    delta = FedEx().combine(params, updates, [10.0, 10.0], weighted_mean, 0)
    assert not delta[R].any()


def test_clients_that_share_one_factor_need_no_residual():
    # With A the same everywhere, the mean of B times A is the mean of the products.
    params = start(FedEx())
    updates = [trained(FedEx(), params, index)[0] for index in range(3)]
    for update in updates:
        update.delta[A] = updates[0].delta[A]
    delta = FedEx().combine(params, updates, [1.0, 2.0, 3.0], weighted_mean, 0)
    assert delta[R].abs().max() < 1e-6


def test_residuals_of_several_rounds_add_up():
    params = start(FedEx())
    expected = params[R].double()
    for turn in range(3):
        updates, values = zip(
            *[trained(FedEx(), params, index, 10 + turn, seed=10 * turn + index) for index in range(3)], strict=True
        )
        mean = sum(matrix(value) for value in values) / 3
        params = close(FedEx(), params, updates)
        torch.testing.assert_close(matrix(params), mean, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(params[R].double(), expected)


def test_nobody_who_trained_the_adapter_leaves_it_and_its_residual_alone():
    params = start(FedEx())
    update = answer(0, 10, p=[1.0, 1.0, 1.0])
    assert FedEx().combine(params, [update], [10.0], weighted_mean, 0).keys() == {P}
