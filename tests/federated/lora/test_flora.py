"""FLoRA: the stacks by hand and against stacked matrices, and the new start of every round."""

import torch
from dense import A, B, R, answer, close, learned, start, trained
from small import FLOATS_PER_RANK, SmallPopulation

from fcit_ray.federated.lora.flora import FLoRA

UNEQUAL = (1, 2, 4)


def test_the_sum_of_products_by_hand():
    # p = (1/4, 3/4); B_1 A_1 = [1,0]^T [4,0,0], B_2 A_2 = [0,2]^T [0,0,2]: [[1,0,0],[0,0,3]].
    params = {A: torch.zeros(1, 3), B: torch.zeros(2, 1), R: torch.zeros(2, 3)}
    updates = [
        answer(0, 10, a=[[4.0, 0.0, 0.0]], b=[[1.0], [0.0]]),
        answer(1, 30, a=[[0.0, 0.0, 2.0]], b=[[0.0], [2.0]]),
    ]
    assert close(FLoRA(), params, updates)[R].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]]


def test_the_residual_is_the_product_of_the_stacks():
    # A_s = [p_1 A_1; p_2 A_2; ...] with r_k rows each, B_s = [B_1, B_2, ...], in float64.
    rule = FLoRA(ranks=UNEQUAL)
    params = start(rule)
    counts = (10, 20, 5)
    updates, values = zip(*[trained(rule, params, index, count) for index, count in enumerate(counts)], strict=True)
    stack_a = torch.cat([n / 35 * v[A].double()[:r] for n, r, v in zip(counts, UNEQUAL, values, strict=True)])
    stack_b = torch.cat([v[B].double()[:, :r] for r, v in zip(UNEQUAL, values, strict=True)], dim=1)
    assert stack_a.shape[0] == stack_b.shape[1] == 7
    moved = close(rule, params, updates)[R] - params[R]
    torch.testing.assert_close(moved.double(), stack_b @ stack_a, rtol=1e-4, atol=1e-4)


def test_every_round_starts_from_a_new_a_and_zero_b():
    rule = FLoRA()
    params = start(rule)
    updates = [trained(rule, params, index)[0] for index in range(2)]
    first, again, other = (close(rule, params, updates, seed=seed) for seed in (1, 1, 2))
    assert not first[B].any()
    assert torch.equal(first[A], again[A])
    assert not torch.equal(first[A], other[A])
    assert not torch.allclose(first[A], params[A])
    # It is as spread as the old one, which the clients' training has not touched.
    torch.testing.assert_close(first[A].norm(), params[A].norm())
    # The clients' own A is nowhere in it.
    moved = [trained(rule, params, index, seed=9)[0] for index in range(2)]
    assert torch.equal(close(rule, params, moved, seed=1)[A], first[A])


def test_layers_do_not_share_a_draw():
    rule, other = FLoRA(), {A: "other.lora_A.s0.weight", B: "other.lora_B.s0.weight", R: "other.residual"}
    params = start(rule)
    both = {**params, **{other[name]: params[name] for name in other}}
    update = trained(rule, params, 0)[0]
    update.delta.update({other[name]: update.delta[name] for name in (A, B)})
    after = close(rule, both, [update])
    assert torch.equal(after[other[R]], after[R])
    assert not torch.allclose(after[other[A]], after[A])


def test_a_has_its_spread_after_many_rounds():
    params = start(FLoRA())
    update = trained(FLoRA(), params, 0)[0]
    before = params[A].norm()
    for turn in range(200):
        params = close(FLoRA(), params, [update], seed=turn)
    torch.testing.assert_close(params[A].norm(), before, rtol=1e-4, atol=0)


def test_in_a_run_the_global_b_is_zero_and_all_that_was_learned_is_in_the_residual():
    state, _, updates, _ = learned(FLoRA(), SmallPopulation(((0, 1),)))
    b = [value for name, value in state.params.items() if ".lora_B." in name]
    assert len(b) == 6
    assert not any(value.any() for value in b)
    # Clients send both factors of rank 4 and the projector, never a residual.
    sent = sum(value.numel() for name, value in updates[0].delta.items() if "lora_" in name)
    assert sent == 4 * FLOATS_PER_RANK
