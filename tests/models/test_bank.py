"""The adapter bank against stock PEFT, against a per-sample computation in float64, and against itself."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from small import (
    COLLATOR,
    END,
    FLOATS_PER_RANK,
    IMAGE,
    MODEL,
    PAD,
    PROJECTOR_FLOATS,
    factors,
    random_params,
    sample,
    small_bank,
    small_base,
    watching,
)
from torch import nn

from fcit_ray.config.schema import Model
from fcit_ray.errors import ConfigError
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.load import load_base, load_text_encoder
from fcit_ray.models.names import adapter_index
from fcit_ray.models.peft_adapters import PACKED
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment

TOKENS = {"eos_token_id": END, "pad_token_id": PAD}
FOUR = MODEL.model_copy(update={"rank": 8, "alpha": 16.0})  # four adapters of rank 2
SAMPLES = [sample(index, 4 + index) for index in range(3)]
MIXED = [sample(index, 4 + index, pictures) for index, pictures in enumerate((1, 0, 2))]
WITHOUT = [sample(index, 4 + index, 0) for index in range(3)]


def train_batch():
    return COLLATOR.train(SAMPLES)


def prompts(samples=SAMPLES):
    return COLLATOR.prompts(samples)


@pytest.fixture(scope="module")
def values():
    """Global parameters of a bank of four adapters of rank 2, as after training."""
    return random_params(small_bank(4, config=FOUR).params())


@pytest.fixture(scope="module")
def packed(values):
    bank = small_bank(4, config=FOUR)
    bank.pack(values)
    return bank


def one_hot(*adapters, of=4):
    return torch.nn.functional.one_hot(torch.tensor(adapters), of).float()


# What a bank is made of


def test_sizes_by_hand():
    params = small_bank(2).params()
    for adapter in (0, 1):
        own = [value.numel() for name, value in params.items() if adapter_index(name) == adapter]
        assert sum(own) == 2 * FLOATS_PER_RANK  # rank 4 shared out over two
        assert len(own) == 12  # two factors, three layers of the FFN, two blocks
    shared = [value.numel() for name, value in params.items() if adapter_index(name) is None]
    assert sum(shared) == PROJECTOR_FLOATS
    assert {value.dtype for value in params.values()} == {torch.float32}


def test_only_the_language_model_carries_adapters():
    # CLIP's attention and Llama's have projections of the same names.
    bank = small_bank(config=MODEL.model_copy(update={"targets": ("q_proj", "v_proj")}))
    names = [name for name in bank.params() if "lora_" in name]
    assert len(names) == 8
    assert all(".language_model." in name for name in names)


def test_initial_values_are_a_narrow_normal_and_zero():
    params = small_bank(config=Model(rank=64, init_std=0.01)).params()
    a = torch.cat([value.flatten() for name, value in params.items() if ".lora_A." in name])
    b = [value for name, value in params.items() if ".lora_B." in name]
    # 64 * (16 + 16 + 24) * 2 = 7,168 draws: the spread's standard error is 0.01 / sqrt(2 * 7168) = 0.00008
    assert len(a) == 7168
    assert a.std().item() == pytest.approx(0.01, abs=4e-4)
    assert a.mean().item() == pytest.approx(0.0, abs=5e-4)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in b)


def test_initial_values_depend_on_seed_adapter_and_layer_alone():
    # The same rank each: in a bank of one, of two and of four.
    banks = [
        small_bank(count, config=MODEL.model_copy(update={"rank": 2 * count, "alpha": 4.0 * count})).params()
        for count in (1, 2, 4)
    ]
    for fewer, more in pairwise(banks):
        assert all(torch.equal(more[name], value) for name, value in fewer.items())
    a = [value for name, value in banks[2].items() if ".gate_proj.lora_A." in name]
    assert len({params_sha256({"": value}) for value in a}) == 8  # two layers, four adapters: all differ
    assert params_sha256(small_bank(seed=0).params()) == params_sha256(small_bank(seed=0).params())
    assert params_sha256(small_bank(seed=0).params()) != params_sha256(small_bank(seed=1).params())


ROUNDED = {"rtol": 1e-5, "atol": 1e-6}
"""Between a product of some rows and the same rows of a larger one: sums over 16 numbers in another order, each within
16 * 2^-24 = 1e-6 of the largest partial sum, and a few such layers after each other. An equality of bits would depend
on which kernel a CPU takes for which shape."""


def assert_tail_of(output, whole):
    """That an output is a model's whose head saw the last positions alone: the others' logits were not computed."""
    torch.testing.assert_close(output.loss, whole.loss, **ROUNDED)
    torch.testing.assert_close(output.logits, whole.logits[:, -output.logits.shape[1] :], **ROUNDED)


def test_a_bank_of_untrained_adapters_is_the_base():
    base, bank = small_base(), small_bank(4, config=FOUR)
    batch = {name: value for name, value in train_batch().items() if name != "features"}
    expected = base(**batch)
    bank.activate(Assignment(train=(2,)), with_projector=True)
    bank.model.eval()
    for _ in range(2):
        assert_tail_of(bank.forward(train_batch()), expected)
        bank.pack(bank.params())


def test_the_rank_must_be_shared_out_evenly():
    with pytest.raises(ConfigError, match=r"model\.rank: 4 cannot be shared out over 3 adapters"):
        small_bank(3)


@pytest.mark.parametrize(
    ("targets", "told"),
    [(("gate_proj", "gateproj"), "gateproj"), (("fc1",), "fc1"), ((), ""), (("ate_proj",), "ate_proj")],
)
def test_a_target_that_is_not_there_is_told(targets, told):
    # fc1 is in the vision tower alone, and `ate_proj` only the end of a name
    with pytest.raises(
        ConfigError, match=rf"no linear layer of the language model.*{told}; there are down_proj, gate_proj, k_proj"
    ):
        small_bank(config=MODEL.model_copy(update={"targets": targets}))


def test_params_are_a_copy(values):
    bank = small_bank(4, config=FOUR)
    before = bank.params()
    digest = params_sha256(before)
    bank.load(values)
    assert params_sha256(before) == digest
    assert params_sha256(bank.params()) == params_sha256(values)


# Against stock PEFT


def stock(params):
    """PEFT's own LoRA on the FFN, with the bank's values."""
    targets = r".*language_model.*\.(gate_proj|up_proj|down_proj)"
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=targets)
    base = small_base().requires_grad_(False)
    model = PeftModel(base, config, adapter_name="s0")
    named = {name.removeprefix("base_model.model."): value for name, value in model.named_parameters()}
    for name, value in params.items():
        named[name].data.copy_(value)
        named[name].requires_grad_(True)
    return model, {name: named[name] for name in params}


def test_a_bank_of_one_is_stock_peft_to_the_bit():
    bank = small_bank(1)
    params = random_params(bank.params())
    bank.load(params)
    model, parameters = stock(params)
    trained = bank.activate(Assignment(train=(0,)), with_projector=True)
    assert trained.keys() == parameters.keys()
    batch = {name: value for name, value in train_batch().items() if name != "features"}
    optimizers = [torch.optim.AdamW(named.values(), lr=0.01) for named in (trained, parameters)]
    for step in range(2):
        losses = []
        for run, optimizer in zip((bank.model, model), optimizers, strict=True):
            torch.manual_seed(step)  # dropout
            run.train()
            optimizer.zero_grad()
            output = run(**batch)
            output.loss.backward()
            optimizer.step()
            losses.append(output.loss)
        assert torch.equal(*losses)
        assert params_sha256({n: p.data for n, p in trained.items()}) == params_sha256(
            {n: p.data for n, p in parameters.items()}
        )


# Choosing what trains


def test_activate_gives_exactly_what_is_trained():
    bank = small_bank(4, config=FOUR)
    trained = bank.activate(Assignment(train=(1, 3), frozen=(0,)), with_projector=False)
    assert {adapter_index(name) for name in trained} == {1, 3}
    live = {name for name, parameter in bank.model.named_parameters() if parameter.requires_grad}
    assert {name.removeprefix("base_model.model.") for name in live} == trained.keys()
    trained = bank.activate(Assignment(train=(2,)), with_projector=True)
    assert {adapter_index(name) for name in trained} == {2, None}
    assert sum(p.requires_grad for p in bank.model.parameters()) == len(trained)


def test_training_several_adapters_adds_them_up(values, packed):
    # Layer by layer this is the sum of the deltas; so it equals the packed bank with the weights (1, 0, 1, 0).
    bank = small_bank(4, config=FOUR.model_copy(update={"dropout": 0.0}))
    bank.load(values)
    bank.activate(Assignment(train=(2,), frozen=(0,)), with_projector=False)
    bank.model.eval()
    summed = bank.forward(prompts()).logits[:, -1]
    gated = logits(packed, prompts(), torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 3))
    torch.testing.assert_close(summed, gated, rtol=1e-4, atol=1e-5)


# Holding other values for a while


def test_holding_computes_what_the_held_values_compute():
    bank, other = small_bank(), random_params(small_bank().params())
    with bank.holding(other):
        held = bank.forward(train_batch())
        assert not held.logits.requires_grad
        assert params_sha256(bank.params()) == params_sha256(other)
    bank.load(other)
    bank.model.eval()
    assert torch.equal(held.logits, bank.forward(train_batch()).logits)


def test_holding_some_names_leaves_the_others():
    bank = small_bank()
    name = next(name for name in bank.params() if ".lora_B." in name)
    before = bank.params()
    with bank.holding({name: torch.ones_like(before[name])}):
        assert params_sha256(bank.params()) == params_sha256({**before, name: torch.ones_like(before[name])})
    assert params_sha256(bank.params()) == params_sha256(before)


def held_bank():
    """A bank in training mode but for one module, with what is to be the same after a holding."""
    bank = small_bank()
    bank.load(random_params(bank.params()))
    trained = bank.activate(Assignment((0,)), with_projector=False)
    bank.model.train()
    bank.model.get_base_model().model.vision_tower.eval()

    def state():
        return (
            params_sha256(bank.params()),
            [module.training for module in bank.model.modules()],
            [parameter.requires_grad for parameter in bank.model.parameters()],
            {name: parameter.data_ptr() for name, parameter in trained.items()},
            {name: parameter._version for name, parameter in trained.items()},
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
        )

    return bank, state


def test_after_holding_all_is_as_before():
    # Values, each module's mode, gradients, and the stream that dropout draws from.
    bank, state = held_bank()
    before = state()
    with bank.holding(random_params(bank.params(), 1)):
        assert state() != before
        assert not any(module.training for module in bank.model.modules())
        bank.forward(train_batch())
    assert state() == before


def test_after_a_failure_within_all_is_as_before():
    bank, state = held_bank()
    before, other = state(), random_params(bank.params(), 1)
    with pytest.raises(ZeroDivisionError), bank.holding(other):
        raise ZeroDivisionError
    assert state() == before
    *_, last = other
    with (
        pytest.raises(AssertionError, match=r"\(3,\) held instead of its own shape"),
        bank.holding({**other, last: torch.ones(3)}),
    ):
        pytest.fail("held")
    assert state() == before


def test_a_holding_may_stand_between_forward_and_backward():
    gradients = []
    for hold in (False, True):
        bank = small_bank(config=MODEL.model_copy(update={"dropout": 0.0}))
        bank.load(random_params(bank.params()))
        trained = bank.activate(Assignment((0,)), with_projector=True)
        bank.model.train()
        loss = bank.forward(train_batch()).loss
        if hold:
            with bank.holding(random_params(bank.params(), 1)):
                bank.forward(train_batch())
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in trained.items()})
    assert params_sha256(gradients[0]) == params_sha256(gradients[1])
    assert max(value.abs().max() for value in gradients[0].values()) > 0


def test_what_was_held_is_not_written_to_by_later_training():
    bank = small_bank()
    other = random_params(bank.params())
    digest = params_sha256(other)
    trained = bank.activate(Assignment((0,)), with_projector=True)
    bank.model.train()
    with bank.holding(other):
        bank.forward(train_batch())
    bank.forward(train_batch()).loss.backward()
    torch.optim.AdamW(trained.values(), lr=0.1).step()
    assert params_sha256(other) == digest


def test_answer_logits_are_those_that_the_loss_is_the_mean_over(values):
    bank = small_bank(4, config=FOUR)
    bank.load(values)
    bank.model.eval()
    batch = train_batch()
    output = bank.forward(batch)
    logits = bank.answer_logits(batch, output)
    answers = batch["labels"][batch["labels"] != -100]
    assert logits.shape == (9, 20)  # three answers of three tokens, a vocabulary of 20
    torch.testing.assert_close(nn.functional.cross_entropy(logits, answers), output.loss)


def test_no_logits_are_computed_before_the_first_answer_and_the_gradient_is_the_same(values):
    # Questions of different lengths: the shortest sample's answer begins first and says how many positions are needed.
    short, long = sample(0, 5), sample(1, 5)
    long["input_ids"] = np.concatenate([long["input_ids"][:-3], [6, 7], long["input_ids"][-3:]])
    long["labels"] = np.concatenate([[-100, -100], long["labels"]])
    batch = COLLATOR.train([short, long])
    assert (batch["labels"] != -100).any(dim=0).nonzero()[0] == len(short["input_ids"]) - 3
    bank = small_bank(4, config=FOUR)
    bank.load(values)
    trained = bank.activate(Assignment(train=(1,)), with_projector=True)
    bank.model.eval()
    outputs = [bank.forward(batch), bank.model(**{k: v for k, v in batch.items() if k != "features"})]
    assert outputs[0].logits.shape[1] == 3 + 2 + 1  # three answer tokens, two that the long one is behind, one before
    assert_tail_of(*outputs)
    for ours, whole in zip(*(torch.autograd.grad(o.loss, list(trained.values())) for o in outputs), strict=True):
        torch.testing.assert_close(ours, whole, **ROUNDED)


def test_prompts_shift_no_answers_logits():
    # Logits (1, 2 + 4, 3) with two prompts; the labelled tokens 2 and 3 are predicted at 2 + 1 and 2 + 2.
    logits = torch.arange(18.0).view(1, 6, 3)
    got = small_bank().answer_logits({"labels": torch.tensor([[-100, -100, 5, 6]])}, SimpleNamespace(logits=logits))
    assert got.tolist() == [[9.0, 10.0, 11.0], [12.0, 13.0, 14.0]]


# Packed, against one adapter alone and against float64


def logits(bank, batch, gate):
    """Of the packed bank's first generated token, (B, V), by way of `generate`: what inference computes."""
    caught = []
    handle = bank.model.get_base_model().register_forward_hook(lambda module, args, out: caught.append(out.logits))
    try:
        bank.generate(batch, gate, 1, **TOKENS)
    finally:
        handle.remove()
    return caught[0][:, -1]


