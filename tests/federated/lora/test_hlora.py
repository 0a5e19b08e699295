"""HLoRA: the best factors of the mean product, against a dense SVD; clients of unequal rank share one scaling."""

import pytest
import torch
from dense import IN, OUT, RANK, A, B, R, answer, close, matrix, numbers, start, trained
from peft.tuners.lora import LoraLayer
from small import small_bank

from fcit_ray.federated.lora.hlora import HLoRA, best_factors
from fcit_ray.types import Assignment

UNEQUAL = (1, 2, 4)


def best(dense, rank):
    u, s, vt = torch.linalg.svd(dense)
    return u[:, :rank] @ torch.diag(s[:rank]) @ vt[:rank]


def test_factors_by_hand():
    # Mean of [1,0]^T [1,0,0] and [0,1]^T [0,0,2] is [[.5,0,0],[0,0,1]], whose singular values are 1 and .5: in rank 1,
    # B = [0,1]^T and A = [0,0,1].
    params = {A: torch.zeros(1, 3), B: torch.zeros(2, 1)}
    updates = [
        answer(0, 7, a=[[1.0, 0.0, 0.0]], b=[[1.0], [0.0]]),
        answer(1, 7, a=[[0.0, 0.0, 2.0]], b=[[0.0], [1.0]]),
    ]
    after = close(HLoRA(), params, updates)
    torch.testing.assert_close(after[A], torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(after[B], torch.tensor([[0.0], [1.0]]))


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", [HLoRA(), HLoRA(ranks=UNEQUAL)], ids=repr)
def test_the_product_is_the_nearest_of_its_rank_to_the_mean_product(rank, rule):
    params, counts = start(rule, rank), (10, 30, 5)
    updates, values = zip(*[trained(rule, params, k, n) for k, n in enumerate(counts)], strict=True)
    mean = sum(n / 45 * matrix(value) for n, value in zip(counts, values, strict=True))
    after = close(rule, params, updates)
    torch.testing.assert_close(matrix(after), best(mean, rank), rtol=1e-4, atol=1e-4)
    # What a client of fewer ranks is given is the nearest of its own rank.
    for own in range(1, rank + 1):
        given = HLoRA(ranks=(own,)).give(after, updates[0].client)
        torch.testing.assert_close(matrix(given), best(mean, own), rtol=1e-4, atol=1e-4)


def test_it_is_exact_where_the_clients_ranks_add_up_to_the_servers():
    rule = HLoRA(ranks=(1, 3))
    params = start(rule)
    updates, values = zip(*[trained(rule, params, k, 10 + 7 * k) for k in range(2)], strict=True)
    mean = (10 * matrix(values[0]) + 17 * matrix(values[1])) / 27
    torch.testing.assert_close(matrix(close(rule, params, updates)), mean, rtol=1e-4, atol=1e-4)


def test_columns_of_b_are_orthonormal_and_signs_are_fixed():
    params = start(HLoRA())
    after = close(HLoRA(), params, [trained(HLoRA(), params, k)[0] for k in range(3)])
    torch.testing.assert_close(after[B].T @ after[B], torch.eye(RANK), rtol=1e-4, atol=1e-4)
    lengths = after[A].norm(dim=1)
    assert torch.equal(lengths, lengths.sort(descending=True).values)
    assert (after[B].gather(0, after[B].abs().argmax(0, keepdim=True)) > 0).all()
    # Minus B times minus A is the same product, and gives the same factors.
    left, right = numbers(OUT, 3, seed=5), numbers(3, IN, seed=6)
    for one, other in zip(best_factors(left, right, 2), best_factors(-left, -right, 2), strict=True):
        torch.testing.assert_close(one, other)


def test_a_layer_with_less_than_the_rank_is_padded():
    left, right = numbers(2, 4, seed=5), numbers(4, IN, seed=6)
    a, b = best_factors(left, right, RANK)
    assert (a.shape, b.shape) == ((RANK, IN), (2, RANK))
    torch.testing.assert_close(b @ a, left @ right, rtol=1e-4, atol=1e-4)
    assert not a[2:].any()
    assert not b[:, 2:].any()


def test_nothing_learned_stays_nothing():
    # Before anybody's B has moved, all products are zero: factors must be finite and their product zero.
    params = start(HLoRA())
    update = answer(0, 10, a=torch.zeros(RANK, IN).tolist(), b=(-params[B]).tolist())
    after = close(HLoRA(), params, [update])
    assert all(torch.isfinite(value).all() for value in after.values())
    assert matrix(after).abs().max() < 1e-6
    assert R not in after


def test_clients_of_every_rank_run_with_one_scaling():
    # In the example, alpha is the same at ranks 4, 8 and 16, so clients scale B A by 4, 2 and 1, and the mean of raw
    # products is not the mean of what the clients computed. Here the layer's output moves by s B_k A_k x at every
    # rank, with s = alpha / rank of the bank = 8 / 4, so the server's mean is the mean of the clients' outputs.
    bank = small_bank()
    initial = bank.params()
    path = next(name.removesuffix(".lora_A.s0.weight") for name in initial if "down_proj.lora_A" in name)
    layer = next(m for n, m in bank.model.named_modules() if isinstance(m, LoraLayer) and n.endswith(path))
    bank.activate(Assignment(train=(0,)), with_projector=False)
    bank.model.eval()
    x = numbers(3, 24, seed=5)
    rule = HLoRA(ranks=(1, 3))
    names = {A: f"{path}.lora_A.s0.weight", B: f"{path}.lora_B.s0.weight"}
    params = {A: initial[names[A]] * 50, B: numbers(16, 4, seed=6)}
    updates, values = zip(*[trained(rule, params, k) for k in range(2)], strict=True)

    def moved(values):
        bank.load({names[name]: values[name] for name in (A, B)})
        with torch.no_grad():
            return layer(x) - layer.base_layer(x)

    outputs = [moved(value) for value in values]
    for output, value in zip(outputs, values, strict=True):
        expected = 2.0 * x.double() @ matrix(value).T
        torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved(close(rule, params, updates)), sum(outputs) / 2, rtol=1e-4, atol=1e-3)
