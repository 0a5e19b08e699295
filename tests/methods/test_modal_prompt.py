"""ModalPrompt: prototypes, who stands in front of whom, and that a finished stage stays as it is."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from small import TRAIN, SmallPopulation, small_bank, small_setting, trainer
from torch.nn.functional import cosine_similarity

from fcit_ray.experiment.algorithm import Algorithm
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.crossing import reasons
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.local_optim import Plain
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.modal_prompt import ModalPrompt, nearest_prompts, prototype
from fcit_ray.models.names import adapter_index
from fcit_ray.results.checkpoint import load, save
from fcit_ray.types import Assignment

FROZEN_PROJECTOR = TRAIN.model_copy(update={"projector_lr": 0.0})
SHORT = ModalPrompt(prompt_length=2, num_prompts=2)


def network(stage, tokens, hidden, out, bias):
    values = {"tokens": tokens, "hidden.weight": hidden, "hidden.bias": [0.0, 0.0], "out.weight": out, "out.bias": bias}
    return {f"prompt.s{stage}.{part}": torch.tensor(value) for part, value in values.items()}


def knowing(*prototypes):
    """Stage t's prompt is one embedding (t, t)."""
    return {
        "tokens": torch.arange(float(len(prototypes))).view(-1, 1, 1).expand(-1, 1, 2),
        "prototypes": torch.tensor(prototypes),
    }


def federated(method, schedule, train=TRAIN):
    setting = small_setting(num_stages=len(schedule))
    bank = small_bank(method.num_adapters(setting))
    method.install(bank, setting)
    federation = Federation(method, FedAvg(), SmallPopulation(schedule), setting)
    return federation, federation.start(bank.params()), trainer(bank, method, setting, train)


def learned(method, schedule, train=TRAIN):
    federation, start, client = federated(method, schedule, train)
    frozen = frozenset() if train.projector_lr else frozenset(name for name in start.params if "projector" in name)
    return simulate(federation, start.params, client, frozen)


def unit(params, stage):
    return {name: value for name, value in params.items() if adapter_index(name) == stage}


def test_a_prototype_is_the_mean_of_the_networks_images_of_the_embeddings():
    # First layer: (0, 2) to (0, -2), (2, 0) to (2, 0). SiLU(2) = 2 sigmoid(2) = 1.761594, SiLU(-2) = -0.238406.
    # Second layer: (-0.238406, 0.238406 + 0.5) and (1.761594, 1.761594 + 0.5). Means: 0.761594 and 1.5. (The image of
    # the mean (1, 1) would be (0.462117, 1.5).)
    params = network(3, [[0.0, 2.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]], [[1.0, 1.0], [1.0, -1.0]], [0.0, 0.5])
    torch.testing.assert_close(prototype(params, 3), torch.tensor([0.761594, 1.5]), rtol=0, atol=1e-6)


def test_the_loss_draws_the_prototype_to_every_samples_feature():
    # A second layer of zeros leaves its bias (3, 4): cos 0.6 to (1, 0) and 0.8 to (0, 9). 2 + (0.4 + 0.2) / 2 = 2.3.
    trained = network(1, [[0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [3.0, 4.0])
    run = SimpleNamespace(trained=trained, job=SimpleNamespace(stage=1))
    features = torch.tensor([[1.0, 0.0], [0.0, 9.0]])
    loss = ModalPrompt().loss(run, {"features": features}, SimpleNamespace(loss=torch.tensor(2.0)))
    assert loss.item() == pytest.approx(2.3)


def test_the_most_relevant_prompts_stand_in_front_the_nearest_last():
    # To (1, 0): cos 1, 0 and 0.6; to (0, 2): 0, 1 and 0.8. Lengths do not count.
    knowledge = knowing([9.0, 0.0], [0.0, 1.0], [3.0, 4.0])
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    found = nearest_prompts(knowledge, features, 2)
    assert found[..., 0].tolist() == [[2.0, 0.0], [2.0, 1.0]]
    assert ModalPrompt(num_prompts=5).prompts(None, knowledge, features)[..., 0].tolist() == [[1, 2, 0], [0, 2, 1]]
    assert ModalPrompt(num_prompts=1).prompts(None, knowledge, features)[..., 0].tolist() == [[0], [1]]


def test_before_the_first_stage_is_over_there_is_no_prompt():
    knowledge = ModalPrompt().init({}, small_setting())
    assert ModalPrompt().prompts(None, knowledge, torch.ones(2, 4)) is None


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [[7], [7]]), (2, [[0, 7], [1, 7]]), (5, [[1, 2, 0, 7], [0, 2, 1, 7]])]
)
def test_while_a_stage_is_learned_its_own_prompt_stands_last(count, expected):
    seen = []
    bank = SimpleNamespace(
        parameter={"prompt.s3.tokens": torch.full((1, 2), 7.0)}.get,
        forward=lambda batch, prompts: seen.append(prompts),
    )
    job = SimpleNamespace(stage=3, knowledge=knowing([9.0, 0.0], [0.0, 1.0], [3.0, 4.0]))
    batch = {"features": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}
    ModalPrompt(num_prompts=count).forward(SimpleNamespace(bank=bank, job=job), batch)
    assert seen[0][..., 0].tolist() == expected


