"""What the server makes of a round's combined delta: numbers by hand, each formula again in scalar float64."""

import dataclasses
import math

import pytest
import torch
import yaml
from repository import ROOT
from small import SmallPopulation, small_bank, small_setting, trainer

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.components import AXES, make, part_class
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.server_optim import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from fcit_ray.methods.disco import Disco
from fcit_ray.params import params_sha256
from fcit_ray.results import checkpoint
from fcit_ray.types import ServerState

ADAPTIVE = [FedAdagrad, FedYogi, FedAdam]
ALL = [
    FedAvgM(),
    FedAvgM(variant="flower", lr=0.5),
    *[cls(variant=variant) for cls in ADAPTIVE for variant in ("openfedllm", "reddi")],
    *[cls(v0=0.0, lr=0.02, tau=0.1) for cls in ADAPTIVE],
]


def name_of(optimizer):
    return f"{type(optimizer).__name__}-{optimizer.variant}-{optimizer.lr}"


every = pytest.mark.parametrize("optimizer", ALL, ids=name_of)


def walk(optimizer, *deltas, start=0.0, memory=None):
    """The values of one scalar parameter after each delta."""
    params, memory, seen = {"x": torch.tensor([start])}, memory or optimizer.init({}), []
    for delta in deltas:
        params, memory = optimizer.step(params, {"x": torch.tensor([delta])}, memory)
        seen.append(params["x"].item())
    return seen


def test_fedavg_adds_the_mean_delta():
    params = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([5.0])}
    optimizer = FedAvg()
    memory = optimizer.init(params)
    after, memory_after = optimizer.step(params, {"a": torch.tensor([0.5, -4.0])}, memory)
    assert after["a"].tolist() == [1.5, -2.0]
    assert after["b"].tolist() == [5.0]
    assert memory_after == memory == {}
    assert params["a"].tolist() == [1.0, 2.0]


# By hand, three rounds each


def test_openfedllms_momentum_is_a_mean_of_deltas_and_starts_with_the_first():
    # m: 4; 4/2 + 0/2 = 2; 2/2 + 8/2 = 5. Were m zero at first, the first step would be 2.
    assert walk(FedAvgM(beta1=0.5), 4.0, 0.0, 8.0) == [4.0, 6.0, 11.0]


def test_flowers_momentum_is_a_sum_of_deltas():
    # m: 4; 4/2 + 0 = 2; 2/2 + 8 = 9; times lr = 1/2: 2, 1, 4.5
    assert walk(FedAvgM(variant="flower", beta1=0.5, lr=0.5), 4.0, 0.0, 8.0) == [2.0, 3.0, 7.5]


def test_the_two_momenta_are_a_factor_apart_in_the_long_run():
    # The same delta for ever: m tends to D in the one, to D / (1 - b1) = 4 D in the other.
    for variant, factor in (("openfedllm", 1.0), ("flower", 4.0)):
        steps = walk(FedAvgM(variant=variant, beta1=0.75), *[1.0] * 60)
        assert steps[-1] - steps[-2] == pytest.approx(factor, rel=1e-4)


def test_fedadagrads_v_grows_and_tau_is_outside_the_root():
    # v: 9, 25, 169, so 3/(3+1), 4/(5+1), 12/(13+1), times lr = 2. Inside the root the first were 2 * 3/sqrt(9+1) = 1.9.
    assert walk(FedAdagrad(lr=2.0, tau=1.0, v0=0.0), 3.0, 4.0, 12.0) == pytest.approx([1.5, 2.833333, 4.547619])
    # By default v starts at tau^2: 16 + 9 = 25 and 3/(5+4) = 1/3. From 0 it were 3/(3+4).
    assert walk(FedAdagrad(lr=1.0, tau=4.0), 3.0) == pytest.approx([1 / 3])


SCALAR = {"lr": 1.0, "tau": 1.0, "v0": 0.0, "beta1": 0.5, "beta2": 0.75}


