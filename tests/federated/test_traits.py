"""What a part says of itself: declared where a hook tells it, kept true where a hook is overridden again."""

from dataclasses import dataclass

import pytest

from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.crossing import TABLE, reasons
from fcit_ray.federated.local_optim import LocalRule, Plain
from fcit_ray.federated.lora.base import FactorAverage, LoraRule
from fcit_ray.federated.lora.fedex import FedEx
from fcit_ray.federated.lora.fedsa import FedSA
from fcit_ray.federated.lora.ffa import FFA
from fcit_ray.federated.lora.zero_pad import ZeroPad
from fcit_ray.federated.method import Method
from fcit_ray.federated.privacy import DpFedAvg, Privacy
from fcit_ray.federated.robust import Mean
from fcit_ray.federated.server_optim import FedAdam, FedAvg
from fcit_ray.federated.traits import Trait
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.l2p import L2P
from fcit_ray.methods.olora import OLora


def algorithm(method=None, local=None, server=None, **aggregation):
    return Algorithm(method or Finetune(), local or Plain(), server or FedAvg(), Aggregation(**aggregation))


@pytest.mark.parametrize(
    ("kind", "hooks", "trait"),
    [
        (Method, ("consolidate",), Trait.KEEPS_MODELS),
        (Method, ("absorb", "report"), Trait.LEARNS_FROM_REPORTS),
        (Method, ("deploy",), Trait.MERGES_ADAPTERS),
        (LocalRule, ("init",), Trait.STEERS_VALUES),
        (LocalRule, ("absorb",), Trait.LEARNS_FROM_REPORTS),
        (LoraRule, ("combine",), Trait.OTHER_COMBINATION),
        (LoraRule, ("stays",), Trait.KEEPS_FACTORS),
        (LoraRule, ("give",), Trait.UNEQUAL_RANKS),
        (Privacy, ("clip",), Trait.CLIPS),
        (Privacy, ("noise",), Trait.NOISES),
    ],
)
def test_a_class_says_what_its_hooks_say_or_is_refused_with_what_to_write(kind, hooks, trait):
    body = dict.fromkeys(hooks, lambda self, *_: None)
    with pytest.raises(TypeError, match=rf"Mine overrides `.*{trait.value[:20]}.*Trait\.{trait.name}\}}\)") as told:
        type("Mine", (kind,), body)
    for hook in hooks:
        assert f"`{hook}`" in str(told.value)
    declared = type("Mine", (kind,), {**body, "declares": frozenset({trait})})
    # Whoever derives from it has said it too.
    assert trait in type("Derived", (declared,), body).declares


def test_both_hooks_of_a_pair_say_it_and_one_alone_does_not():
    type("Tells", (Method,), {"report": lambda self, run: ({}, {"mine": 1.0})})
    type("Counts", (Method,), {"absorb": lambda self, knowledge, updates: knowledge})


def test_what_to_write_keeps_what_is_inherited():
    with pytest.raises(TypeError, match=r"declares = Ewc\.declares \| frozenset\(\{Trait\.MERGES_ADAPTERS\}\)"):
        type("Mine", (Ewc,), {"deploy": lambda self, params, knowledge: params})


def test_a_promise_holds_only_for_the_hook_it_was_made_of():
    with pytest.raises(TypeError, match=r"Mine overrides `combine` of a class that is the weighted mean"):
        type("Mine", (Mean,), {"combine": lambda self, items, weights: {}})
    with pytest.raises(TypeError, match=r"Mine overrides `step` of a class that adds the combined delta as it is"):
        type("Mine", (FedAvg,), {"step": lambda self, params, delta, memory: (params, memory)})
    with pytest.raises(TypeError, match=r"Mine overrides `trains` of a class that trains and sends both factors"):
        type("Mine", (FactorAverage,), {"trains": lambda self, name: True})
    # Said anew, either way.
    type("Same", (Mean,), {"combine": lambda self, items, weights: {}, "declares": frozenset({Trait.PLAIN_MEAN})})
    other = type("Other", (Mean,), {"combine": lambda self, items, weights: {}, "declares": frozenset()})
    assert "robust.name must be mean" in reasons(algorithm(lora=FedEx(), rule=dataclass(frozen=True)(other)()))["lora"]


def test_what_values_say_need_not_be_declared():
    assert Trait.SEVERAL_ADAPTERS in Disco(num_subspaces=2).traits
    assert Trait.SEVERAL_ADAPTERS not in Disco(num_subspaces=1).traits
    assert Trait.SEVERAL_ADAPTERS in OLora().traits  # one a stage
    assert Trait.NO_LORA in L2P().traits
    assert Trait.FREEZES_A in FFA().traits
    assert Trait.FREEZES_A not in FedSA().traits  # which trains A and keeps B


def test_hyper_parameters_take_traits_away():
    assert Trait.TURNS_A not in OLora(l1=0.0).traits
    assert Trait.UNEQUAL_RANKS not in ZeroPad().traits
    assert Trait.OWN_WEIGHTS in ZeroPad(weights="norm").traits
    assert Trait.COUNTS_ON_SECRECY not in DpFedAvg(noise_multiplier=0.0).traits
    assert Trait.WANTS_EQUAL_CLIENTS not in FedAdam(variant="reddi").traits


@dataclass(frozen=True, kw_only=True)
class Snapshots(Method):
    """A user's own: keeps the last global model of every stage, to look at."""

    declares = frozenset({Trait.KEEPS_MODELS})

    def consolidate(self, knowledge, params, stage):
        return {**knowledge, str(stage): params}


@dataclass(frozen=True, kw_only=True)
class NoSnapshots(Snapshots):
    """It says that it does not after all."""

    @property
    def traits(self):
        return super().traits - {Trait.KEEPS_MODELS}


def test_a_users_method_is_crossed_by_what_it_declares():
    assert "there is none: every client has its own B" in reasons(algorithm(Snapshots(), lora=FedSA()))["lora"]
    assert not reasons(algorithm(NoSnapshots(), lora=FedSA()))
    assert not reasons(algorithm(Snapshots()))


def test_of_the_rows_that_a_part_offends_the_first_is_told_and_every_axis_tells_one():
    # SCAFFOLD's variates and EWC's reports both reach the server unclipped; the axis of privacy tells of the method.
    found = reasons(algorithm(Ewc(), lora=FedEx(), rule=Mean(), privacy=DpFedAvg(), weights="uniform"))
    assert found == {
        "lora": "a residual of products is not bounded by clipping the factors, so privacy must not add noise",
        "privacy": "dp_fedavg wants a LoRA rule that averages what clients send, name by name: FedEx multiplies or "
        "decomposes factors, which moves more than the clipped delta does",
    }


def test_every_row_is_a_sentence_and_no_two_say_the_same_of_the_same():
    assert all(len(row.why.split()) > 5 and not row.why.endswith(".") for row in TABLE)
    assert len({(row.part, row.other) for row in TABLE}) == len(TABLE)


def test_every_trait_is_looked_at_by_some_row():
    assert {trait for row in TABLE for trait in (row.part, row.other)} == set(Trait)