def test_only_the_stages_own_prompt_and_network_travel_and_train():
    federation, state, client = federated(SHORT, ((0, 0), (1, 2)))
    # prompt 2 x 16, network 16 -> 16 -> 4 with biases
    assert sum(value.numel() for value in unit(state.params, 0).values()) == 2 * 16 + 17 * 16 + 17 * 4
    assert not [name for name in state.params if "lora_" in name]
    job = federation.plan(state)[1]
    assert job.assignment == Assignment(train=(0,))
    assert {adapter_index(name) for name in job.params} == {0, None}
    assert client(job).delta.keys() == job.params.keys()


def test_a_finished_stage_stays_as_it_is():
    one, two = learned(SHORT, ((0, 0),)), learned(SHORT, ((0, 0), (1, 2)))
    _, start, _ = federated(SHORT, ((0, 0), (1, 2)))
    for name, value in unit(two.params, 0).items():
        assert torch.equal(value, one.params[name])  # stage 1 did not touch it
        assert not torch.equal(value, start.params[name])  # stage 0 did
    for stage in (0, 1):
        assert torch.equal(two.knowledge["tokens"][stage], two.params[f"prompt.s{stage}.tokens"])
        assert torch.equal(two.knowledge["prototypes"][stage], prototype(two.params, stage))
    assert two.knowledge["prototypes"].shape == (2, 4)


def test_with_one_prompt_a_stage_learns_the_same_whatever_came_before_to_the_bit():
    # Nothing else passes from stage to stage once the projector is frozen. With two prompts, the past one does.
    for method, same in ((replace(SHORT, num_prompts=1), True), (SHORT, False)):
        first, second = (learned(method, (past, (1, 1)), FROZEN_PROJECTOR).params for past in ((0, 0), (2, 2)))
        assert all(torch.equal(first[name], value) for name, value in unit(second, 1).items()) is same
        assert not torch.equal(first["prompt.s0.tokens"], second["prompt.s0.tokens"])


def test_prototypes_move_towards_the_features():
    # Of the small population's samples, whose features are random: towards their mean, that is.
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Watching(ModalPrompt):
        def loss(self, run, batch, output):
            seen.append(batch["features"])
            return super().loss(run, batch, output)

    federation, state, client = federated(Watching(prompt_length=2, num_prompts=2), ((0, 0),))
    job = federation.plan(state)[0]
    after = {name: job.params[name] + value for name, value in client(job).delta.items()}
    features = torch.cat(seen)
    before, moved = (cosine_similarity(features, prototype(p, 0)[None]).mean() for p in (job.params, after))
    assert moved > before + 0.01


def test_what_is_known_survives_a_checkpoint(tmp_path):
    _, start, _ = federated(SHORT, ((0, 0), (1, 2)))
    for name, state in (("start", start), ("end", learned(SHORT, ((0, 0), (1, 2))))):
        save(state, tmp_path / name)
        back = load(tmp_path / name).knowledge
        assert all(torch.equal(back[key], value) for key, value in state.knowledge.items())
        assert back["tokens"].shape == state.knowledge["tokens"].shape


def test_a_lora_rule_makes_no_sense_without_lora():
    @dataclass(frozen=True, kw_only=True)
    class Other(LoraRule):
        pass

    plain = Algorithm(ModalPrompt(), Plain(), FedAvg(), Aggregation())
    assert not reasons(plain)
    assert "no LoRA" in reasons(replace(plain, aggregation=Aggregation(lora=Other())))["method"]