def test_fedyogi_of_the_paper_is_fed_with_the_delta():
    # m: 2; 1 + 1 = 2; 1 + 1/2 = 1.5. v: 0 + 16/4 = 4; D^2 = 4 is v, sign 0: 4; 4 - 1/4 = 3.75, root 1.936492.
    # 2/3, 2/3, 1.5/2.936492 = 0.510814
    assert walk(FedYogi(**SCALAR), 4.0, 2.0, 1.0) == pytest.approx([0.666667, 1.333333, 1.844147])


def test_fedyogi_of_openfedllm_is_fed_with_the_momentum():
    # m: 4, 2, 1. v: 0 + 16/4 = 4; m^2 = 4 is v, sign 0: 4; 4 - 1/4 = 3.75. 4/3, 2/3, 1/2.936492 = 0.340542.
    # Fed with D^2 = 0 it were 1/(2+1) in the last round.
    steps = walk(FedYogi(variant="openfedllm", **SCALAR), 4.0, 0.0, 0.0)
    assert steps == pytest.approx([1.333333, 2.0, 2.340542])


def test_fedadam_of_the_paper_is_fed_with_the_delta():
    # m: 2; 1 + 1 = 2; 1. v: 16/4 = 4; 3 + 4/4 = 4; 3, root 1.732051. 2/3, 2/3, 1/2.732051 = 0.366025.
    # No bias correction: with Flower's, the first would be multiplied by sqrt(1 - 0.75^2) / (1 - 0.5^2) = 0.88.
    assert walk(FedAdam(**SCALAR), 4.0, 2.0, 0.0) == pytest.approx([0.666667, 1.333333, 1.699359])


def test_fedadam_of_openfedllm_is_fed_with_the_momentum():
    # m: 4, 2, 1. v: 16/4 = 4; 3 + 4/4 = 4; 3 + 1/4 = 3.25, root 1.802776. 4/3, 2/3, 1/2.802776 = 0.356789.
    steps = walk(FedAdam(variant="openfedllm", **SCALAR), 4.0, 0.0, 0.0)
    assert steps == pytest.approx([1.333333, 2.0, 2.356789])


# Again in scalar float64


def reference(optimizer, deltas):
    """One scalar parameter's values, by the papers' formulas in Python's floats; None is no delta."""
    kind, paper = type(optimizer), optimizer.variant == "reddi"
    if kind is not FedAvgM:
        theirs = {FedAdagrad: 0.1, FedYogi: 0.01, FedAdam: 0.1}[kind] if paper else 1e-3
        lr, tau = optimizer.lr or theirs, optimizer.tau
        v = tau * tau if optimizer.v0 is None else optimizer.v0
    x, m, first, values = 0.5, 0.0, True, []
    for delta in deltas:
        if delta is None:
            values.append(x)
            continue
        if kind is FedAvgM and optimizer.variant == "flower":
            m = optimizer.beta1 * m + delta
        elif kind is FedAdagrad or (first and not paper):
            m = delta
        else:
            m = optimizer.beta1 * m + (1 - optimizer.beta1) * delta
        first = False
        if kind is FedAvgM:
            x += optimizer.lr * m
        else:
            square = delta**2 if paper else m**2
            if kind is FedAdagrad:
                v += square
            elif kind is FedYogi:
                v -= (1 - optimizer.beta2) * square * ((v > square) - (v < square))
            else:
                v = optimizer.beta2 * v + (1 - optimizer.beta2) * square
            x += lr * m / (math.sqrt(v) + tau)
        values.append(x)
    return values


@every
def test_every_optimiser_is_its_formula_in_float64(optimizer):
    # Deltas of the size that LoRA's have and larger, of both signs; in rounds 2 and 5 nobody sends the parameter.
    draw = torch.Generator().manual_seed(3)
    rounds = [torch.randn(6, generator=draw) * 10.0**-power for power in (2, 1, 3, 2, 4, 2, 1, 3)]
    params, memory = {"x": torch.full((6,), 0.5), "other": torch.zeros(1)}, optimizer.init({})
    seen = []
    for number, delta in enumerate(rounds):
        sent = {"other": torch.ones(1)} if number in (2, 5) else {"x": delta}
        params, memory = optimizer.step(params, sent, memory)
        seen.append(params["x"])
    for entry in range(6):
        deltas = [None if n in (2, 5) else delta[entry].item() for n, delta in enumerate(rounds)]
        got = [value[entry].item() for value in seen]
        assert got == pytest.approx(reference(optimizer, deltas), rel=1e-5, abs=1e-6)