@pytest.mark.parametrize("adapter", [0, 3])
def test_a_one_hot_gate_is_that_adapter_alone(values, packed, adapter):
    bank = small_bank(4, config=FOUR)
    bank.load(values)
    bank.activate(Assignment(train=(adapter,)), with_projector=False)
    bank.model.eval()
    with torch.inference_mode():
        alone = bank.forward(prompts()).logits[:, -1]
    gated = logits(packed, prompts(), one_hot(adapter, adapter, adapter))
    # rank 8 with zeros against rank 2: other orders of summation in float32
    torch.testing.assert_close(gated, alone, rtol=1e-4, atol=1e-5)
    other = logits(packed, prompts(), one_hot(1, 1, 1))
    assert (other - alone).abs().max() > 0.01  # the adapters do differ


@pytest.mark.parametrize("samples", [SAMPLES, MIXED, WITHOUT], ids=["one picture", "none, one, two", "no picture"])
def test_every_layer_mixes_per_sample_as_the_formula_says(values, packed, samples):
    # y = W x + s * sum_k gate_k B_k A_k x, for every sample with its own gate, in float64 from the named factors;
    # s = alpha / rank = 16 / 8.
    gate = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    caught = {}

    def keep(name):
        def hook(module, args, output):
            caught[name] = (args[0], output)

        return hook

    layers = {n: m for n, m in packed.model.named_modules() if isinstance(m, LoraLayer)}
    assert len(layers) == 6
    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        packed.generate(prompts(samples), gate, 1, **TOKENS)
    finally:
        for handle in handles:
            handle.remove()
    for name, (x, y) in caught.items():
        path = name.removeprefix("base_model.model.")
        weight = layers[name].base_layer.weight.double()
        for index in range(3):
            expected = weight @ x[index].double().T
            for k in range(4):
                a = values[f"{path}.lora_A.s{k}.weight"].double()
                b = values[f"{path}.lora_B.s{k}.weight"].double()
                expected = expected + 2.0 * gate[index, k].double() * (b @ (a @ x[index].double().T))
            torch.testing.assert_close(y[index].double(), expected.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_prompts", [False, True], ids=["", "prompts"])
def test_a_batch_of_any_pictures_computes_what_its_samples_compute_alone(values, packed, with_prompts):
    gate = torch.cat([one_hot(0), one_hot(3), torch.full((1, 4), 0.25)])
    soft = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0)) if with_prompts else None

    def answer(rows):
        with torch.inference_mode():
            packed._gating.set(gate[rows])
            batch = prompts([MIXED[row] for row in rows])
            return packed.forward(batch, None if soft is None else soft[rows]).logits[:, -1]

    try:
        together, alone = answer([0, 1, 2]), torch.cat([answer([row]) for row in range(3)])
    finally:
        packed._gating.set(None)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_picture_is_read_at_its_own_mark(packed):
    # Of two, exchanged: the same tokens, other words.
    [one] = [dict(MIXED[2])]
    other = one | {"pixels": one["pixels"][::-1].copy()}
    first, second = (logits(packed, prompts([each]), None) for each in (one, other))
    assert (first - second).abs().max() > 0.01


