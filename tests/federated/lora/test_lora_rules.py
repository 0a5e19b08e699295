"""What all LoRA rules share: against dense float64 matrices, at fixed points, through a whole run, with other axes."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
import yaml
from dense import P, close, learned, matrix, start, trained
from peft.tuners.lora import LoraLayer
from repository import ROOT
from small import COLLATOR, MODEL, SmallPopulation, sample, small_bank

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import Algorithm, make_algorithm
from fcit_ray.experiment.components import AXES, make, part_class
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.crossing import reasons
from fcit_ray.federated.local_optim import LocalRule, Plain
from fcit_ray.federated.lora.base import FactorAverage
from fcit_ray.federated.lora.fedex import FedEx
from fcit_ray.federated.lora.fedsa import FedSA
from fcit_ray.federated.lora.ffa import FFA
from fcit_ray.federated.lora.flora import FLoRA
from fcit_ray.federated.lora.hlora import HLoRA
from fcit_ray.federated.lora.zero_pad import ZeroPad
from fcit_ray.federated.method import Method
from fcit_ray.federated.privacy import NoPrivacy, Privacy
from fcit_ray.federated.robust import Mean, Rule
from fcit_ray.federated.server_optim import FedAvg, ServerOptimizer
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.finetune import Finetune
from fcit_ray.params import params_sha256, weighted_mean
from fcit_ray.types import Assignment

UNEQUAL = (1, 2, 4)
# Their global model is the mean of the clients' models, whatever those are.
EXACT = [FedEx(), FLoRA(), FLoRA(ranks=UNEQUAL)]
# These send both factors and make one global model of them.
GLOBAL = [FactorAverage(), *EXACT, HLoRA(), HLoRA(ranks=UNEQUAL)] + [
    ZeroPad(ranks=ranks, weights=weights) for ranks in ((), UNEQUAL) for weights in ("samples", "norm", "dimension")
]
ALL = [*GLOBAL, FFA(), FedSA()]


def near(left, right):
    torch.testing.assert_close(left.double(), right.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", EXACT, ids=repr)
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("counts", [(10,), (10, 10), (10, 30, 3), (5, 0, 15)])
def test_the_global_model_is_the_weighted_mean_of_the_clients(rule, rank, counts):
    params = start(rule, rank)
    updates, values = zip(*[trained(rule, params, index, count) for index, count in enumerate(counts)], strict=True)
    after = close(rule, params, updates)
    mean = sum(count / sum(counts) * matrix(value) for count, value in zip(counts, values, strict=True))
    near(matrix(after), mean)
    if len(counts) == 3:  # and this is worth a rule: the mean of the factors misses it by far
        assert (matrix(close(FactorAverage(), params, updates)) - mean).norm() > 0.1 * mean.norm()


@pytest.mark.parametrize("rule", GLOBAL, ids=repr)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_client_alone_is_the_global_model(rule, index):
    params = start(rule)
    update, value = trained(rule, params, index)
    after = close(rule, params, [update])
    if isinstance(rule, ZeroPad):  # ranks that nobody has keep their values
        after = rule.give(after, update.client)
    near(matrix(after), matrix(value))
    near(after[P], value[P])


@pytest.mark.parametrize("rule", GLOBAL, ids=repr)
def test_clients_that_agree_are_the_global_model(rule):
    # Clients 1, 4 and 7 have the same rank; their numbers of samples differ.
    params = start(rule)
    updates = [trained(rule, params, index, 10 + index, seed=5)[0] for index in (1, 4, 7)]
    value = trained(rule, params, 1, seed=5)[1]
    after = close(rule, params, updates)
    if isinstance(rule, ZeroPad):
        after = rule.give(after, updates[0].client)
    near(matrix(after), matrix(value))


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_a_client_without_samples_changes_nothing(rule):
    params = start(rule)
    updates = [trained(rule, params, index, count)[0] for index, count in enumerate((10, 0, 20))]
    with_it = rule.combine(params, updates, [10.0, 0.0, 20.0], weighted_mean, 3)
    without = rule.combine(params, [updates[0], updates[2]], [10.0, 20.0], weighted_mean, 3)
    assert params_sha256(with_it) == params_sha256(without)
    assert with_it
    # And if nobody has any, nothing changes at all: no rule may divide by nothing, draw or decompose.
    nobody = rule.combine(params, updates, [0.0] * 3, weighted_mean, 3)
    assert nobody == {}


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_combining_leaves_its_inputs_as_they_were(rule):
    params = start(rule)
    updates = [trained(rule, params, index)[0] for index in range(3)]
    before = [params_sha256(values) for values in (params, *[update.delta for update in updates])]
    close(rule, params, updates)
    assert before == [params_sha256(values) for values in (params, *[update.delta for update in updates])]


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_a_parameter_that_is_no_factor_is_averaged_as_ever(rule):
    params = start(rule)
    updates = [trained(rule, params, index, 10 + index)[0] for index in range(3)]
    expected = close(FactorAverage(), params, updates)[P]
    assert torch.equal(close(rule, params, updates)[P], expected)


# Through a whole run


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_a_run_learns_and_answers_as_it_trained(rule):
    state, bank, updates, initial = learned(rule, SmallPopulation(((0, 1),)))
    assert (state.stage, state.round) == (1, 0)
    assert params_sha256(state.params) != params_sha256(initial)
    assert state.params.keys() == initial.keys()
    assert not any(name.endswith(".residual") for update in updates for name in update.delta)
    batch = COLLATOR.train([sample(index, 5) for index in range(2)])
    first = next(iter(rule.views(state.params, state.memories).values()))
    bank.load(first)
    bank.activate(Assignment(train=(0,)), with_projector=True)
    bank.model.eval()
    trained_form = bank.forward(batch).logits
    assert torch.isfinite(trained_form).all()
    bank.pack(first)
    torch.testing.assert_close(bank.forward(batch).logits, trained_form, rtol=1e-5, atol=1e-5)
    bank.pack(initial)
    assert (bank.forward(batch).logits - trained_form).abs().max() > 1e-3


@pytest.mark.parametrize("rule", [FedEx(), FLoRA()], ids=repr)
def test_the_residual_counts_as_if_it_were_in_the_weight(rule):
    # W + s R with s = alpha / rank = 8 / 4, merged by hand into another base; gate_proj and down_proj are not square.
    state, bank, _, _ = learned(rule, SmallPopulation(((0, 1),)))
    batch = COLLATOR.train([sample(index, 5) for index in range(2)])
    bank.pack(state.params)
    logits = bank.forward(batch).logits
    merged = small_bank()
    residuals = 0
    with torch.no_grad():
        for name, module in merged.model.named_modules():
            if isinstance(module, LoraLayer):
                residual = state.params[f"{name.removeprefix('base_model.model.')}.residual"]
                module.base_layer.weight += 2.0 * residual
                residuals += int(residual.norm() > 0)
    assert residuals == 6
    merged.pack({name: value for name, value in state.params.items() if not name.endswith(".residual")})
    torch.testing.assert_close(merged.forward(batch).logits, logits, rtol=1e-4, atol=1e-4)


def test_fedex_with_one_client_is_the_average_of_factors_to_the_bit():
    population = SmallPopulation(((0,),))
    plain = learned(FactorAverage(), population)[0].params
    fedex = learned(FedEx(), population)[0].params
    residuals = {name: value for name, value in fedex.items() if name.endswith(".residual")}
    assert len(residuals) == 6
    assert not any(value.any() for value in residuals.values())
    assert params_sha256({name: fedex[name] for name in plain}) == params_sha256(plain)


@pytest.mark.parametrize("ranks", [(), (4,), (4, 4, 4)])
@pytest.mark.parametrize("weights", ["samples", "dimension"])
def test_padding_full_ranks_is_the_average_of_factors_to_the_bit(ranks, weights):
    population = SmallPopulation(((0, 1),))
    plain = learned(FactorAverage(), population)[0].params
    padded = learned(ZeroPad(ranks=ranks, weights=weights), population)[0].params
    assert params_sha256(padded) == params_sha256(plain)


@pytest.mark.parametrize("rule", [HLoRA(), HLoRA(ranks=(1, 2)), ZeroPad(ranks=(1, 2)), FFA(), FedSA()], ids=repr)
def test_rules_without_a_residual_work_on_every_subspace_of_disco(rule):
    bank = small_bank(2, config=MODEL.model_copy(update={"rank": 4}))
    state, _, updates, initial = learned(rule, SmallPopulation(((0, 1),)), bank=bank, method=Disco(num_subspaces=2))
    assert {update.assignment.train[0] for update in updates} == {0, 1}
    changed = {name for name, value in initial.items() if not torch.equal(state.params[name], value)}
    assert any(".s0." in name for name in changed)
    assert any(".s1." in name for name in changed)


# Registry, configuration, other axes


@pytest.mark.parametrize("name", [name for name in AXES["lora"].parts if name != "factors"])
def test_every_rule_says_its_source_and_has_a_file_with_all_its_keys(name):
    cls = part_class("lora", name)
    doc = __import__(cls.__module__, fromlist=["x"]).__doc__
    assert "Source:" in doc
    assert "arXiv" in doc
    assert "bytes" in cls.__doc__.lower()
    section = yaml.safe_load((ROOT / "configs" / "methods" / f"{name}.yaml").read_text())["lora"]
    assert section.keys() - {"name"} == {field.name for field in dataclasses.fields(cls)}
    assert isinstance(make("lora", section), cls)


@pytest.mark.parametrize("values", [{"ranks": [0]}, {"ranks": 3}, {"ranks": [1.5]}, {"weights": "votes"}, {"rank": 2}])
def test_a_wrong_hyper_parameter_is_told(values):
    with pytest.raises(ConfigError, match=f"lora.{next(iter(values))}"):
        make("lora", {"name": "zero_pad", **values})


@pytest.mark.parametrize("name", ["zero_pad", "hlora", "flora"])
def test_a_rank_beyond_the_adapters_is_refused_before_anything_is_read(name):
    rule = make("lora", {"name": name, "ranks": [2, 5]})
    assert rule.misfit(4) == "lora.ranks: 5 exceeds the rank of an adapter, 4"
    assert rule.misfit(5) is None

    config = parse_config(
        {
            "benchmark": {"tasks": ["ArxivQA"], "root": "/nowhere"},
            "model": {"rank": 4},
            "lora": {"name": name, "ranks": [2, 5]},
        }
    )
    with pytest.raises(ConfigError, match=r"lora\.ranks: 5 exceeds"):  # before any data is looked for
        open_experiment(config)


@dataclass(frozen=True, kw_only=True)
class Momentum(ServerOptimizer):
    pass


@dataclass(frozen=True, kw_only=True)
class Median(Rule):
    pass


@dataclass(frozen=True, kw_only=True)
class Noise(Privacy):
    declares = frozenset({Trait.NOISES})

    def noise(self, delta, updates, seed):
        return dict(delta)


@dataclass(frozen=True, kw_only=True)
class Teacher(Method):
    declares = frozenset({Trait.KEEPS_MODELS})

    def consolidate(self, knowledge, params, stage):
        return {"teacher": params}


@dataclass(frozen=True, kw_only=True)
class Anchor(Teacher):
    declares = Teacher.declares | {Trait.ANCHORS_VALUES}

    def report(self, run):
        return {"fisher": {}}, {}


@dataclass(frozen=True, kw_only=True)
class PerStage(Method):
    def num_adapters(self, setting):
        return setting.num_stages


@dataclass(frozen=True, kw_only=True)
class Variates(LocalRule):
    declares = frozenset({Trait.STEERS_VALUES})

    def init(self, params):
        return {"c": params}


OTHERS = {
    "nothing": {},
    "momentum": {"server": Momentum()},
    "median": {"rule": Median()},
    "noise": {"privacy": Noise()},
    "adapters": {"method": Disco()},
    "per_stage": {"method": PerStage()},
    "teacher": {"method": Teacher()},
    "anchor": {"method": Anchor()},
    "variates": {"local": Variates()},
}
RESIDUAL = {"momentum", "median", "noise", "adapters", "per_stage", "anchor"}
REFUSED = [
    (FactorAverage(), set()),
    (FedEx(), RESIDUAL),
    (FLoRA(), RESIDUAL | {"variates"}),
    (HLoRA(), {"momentum", "median", "noise", "anchor", "variates"}),
    (FFA(), set()),
    (FedSA(), {"teacher", "anchor", "variates"}),
    (ZeroPad(), set()),
    (ZeroPad(ranks=(1,)), {"noise", "anchor", "variates"}),
    (ZeroPad(weights="norm"), {"median", "noise"}),
    (ZeroPad(weights="dimension", ranks=(1,)), {"median", "noise", "anchor", "variates"}),
]


@pytest.mark.parametrize(("rule", "refused"), REFUSED, ids=[repr(rule) for rule, _ in REFUSED])
def test_what_does_not_cross_is_refused_and_nothing_else(rule, refused):
    found = set()
    for name, parts in OTHERS.items():
        plain = {"method": Finetune(), "local": Plain(), "server": FedAvg(), "rule": Mean(), "privacy": NoPrivacy()}
        axes = {**plain, **parts}
        aggregation = Aggregation(lora=rule, rule=axes.pop("rule"), privacy=axes.pop("privacy"))
        if "lora" in reasons(Algorithm(**axes, aggregation=aggregation)):
            found.add(name)
    assert found == refused


def crossed(name, **keys):
    method = {"name": name, **keys}
    return make_algorithm(
        parse_config({"benchmark": {"tasks": ["ArxivQA"]}, "lora": {"name": "fedex"}, "method": method})
    )


def test_a_refused_crossing_names_both_sides():
    with pytest.raises(ConfigError, match=r"lora\.name: .*single one"):
        crossed("disco")
    # DISCO with one subspace has one adapter.
    assert crossed("disco", num_subspaces=1).method == Disco(num_subspaces=1)


# Bytes: a layer of 7 inputs and 5 outputs at rank 4, and three more numbers that all share, of four bytes each.
# One rank is 7 + 5 = 12 numbers, a residual 35.
@pytest.mark.parametrize(
    ("rule", "index", "down", "up"),
    [
        (FactorAverage(), 0, 48 + 3, 48 + 3),
        (FedEx(), 0, 48 + 35 + 3, 48 + 3),
        (FLoRA(), 0, 35 + 3, 48 + 3),
        (FLoRA(ranks=UNEQUAL), 1, 35 + 3, 24 + 3),
        (FFA(), 0, 20 + 3, 20 + 3),
        (FedSA(), 0, 28 + 3, 28 + 3),
        (ZeroPad(), 0, 48 + 3, 48 + 3),
        (ZeroPad(ranks=UNEQUAL), 0, 12 + 3, 12 + 3),
        (ZeroPad(ranks=UNEQUAL), 4, 24 + 3, 24 + 3),  # client 4 has the rank of client 1
        (HLoRA(ranks=UNEQUAL), 1, 24 + 3, 24 + 3),
        (HLoRA(ranks=(9,)), 0, 48 + 3, 48 + 3),
    ],
    ids=repr,
)
def test_bytes_of_a_round_by_hand(rule, index, down, up):
    params = start(rule)
    update = trained(rule, params, index)[0]
    sent = dataclasses.replace(update, delta={n: v for n, v in update.delta.items() if not rule.stays(n)})
    assert (rule.bytes_down(params, update.client), rule.bytes_up(sent)) == (4 * down, 4 * up)