# Properties


@every
def test_a_round_without_a_parameter_leaves_no_trace_on_it(optimizer):
    deltas = [0.3, -0.1, 0.2]
    params, memory = {"x": torch.tensor([1.0]), "y": torch.tensor([1.0])}, optimizer.init({})
    for delta in deltas:
        params, memory = optimizer.step(params, {"x": torch.tensor([delta])}, memory)
        assert set(memory) <= {"x", "y"}
        before, (x, moments) = params["y"], (params["x"], memory["x"])
        params, memory = optimizer.step(params, {"y": torch.tensor([delta])}, memory)
        assert torch.equal(params["x"], x)
        assert memory["x"] is moments
        assert not torch.equal(params["y"], before)
    # Both saw the same deltas, so y's late first step was a first step: the bits agree with an uninterrupted walk.
    assert params["x"].item() == params["y"].item() == walk(optimizer, *deltas, start=1.0)[-1]


@every
def test_nothing_learned_moves_nothing(optimizer):
    assert walk(optimizer, 0.0, 0.0, start=0.7) == [torch.tensor(0.7).item()] * 2


@pytest.mark.parametrize("optimizer", [FedAdagrad(), FedAdagrad(variant="openfedllm"), FedAvg()])
def test_without_momentum_a_zero_delta_is_a_standstill_at_any_time(optimizer):
    first, second = walk(optimizer, 0.3, 0.0)
    assert first == second != 0.0


@every
def test_the_state_that_goes_in_is_not_changed(optimizer):
    params = {"x": torch.tensor([1.0])}
    delta = {"x": torch.tensor([0.3])}
    _, memory = optimizer.step(params, delta, optimizer.init(params))
    before = {key: value.clone() for key, value in memory["x"].items()}
    optimizer.step(params, delta, memory)
    assert (params["x"].item(), delta["x"].item()) == (1.0, torch.tensor(0.3).item())
    assert all(torch.equal(memory["x"][key], value) for key, value in before.items())


@every
def test_a_saved_memory_goes_on_to_the_same_bits(optimizer, tmp_path):
    name = "language_model.layers.0.mlp.up_proj.lora_A.s0.weight"
    params, delta = {name: torch.tensor([1.0, 2.0])}, {name: torch.tensor([0.3, -0.1])}
    params, memory = optimizer.step(params, delta, optimizer.init(params))
    state = ServerState(stage=0, round=1, params=params, knowledge={}, optimizer=memory, memories={})
    checkpoint.save(state, tmp_path / "state")
    loaded = checkpoint.load(tmp_path / "state")
    one, _ = optimizer.step(params, delta, memory)
    other, _ = optimizer.step(loaded.params, delta, loaded.optimizer)
    assert torch.equal(one[name], other[name])


def test_yogis_v_never_falls_below_zero():
    # v at the edge of D^2, where it is lowered most: v - (1 - b2) D^2 with v just above D^2, and b2 = 0
    v = torch.tensor([1.0]).nextafter(torch.tensor([2.0]))
    assert FedYogi(beta2=0.0).second_moment(v, torch.tensor([1.0])).item() >= 0


# Identities, bit for bit


@pytest.mark.parametrize("variant", ["openfedllm", "flower"])
def test_momentum_of_zero_is_fedavg_to_the_bit(variant):
    def learned(server):
        method, setting = Disco(num_subspaces=2), small_setting()
        bank = small_bank(2)
        federation = Federation(method, server, SmallPopulation(((0, 1), (1, 1))), setting)
        return simulate(federation, bank.params(), trainer(bank, method, setting)).params

    plain = params_sha256(learned(FedAvg()))
    assert params_sha256(learned(FedAvgM(variant=variant, beta1=0.0))) == plain
    assert params_sha256(learned(FedAvgM(variant=variant, beta1=0.5))) != plain