def test_samples_of_a_batch_are_gated_apart(packed):
    # Samples of one length, so that padding plays no part.
    samples = [sample(index, 5) for index in range(3)]
    gate = torch.cat([one_hot(0), one_hot(3), torch.full((1, 4), 0.25)])
    together = logits(packed, prompts(samples), gate)
    for index in range(3):
        alone = logits(packed, prompts(samples[index : index + 1]), gate[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)
    mean = logits(packed, prompts(samples), gate.mean(0, keepdim=True).repeat(3, 1))  # the released slip
    assert (mean - together).abs().max() > 0.01


def test_a_gate_of_ones_is_no_gate(packed):
    assert torch.equal(logits(packed, prompts(), torch.ones(3, 4)), logits(packed, prompts(), None))


def test_a_gate_of_the_wrong_shape_is_refused(packed):
    with pytest.raises(AssertionError, match=r"a gate of shape \(2, 4\)"):
        packed.generate(prompts(), torch.ones(2, 4), 1, **TOKENS)


# Routed: every layer weighs the adapters as it pleases


def by_layer(path, x, gate):
    """The gate in the FFN's way down, a weight of each token in its way up, and no weights in the third layer."""
    if path.endswith("down_proj"):
        return None if gate is None else gate[:, None]  # (B, 1, K)
    if path.endswith("up_proj"):
        return torch.softmax(4 * x[..., :4], dim=2)  # (B, L, K), of the layer's own input
    return None


def assert_routed(bank, values, caught, gate):
    """y = W x + s sum_k w_k B_k A_k x for each sample and token, s = 16 / 8, in float64 from the named factors."""
    assert len(caught) == 6
    for path, (weight, x, y) in caught.items():
        weights = by_layer(path, x, gate.double())
        weights = torch.ones(1, 1, 4) if weights is None else weights
        for index in range(len(x)):
            expected = x[index] @ weight.T
            for k in range(4):
                a, b = factors(values, path, k)
                mine = weights.expand(len(x), x.shape[1], 4)[index, :, k, None]  # (L, 1)
                expected = expected + 2.0 * mine * (x[index] @ a.T @ b.T)
            torch.testing.assert_close(y[index], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def routed(values):
    bank = small_bank(4, config=FOUR)
    bank.route_by(by_layer)
    bank.pack(values)
    return bank


def test_a_routed_layer_weighs_each_sample_and_token_as_the_formula_says(values, routed):
    gate = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    with watching(routed) as caught:
        logits(routed, prompts(), gate)
    assert_routed(routed, values, caught, gate)


def test_a_route_weighs_the_named_adapters_of_training_too(values):
    bank = small_bank(4, config=FOUR.model_copy(update={"dropout": 0.0}))
    bank.route_by(lambda path, x, gate: by_layer(path, x, torch.tensor([[0.5, 0.0, 2.0, 1.0]]).expand(len(x), 4)))
    bank.load(values)
    trained = bank.activate(Assignment(train=(1, 2), frozen=(0, 3)), with_projector=False)
    with watching(bank) as caught:
        bank.forward(train_batch()).loss.backward()
    assert_routed(bank, values, caught, torch.tensor([[0.5, 0.0, 2.0, 1.0]]).expand(3, 4))
    # A weight of zero lets nothing through, back either: adapter 1 of the way down.
    silent = [n for n, p in trained.items() if not p.grad.any()]
    assert silent
    assert all("down_proj" in name and adapter_index(name) == 1 for name in silent)
    assert len(silent) == 4  # two factors, two blocks


def test_generation_through_a_route_is_the_same_with_and_without_the_cache(values):
    gate = torch.tensor([[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.25, 0.25, 0.25, 0.25]])
    bank = small_bank(4, config=FOUR)
    bank.route_by(by_layer)
    bank.pack(values)
    model = bank.model.get_base_model()
    model.generation_config.suppress_tokens = [IMAGE]
    with_cache = bank.generate(prompts(), gate, 12, **TOKENS)
    model.generation_config.use_cache = False
    without = bank.generate(prompts(), gate, 12, **TOKENS)
    assert torch.equal(with_cache, without)
    assert with_cache.shape[1] > 3
    assert len(torch.unique(with_cache)) > 3  # not one word over and over


def test_a_route_without_weights_changes_no_bit(values, packed):
    bank = small_bank(4, config=FOUR)
    bank.route_by(lambda path, x, gate: None)
    losses = []
    for one in (bank, small_bank(4, config=FOUR)):
        one.load(values)
        trained = one.activate(Assignment(train=(2,), frozen=(0,)), with_projector=True)
        one.model.train()
        torch.manual_seed(0)  # dropout
        loss = one.forward(train_batch()).loss
        loss.backward()
        losses.append((loss.item(), params_sha256({n: p.grad for n, p in trained.items()})))
    assert losses[0] == losses[1]
    bank.pack(values)
    # nor does the gate reach a layer whose route ignores it
    assert torch.equal(logits(bank, prompts(), one_hot(0, 1, 2)), logits(packed, prompts(), None))


def test_a_route_that_hands_on_the_gate_is_the_gate_to_the_bit(values, packed):
    bank = small_bank(4, config=FOUR)
    bank.route_by(lambda path, x, gate: None if gate is None else gate[:, None])
    bank.pack(values)
    gate = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert torch.equal(logits(bank, prompts(), gate), logits(packed, prompts(), gate))


def test_a_bank_has_one_route(routed):
    with pytest.raises(AssertionError, match="one route a bank"):
        routed.route_by(by_layer)


# Generating


def test_generation_is_the_same_with_and_without_the_cache(values):
    gate = torch.tensor([[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.25, 0.25, 0.25, 0.25]])
    packed = small_bank(4, config=FOUR)
    packed.pack(values)
    model = packed.model.get_base_model()
    # Weights drawn at random may answer the image's placeholder, for which there is no second image.
    model.generation_config.suppress_tokens = [IMAGE]
    with_cache = packed.generate(prompts(), gate, 12, **TOKENS)
    model.generation_config.use_cache = False
    without = packed.generate(prompts(), gate, 12, **TOKENS)
    assert torch.equal(with_cache, without)
    assert with_cache.shape[1] > 3
    assert len(torch.unique(with_cache)) > 3  # not one word over and over
    ungated = packed.generate(prompts(), None, 12, **TOKENS)
    assert ungated.shape != with_cache.shape or not torch.equal(ungated, with_cache)


def test_only_new_tokens_come_back_and_no_more_than_asked_for(packed):
    assert packed.generate(prompts(), None, 1, **TOKENS).shape == (3, 1)
    assert packed.generate(prompts(), None, 4, **TOKENS).shape[1] <= 4


def test_generation_stops_at_the_end_token_and_pads_after_it():
    # A head of zeros gives every token the same logit: the first of the vocabulary wins, here named the end.
    bank = small_bank(1)
    with torch.no_grad():
        bank.model.get_base_model().lm_head.weight.zero_()
    bank.pack(bank.params())
    out = bank.generate(prompts(), None, 5, eos_token_id=0, pad_token_id=3)
    assert out.tolist() == [[0], [0], [0]]
    # And of samples that end at different times, the earlier is padded: what one answers alone, it answers in company.
    bank = small_bank(1)
    bank.pack(random_params(bank.params()))
    bank.model.get_base_model().generation_config.suppress_tokens = [IMAGE]
    free = bank.generate(prompts(), None, 8, eos_token_id=-1, pad_token_id=PAD)
    end = int(free[0, 2])
    out = bank.generate(prompts(), None, 8, eos_token_id=end, pad_token_id=3)
    for row, whole in zip(out.tolist(), free.tolist(), strict=True):
        answer = whole[: whole.index(end) + 1] if end in whole else whole
        assert row == (answer + [3] * 8)[: len(row)]


def test_the_gate_is_gone_after_generation(packed, monkeypatch):
    before = logits(packed, prompts(), None)
    packed.generate(prompts(), one_hot(0, 1, 2), 2, **TOKENS)
    assert torch.equal(logits(packed, prompts(), None), before)
    monkeypatch.setattr(packed.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        packed.generate(prompts(), one_hot(0, 1, 2), 2, **TOKENS)
    monkeypatch.undo()
    assert torch.equal(logits(packed, prompts(), None), before)


def test_packing_again_takes_the_new_values(values, packed):
    bank = small_bank(4, config=FOUR)
    bank.pack(random_params(values, seed=9))
    gate = torch.full((3, 4), 0.5)  # two hooks would weigh by a quarter
    first = logits(bank, prompts(), gate)
    bank.pack(values)
    again = logits(bank, prompts(), gate)
    assert torch.equal(again, logits(packed, prompts(), gate))  # one hook a layer, not two
    assert not torch.equal(again, first)


def test_packing_does_not_touch_the_named_adapters_and_training_does_not_touch_the_packed(values):
    bank = small_bank(4, config=FOUR)
    bank.pack(values)
    assert params_sha256(bank.params()) == params_sha256(values)
    before = {n: p.clone() for n, p in bank.model.named_parameters() if f".{PACKED}." in n}
    assert len(before) == 12
    trained = bank.activate(Assignment(train=(0,)), with_projector=True)
    assert not any(PACKED in name for name in trained)
    bank.model.train()
    bank.forward(train_batch()).loss.backward()
    torch.optim.AdamW([p for p in bank.model.parameters() if p.requires_grad], weight_decay=0.5).step()
    after = {n: p for n, p in bank.model.named_parameters() if n in before}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_inference_has_no_dropout(values):
    bank = small_bank(4, config=FOUR.model_copy(update={"dropout": 0.9}))
    bank.model.train()
    bank.pack(values)
    assert torch.equal(logits(bank, prompts(), None), logits(bank, prompts(), None))


# In bfloat16, and the model that is shipped


def test_a_bfloat16_base_keeps_its_adapters_in_float32():
    config = FOUR.model_copy(update={"dtype": "bfloat16"})
    bank = AdapterBank(small_base().to(torch.bfloat16), config, 4, 0)
    params = bank.params()
    assert {value.dtype for value in params.values()} == {torch.float32}
    frozen = [p for n, p in bank.model.named_parameters() if n.removeprefix("base_model.model.") not in params]
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}
    trained = bank.activate(Assignment(train=(1,)), with_projector=True)
    bank.forward(train_batch()).loss.backward()
    assert {parameter.grad.dtype for parameter in trained.values()} == {torch.float32}
    bank.pack(random_params(params))
    gate = torch.full((3, 4), 0.25)
    assert bank.generate(prompts(), gate, 2, **TOKENS).shape[0] == 3


def test_initial_bits_do_not_depend_on_the_bases_type():
    half = AdapterBank(small_base().to(torch.bfloat16), FOUR.model_copy(update={"dtype": "bfloat16"}), 4, 0).params()
    full = small_bank(4, config=FOUR).params()
    assert all(torch.equal(half[name], value) for name, value in full.items() if "lora_" in name)


def test_the_shipped_model_carries_a_bank():
    bank = AdapterBank(load_base("tiny"), Model(), 8, 0)
    assert bank.rank == 8
    assert bank.scaling == 2.0
    layers = [module for module in bank.model.modules() if isinstance(module, LoraLayer)]
    assert len(layers) == 12  # four blocks, three layers of the FFN
    assert all(isinstance(module.base_layer, nn.Linear) for module in layers)
    # rank 8: (128 + 320) * 8 numbers in each of three layers of four blocks
    own = sum(value.numel() for name, value in bank.params().items() if adapter_index(name) == 5)
    assert own == (128 + 320) * 8 * 3 * 4


def test_the_features_are_as_wide_as_the_bank_takes_them_to_be():
    # What is learned in the space of features (keys, prototypes) is made before the first one is seen.
    features = load_text_encoder("tiny").encode(["What is in the image?"])
    assert AdapterBank(load_base("tiny"), Model(), 0, 0).feature_dim == features.shape[1]


# A bank of no adapters


def test_a_bank_of_none_is_the_base():
    # And rank 4, which nothing can be divided into, is no obstacle.
    base, bank = small_base(), small_bank(0)
    batch = {name: value for name, value in train_batch().items() if name != "features"}
    assert_tail_of(bank.forward(train_batch()), base(**batch))
    assert not any(isinstance(module, LoraLayer) for module in bank.model.modules())
    bank.pack(bank.params())
    inputs = {name: value for name, value in prompts().items() if name != "features"}
    expected = base.generate(**inputs, do_sample=False, max_new_tokens=3, **TOKENS)
    assert torch.equal(bank.generate(prompts(), None, 3, **TOKENS), expected[:, inputs["input_ids"].shape[1] :])


def test_a_bank_of_none_trains_the_projector_and_what_was_added():
    bank = small_bank(0)
    bank.add("own.s1.value", (2,))
    bank.add("own.value", (2,))
    projector = {name for name in bank.params() if bank.is_projector(name)}
    assert sum(bank.params()[name].numel() for name in projector) == PROJECTOR_FLOATS
    shared = bank.activate(Assignment(train=()), with_projector=True)
    assert shared.keys() == projector | {"own.value"}
    assert {n for n, p in bank.model.named_parameters() if p.requires_grad} == projector
    assert not bank.parameter("own.s1.value").requires_grad
    assert bank.activate(Assignment(train=(1,)), with_projector=False).keys() == {"own.s1.value", "own.value"}


# What a method adds


def test_an_added_parameter_is_drawn_from_the_seed_and_its_name():
    first, second, other = small_bank(1), small_bank(0), small_bank(1, seed=1)
    second.add("something.else", (3,), std=1.0)  # the order of adding does not matter
    for bank in (first, second, other):
        bank.add("own.wide", (1000,), low=-2.0)
        bank.add("own.normal", (1000,), std=0.5)
        bank.add("own.zero", (3,))
    for name in ("own.wide", "own.normal"):
        assert torch.equal(first.params()[name], second.params()[name])
        assert not torch.equal(first.params()[name], other.params()[name])
    wide, normal, zero = (first.params()[f"own.{kind}"] for kind in ("wide", "normal", "zero"))
    # 1000 draws: the mean of a uniform (-2, 2) has standard error 4 / sqrt(12 * 1000) = 0.037
    assert -2 <= wide.min() < -1.9 < 1.9 < wide.max() < 2
    assert abs(wide.mean().item()) < 0.15
    # the spread of a normal has standard error 0.5 / sqrt(2000) = 0.011
    assert normal.std().item() == pytest.approx(0.5, abs=0.05)
    assert not zero.any()
    with pytest.raises(AssertionError, match=r"own\.zero is taken"):
        first.add("own.zero", (3,))


def test_the_spread_is_the_token_embeddings_own():
    bank, table = small_bank(0), small_base().get_input_embeddings().weight.detach().double()
    assert bank.spread == pytest.approx(((table - table.mean()).square().sum() / (table.numel() - 1)).sqrt().item())


# Prompts behind the first token


def soft(count, batch=3, seed=0):
    """Embeddings of the small model's own scale, other ones for every sample, (B, P, width)."""
    return 0.3 * torch.randn(batch, count, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 3])
def test_prompts_stand_behind_the_first_token(count):
    # Independent: the language model on embeddings put together by hand, image features in the image's four places.
    model, batch, ours = small_base(), train_batch(), soft(count)
    embeddings = model.get_input_embeddings()(batch["input_ids"]).clone()
    images = model.model.get_image_features(batch["pixel_values"]).pooler_output
    for index, image in enumerate(images):
        embeddings[index, 1:5] = image  # after `<s>`
    mask = torch.cat([torch.ones(3, count, dtype=torch.long), batch["attention_mask"]], dim=1)
    together = torch.cat([embeddings[:, :1], ours, embeddings[:, 1:]], dim=1)
    hidden = model.model.language_model(inputs_embeds=together, attention_mask=mask).last_hidden_state
    unlabelled = {name: value for name, value in batch.items() if name != "labels"}  # logits of every position
    found = small_bank(0).forward(unlabelled, ours).logits
    assert found.shape == (3, count + batch["input_ids"].shape[1], 20)
    torch.testing.assert_close(found, model.lm_head(hidden), rtol=1e-5, atol=1e-5)
    labelled = small_bank(0).forward(batch, ours).logits
    torch.testing.assert_close(labelled, found[:, -labelled.shape[1] :], rtol=1e-5, atol=1e-5)
    without = small_bank(0).forward(unlabelled).logits
    torch.testing.assert_close(found[:, 0], without[:, 0], rtol=1e-5, atol=1e-5)  # the first token sees none of them
    assert (found[:, count + 1 :] - without[:, 1:]).abs().max() > 0.01  # the others do


@pytest.mark.parametrize("count", [1, 3])
def test_behind_prompts_every_label_meets_its_own_logits(count):
    # The token at place j of a sample is at place P + j now, and is told by the logits one place before.
    batch = train_batch()
    unlabelled = {name: value for name, value in batch.items() if name != "labels"}
    out = small_bank(0).forward(unlabelled, soft(count))
    loss = small_bank(0).forward(batch, soft(count)).loss
    losses = []
    for index, labels in enumerate(batch["labels"]):
        for place, label in enumerate(labels.tolist()):
            if label != -100:
                losses.append(-out.logits[index, count + place - 1].log_softmax(0)[label])
    assert len(losses) == 9  # three words of answer in each sample
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_prompts_and_no_word():
    ours = soft(2).requires_grad_()
    bank = small_bank(0)
    bank.activate(Assignment(train=()), with_projector=False)
    bank.forward(train_batch(), ours).loss.backward()
    assert (ours.grad.abs().amax(dim=2) > 0).all()
    assert bank.model.get_input_embeddings().weight.grad is None


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("cache", [True, False])
def test_behind_prompts_a_sample_answers_alone_as_in_company(values, count, cache):
    # The batch is padded on the left, so the first tokens stand at different places.
    bank = small_bank(4, config=FOUR)
    bank.pack(values)
    settings = bank.model.get_base_model().generation_config
    settings.suppress_tokens, settings.use_cache = [IMAGE], cache
    gate = torch.tensor([[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.25, 0.25, 0.25, 0.25]])
    ours, free = soft(count), {"eos_token_id": -1, "pad_token_id": PAD}
    together = bank.generate(prompts(), gate, 8, ours, **free)
    assert together.shape == (3, 8)
    for index in range(3):
        one = slice(index, index + 1)
        alone = bank.generate(prompts(SAMPLES[one]), gate[one], 8, ours[one], **free)
        assert torch.equal(alone, together[one])
    settings.use_cache = not cache
    assert torch.equal(bank.generate(prompts(), gate, 8, ours, **free), together)
    assert len(torch.unique(together)) > 3  # not one word over and over
    assert not torch.equal(bank.generate(prompts(), gate, 8, soft(count, seed=1), **free), together)


def test_the_prompts_are_gone_afterwards(monkeypatch):
    bank = small_bank(0)
    before = bank.forward(train_batch()).logits
    bank.forward(train_batch(), soft(2))
    assert torch.equal(bank.forward(train_batch()).logits, before)
    monkeypatch.setattr(bank.model.lm_head, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bank.forward(train_batch(), soft(2))
    monkeypatch.undo()
    assert torch.equal(bank.forward(train_batch()).logits, before)
