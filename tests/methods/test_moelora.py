"""MoELoRA against its formula in float64, against Finetune, and against the other function of the same name."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from small import COLLATOR, END, MODEL, PAD, SmallPopulation, random_params, sample, small_bank, small_setting, trainer

from fcit_ray.experiment.algorithm import Algorithm
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.crossing import reasons
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.local_optim import Plain
from fcit_ray.federated.lora.base import FactorAverage, LoraRule
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.moelora import MoELoRA, router_weights
from fcit_ray.models.names import adapter_index
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment

SAMPLES = [sample(index, 4 + index) for index in range(3)]
TWO = MoELoRA(num_experts=2)


def carried(method):
    setting = small_setting()
    bank = small_bank(method.num_adapters(setting))
    method.install(bank, setting)
    return bank


def learned(method, schedule=((0, 0), (1, 2))):
    setting, bank = small_setting(), carried(method)
    federation = Federation(method, FedAvg(), SmallPopulation(schedule), setting)
    return simulate(federation, bank.params(), trainer(bank, method, setting))


def caught(bank, act):
    """By layer: what it got, what came out, and what each of its A got."""
    found, handles = {}, []
    for name, module in bank.model.named_modules():
        if isinstance(module, LoraLayer):
            found[name.removeprefix("base_model.model.")] = entry = {"module": module, "a": {}}

            def keep(module, args, output, entry=entry):
                entry["x"], entry["y"] = args[0].detach(), output.detach()

            handles.append(module.register_forward_hook(keep))
            for adapter, a in module.lora_A.items():

                def keep_a(module, args, output, entry=entry, adapter=adapter):
                    entry["a"][adapter] = args[0].detach()

                handles.append(a.register_forward_hook(keep_a))
    try:
        act()
    finally:
        for handle in handles:
            handle.remove()
    assert len(found) == 6
    return found


def factors(params, layer, expert):
    return (params[f"{layer}.lora_{factor}.s{expert}.weight"].double() for factor in "AB")


def expected(params, layer, entry, dropped):
    """W x + s * sum_e g_e(x) B_e A_e drop_e(x) in float64, s = alpha / total rank = 8 / 4, token by token."""
    x = entry["x"].double()
    y = x @ entry["module"].base_layer.weight.double().T
    scores = (x @ params[f"{layer}.router.weight"].double().T).exp()
    for expert in range(2):
        a, b = factors(params, layer, expert)
        weight = scores[..., expert] / scores.sum(-1)
        y = y + 2.0 * weight[..., None] * (dropped[expert].double() @ a.T @ b.T)
    return y


def test_the_weights_are_a_softmax_over_the_router():
    # Scores (ln 3, 0): 3 / (3 + 1) and 1 / (3 + 1). The second token's are (0, 0): a half each.
    router = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    weights = router_weights(router, torch.tensor([[[math.log(3), 7.0], [0.0, -5.0]]]))
    torch.testing.assert_close(weights, torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]))


def test_every_layer_has_a_router_of_its_own_that_starts_narrow():
    params = carried(MoELoRA(num_experts=4)).params()
    routers = {name: value for name, value in params.items() if "router" in name}
    # gate and up take 16, down 24, in two blocks
    assert sorted(tuple(value.shape) for value in routers.values()) == [(4, 16)] * 4 + [(4, 24)] * 2
    assert all(adapter_index(name) is None for name in routers)
    # 4 * (16 + 16 + 24) * 2 = 448 draws: standard error 0.01 / sqrt(896) = 0.0003
    assert torch.cat([value.flatten() for value in routers.values()]).std().item() == pytest.approx(0.01, abs=0.0015)
    assert len({params_sha256({"": value}) for value in routers.values()}) == 6


def test_one_expert_is_finetune_to_the_bit():
    # The softmax of one number is 1, and its router has no gradient; dropout and projector included.
    moelora, finetune = learned(MoELoRA(num_experts=1)), learned(Finetune())
    initial = carried(MoELoRA(num_experts=1)).params()
    assert {name: value for name, value in moelora.params.items() if "router" not in name}.keys() == (
        finetune.params.keys()
    )
    assert params_sha256({name: moelora.params[name] for name in finetune.params}) == params_sha256(finetune.params)
    for name in moelora.params.keys() - finetune.params.keys():
        assert torch.equal(moelora.params[name], initial[name])
    assert params_sha256(finetune.params) != params_sha256(small_bank().params())


def test_every_client_trains_all_experts_and_all_routers():
    state, initial = learned(TWO), carried(TWO).params()
    assert all(not torch.equal(state.params[name], value) for name, value in initial.items())
    setting, bank = small_setting(), carried(TWO)
    federation = Federation(TWO, FedAvg(), SmallPopulation(((0, 1), (1, 2))), setting)
    jobs = federation.plan(federation.start(bank.params()))
    assert [job.assignment for job in jobs] == [Assignment(train=(0, 1))] * 2
    update = trainer(bank, TWO, setting)(jobs[0])
    assert update.delta.keys() == jobs[0].params.keys() == initial.keys()


def test_a_training_step_computes_the_formula():
    # In training, with dropout: the experts see dropped inputs, the router the layer's own.
    bank = carried(TWO)
    params = random_params(bank.params())
    bank.load(params)
    bank.activate(Assignment(train=(0, 1)), with_projector=True)
    bank.model.train()
    torch.manual_seed(0)
    found = caught(bank, lambda: bank.forward(COLLATOR.train(SAMPLES)))
    for layer, entry in found.items():
        dropped = [entry["a"]["s0"], entry["a"]["s1"]]
        assert not torch.equal(dropped[0], entry["x"])
        torch.testing.assert_close(entry["y"].double(), expected(params, layer, entry, dropped), rtol=1e-4, atol=1e-4)


def test_an_answer_computes_the_formula_and_not_the_product_of_mixtures():
    # Prism's variant, under the same name, is W x + s (sum_e g_e B_e)(sum_e g_e A_e) x: cross terms, and squared g.
    bank = carried(TWO)
    params = random_params(bank.params())
    bank.pack(params)
    tokens = {"eos_token_id": END, "pad_token_id": PAD}
    found = caught(bank, lambda: bank.generate(COLLATOR.prompts(SAMPLES), None, 1, **tokens))
    for layer, entry in found.items():
        x = entry["x"]
        torch.testing.assert_close(entry["y"].double(), expected(params, layer, entry, [x, x]), rtol=1e-4, atol=1e-4)
        g = router_weights(params[f"{layer}.router.weight"], x).double()
        assert (g[..., 0] - 0.5).abs().max() > 0.05  # the router has a say
        (a0, b0), (a1, b1) = (factors(params, layer, expert) for expert in range(2))
        a, b = (torch.einsum("blk,kij->blij", g, torch.stack(pair)) for pair in ((a0, a1), (b0, b1)))
        weight = entry["module"].base_layer.weight.double()
        mixed = x.double() @ weight.T + 2.0 * torch.einsum("bloi,blij,blj->blo", b, a, x.double())
        assert (entry["y"].double() - mixed).abs().max() > 0.05


def test_an_answer_is_what_was_trained():
    # The packed experts against the named ones, without dropout.
    bank = small_bank(2, config=MODEL.model_copy(update={"dropout": 0.0}))
    TWO.install(bank, small_setting())
    params = random_params(bank.params())
    bank.load(params)
    bank.activate(Assignment(train=(0, 1)), with_projector=True)
    batch = COLLATOR.prompts(SAMPLES)
    named = bank.forward(batch).logits.detach()
    bank.pack(params)
    torch.testing.assert_close(bank.forward(batch).logits, named, rtol=1e-4, atol=1e-5)


def test_a_rule_that_leaves_products_where_no_router_weighs_them_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Residual(LoraRule):
        declares = frozenset({Trait.ADDS_RESIDUAL})

        def install(self, bank):
            bank.add_residuals()

    plain = Algorithm(TWO, Plain(), FedAvg(), Aggregation())
    assert not reasons(plain)
    assert isinstance(plain.aggregation.lora, FactorAverage)
    assert "no router" in reasons(replace(plain, aggregation=Aggregation(lora=Residual())))["method"]