@pytest.mark.parametrize("cls", ADAPTIVE)
def test_without_momentum_both_variants_are_the_same_to_the_bit(cls):
    beta = {} if cls is FedAdagrad else {"beta1": 0.0}
    deltas = [0.3, -0.01, 0.002, 0.0]
    assert walk(cls(lr=0.01, **beta), *deltas) == walk(cls(variant="openfedllm", lr=0.01, **beta), *deltas)


def test_fedyogi_and_fedadam_take_the_same_first_step_from_zero():
    # v = (1 - b2) D^2 in both; then they part.
    yogi, adam = (walk(cls(lr=0.1, v0=0.0), 0.3, 0.01) for cls in (FedYogi, FedAdam))
    assert yogi[0] == adam[0]
    assert yogi[1] != adam[1]


# A new stage


@every
def test_by_default_a_stage_is_optimised_as_the_first_one_was(optimizer):
    params, memory = optimizer.step({"x": torch.tensor([0.0])}, {"x": torch.tensor([0.3])}, {})
    assert walk(optimizer, 0.2, memory=optimizer.new_stage(params, memory)) == walk(optimizer, 0.2)


@every
def test_moments_that_are_kept_carry_on(optimizer):
    keeping = dataclasses.replace(optimizer, at_new_stage="keep")
    params, memory = keeping.step({"x": torch.tensor([0.0])}, {"x": torch.tensor([0.3])}, {})
    kept = keeping.new_stage(params, memory)
    assert walk(keeping, 0.2, memory=kept) == walk(keeping, 0.2, memory=memory)
    assert walk(keeping, 0.2, memory=kept) != walk(keeping, 0.2)


# Configuration


def test_the_default_section_is_fedavg():
    assert make("server", {"name": "fedavg"}) == FedAvg()


def test_another_name_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"server\.name: unknown 'fedadgrad'; one of fedavg"):  # OpenFedLLM's slip
        make("server", {"name": "fedadgrad"})
    with pytest.raises(ConfigError, match=r"server\.lr: unknown key; fedavg takes: none"):
        make("server", {"name": "fedavg", "lr": 1.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "fedadam", "tau": 0},
            r"server\.tau: expected a number above 0 \(got 0\)",
        ),  # 0/0 for what never moved
        ({"name": "fedyogi", "beta1": 1}, r"server\.beta1: expected a number below 1 \(got 1\)"),
        ({"name": "fedadagrad", "beta1": 0.9}, r"server\.beta1: unknown key; fedadagrad takes: .*tau"),
        ({"name": "fedavgm", "variant": "reddi"}, r"server\.variant: expected openfedllm or flower"),
        ({"name": "fedadam", "at_new_stage": "halve"}, r"server\.at_new_stage: expected keep or reset"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make("server", values)


@pytest.mark.parametrize("name", ["fedadagrad", "fedyogi", "fedadam"])
def test_openfedllms_unweighted_mean_is_asked_for_and_never_taken_silently(name):
    values = {"benchmark": {"tasks": ["ArxivQA"]}, "server": {"name": name, "variant": "openfedllm"}}
    with pytest.raises(ConfigError, match=r"server\.name: variant openfedllm .*set weights: uniform"):
        make_algorithm(parse_config(values))
    make_algorithm(parse_config({**values, "weights": "uniform"}))
    make_algorithm(parse_config({**values, "server": {"name": name}}))  # the paper's takes both


@pytest.mark.parametrize("name", [name for name in AXES["server"].parts if name != "fedavg"])
def test_the_shipped_file_says_all_keys_and_openfedllms_values(name):
    section = yaml.safe_load((ROOT / "configs" / "methods" / f"{name}.yaml").read_text())["server"]
    optimizer = make("server", section)
    cls = part_class("server", name)
    assert section.keys() - {"name"} == {field.name for field in dataclasses.fields(cls)}
    theirs = {} if cls is FedAvgM else {"lr": 1e-3}
    assert optimizer == cls(variant="openfedllm", **theirs)
