"""Every method with every choice of every other axis: refused at the door for a reason that is known, or it trains."""

import math
from typing import Any

import pytest
from small import COLLATOR, END, MODEL, PAD, SmallPopulation, job_batches, sample, small_bank, small_setting

from fcit_ray.config.schema import Train, parse_config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import Algorithm, make_algorithm
from fcit_ray.experiment.components import AXES
from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.params import norm, params_sha256
from fcit_ray.types import ServerState

SMALLER = MODEL.model_copy(update={"rank": 8, "alpha": 16.0})
SCHEDULE = ((0, 0, 1, 1), (1, 2, 2, 2))  # four clients, two stages; task 1 comes back
TRAIN = Train(batch_size=8, lr=1e-2, projector_lr=1e-3)  # a step a round
OPTIONS = {  # eight ranks for two adapters
    "disco": {"num_subspaces": 2},
    "moelora": {"num_experts": 2},
    "modal_prompt": {"prompt_length": 2},
    "l2p": {"prompt_length": 2},
    "zero_pad": {"ranks": [1, 2, 4, 1]},
    "hlora": {"ranks": [1, 2, 4, 1]},
}
WITHOUT_LORA = {"l2p", "modal_prompt"}  # they train prompts
SEVERAL = {"olora", "merged_loras", "moelora", "hide", "disco"}  # adapters; a residual belongs to none of them
REFUSED = {
    "fedex": WITHOUT_LORA | SEVERAL | {"ewc"},
    "flora": WITHOUT_LORA | SEVERAL | {"ewc"},
    "ffa": WITHOUT_LORA | {"olora"},  # its l1 turns A, which this rule does not train
    "fedsa": WITHOUT_LORA | {"lwf", "ewc"},  # they keep a global model, and there is none
    "zero_pad": WITHOUT_LORA | {"ewc", "olora"},  # they hold what a client of few ranks does not have
    "hlora": WITHOUT_LORA | {"ewc", "olora"},
    "dp_fedavg": {"ewc"},  # its server learns from reports, which are not noised
}


def algorithm_of(method: str, **axes: str) -> Algorithm:
    """By names. Raises ConfigError if they make no sense together."""
    sections: dict[str, Any] = {
        axis: {"name": name, **OPTIONS.get(name, {})} for axis, name in {"method": method, **axes}.items()
    }
    if axes.get("privacy") == "dp_fedavg":
        sections["weights"] = "uniform"
    benchmark = {"tasks": ["ArxivQA"], "num_clients": 4, "clients_per_round": 4}
    return make_algorithm(parse_config({"benchmark": benchmark, **sections}))


def learned(algorithm: Algorithm, num_rounds: int) -> ServerState:
    """Two stages on the small bank, and answers by every model that there is then."""
    setting = small_setting(2, num_rounds, 4)
    bank = small_bank(algorithm.method.num_adapters(setting), config=SMALLER)
    method, lora = algorithm.method, algorithm.aggregation.lora
    method.install(bank, setting)
    lora.install(bank)
    population = SmallPopulation(SCHEDULE)
    federation = Federation(method, algorithm.server, population, setting, algorithm.local, algorithm.aggregation)
    first = bank.params()

    def train(job):
        return run_client(job, job_batches(job, TRAIN), bank, method, TRAIN, setting, algorithm.local, lora)

    state = simulate(federation, first, train)
    moved = norm({name: value - first[name] for name, value in state.params.items()})
    assert state.stage == 2
    assert math.isfinite(moved)
    assert moved > 0
    batch = COLLATOR.prompts([sample(0), sample(1)])
    for params in lora.views(state.params, state.memories).values():
        bank.pack(method.deploy(params, state.knowledge))
        gate = method.gate(state.knowledge, batch["features"], bank.num_adapters)
        prompts = method.prompts(bank, state.knowledge, batch["features"])
        assert len(bank.generate(batch, gate, 2, prompts, eos_token_id=END, pad_token_id=PAD)) == 2
    return state


@pytest.mark.parametrize("method", AXES["method"].parts)
def test_every_server_optimiser_makes_something_else_of_every_method(method: str) -> None:
    # Two rounds a stage, so that momentum and moments are used and not only filled.
    digests = {
        name: params_sha256(learned(algorithm_of(method, server=name), 2).params) for name in AXES["server"].parts
    }
    assert len(set(digests.values())) == len(AXES["server"].parts)


@pytest.mark.parametrize(
    ("axis", "name"),
    [
        ("local", "plain"),  # what each other axis is by default, too
        *(("local", name) for name in AXES["local"].parts if name != "plain"),
        *(("lora", name) for name in AXES["lora"].parts if name != "factors"),
        *(("robust", name) for name in AXES["robust"].parts if name != "mean"),
        *(("privacy", name) for name in AXES["privacy"].parts if name != "none"),
    ],
)
def test_every_method_trains_with_a_choice_or_is_refused_for_a_known_reason(axis: str, name: str) -> None:
    for method in AXES["method"].parts:
        if method in REFUSED.get(name, set()):
            # at the door: which axis, and a reason that is a sentence
            with pytest.raises(ConfigError, match=rf"^(method|{axis})\.name: (\S+ ){{5}}"):
                algorithm_of(method, **{axis: name})
        else:
            learned(algorithm_of(method, **{axis: name}), 1)
