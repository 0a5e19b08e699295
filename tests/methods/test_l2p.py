"""L2P: which prompts a sample takes, where keys and prompts go, and that nothing of LoRA is there."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from small import COLLATOR, TRAIN, SmallPopulation, sample, small_bank, small_setting, trainer
from torch.nn.functional import cosine_similarity

from fcit_ray.data.loading.shards import LocalShard, training_batches
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import Algorithm
from fcit_ray.experiment.components import make
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.client import run_client
from fcit_ray.federated.crossing import reasons
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.local_optim import Plain
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.federated.method import Method
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.l2p import KEYS, L2P, PROMPTS
from fcit_ray.params import params_sha256
from fcit_ray.types import Assignment

# cos to (1, 0): 1, 0, -1, 3/5; to (0, 1): 0, 1, 0, 4/5. Keys of other lengths than one, so that these must not count.
BY_HAND = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [3.0, 4.0]])
QUERIES = torch.tensor([[5.0, 0.0], [0.0, 0.1]])


def carried(method):
    setting = small_setting()
    bank = small_bank(method.num_adapters(setting))
    method.install(bank, setting)
    return bank


def learned(method, schedule=((0, 0), (1, 2))):
    setting, bank = small_setting(), carried(method)
    federation = Federation(method, FedAvg(), SmallPopulation(schedule), setting)
    return simulate(federation, bank.params(), trainer(bank, method, setting))


def first_job(method, bank):
    federation = Federation(method, FedAvg(), SmallPopulation(((0, 1), (1, 2))), small_setting())
    return federation.plan(federation.start(bank.params()))[0]


def test_a_sample_takes_the_prompts_of_the_most_similar_keys():
    chosen, similarity = L2P(pool_size=4, top_k=2).choose(BY_HAND, QUERIES)
    assert chosen.tolist() == [[0, 3], [1, 3]]
    torch.testing.assert_close(similarity, torch.tensor([[1.0, 0.6], [1.0, 0.8]]))


def test_the_pull_is_the_mean_over_samples_of_the_sum_over_their_keys():
    # Sums 1.6 and 1.8, mean 1.7: 2 - 0.1 * 1.7 = 1.83. The mean over all four similarities, 0.85, would give 1.915.
    run = SimpleNamespace(bank=SimpleNamespace(parameter={KEYS: BY_HAND}.get))
    output = SimpleNamespace(loss=torch.tensor(2.0))
    loss = L2P(pool_size=4, top_k=2).loss(run, {"features": QUERIES}, output)
    assert loss.item() == pytest.approx(1.83)


def test_prompts_stand_nearest_first_one_after_another():
    tokens = torch.arange(4 * 3 * 2.0).view(4, 3, 2)
    bank = SimpleNamespace(parameter={KEYS: BY_HAND, PROMPTS: tokens}.get)
    found = L2P(pool_size=4, top_k=2, prompt_length=3).prompts(bank, {}, QUERIES)
    assert torch.equal(found[0], torch.cat([tokens[0], tokens[3]]))
    assert torch.equal(found[1], torch.cat([tokens[1], tokens[3]]))


def test_a_samples_prompts_do_not_depend_on_its_neighbours():
    # The released default: the majority of the batch, here (1, 0) three times, decides for (0, 1) as well.
    bank = SimpleNamespace(parameter={KEYS: BY_HAND, PROMPTS: torch.arange(4.0).view(4, 1, 1)}.get)
    batch = torch.cat([QUERIES[:1]] * 3 + [QUERIES[1:]])
    assert L2P(pool_size=4, top_k=1).prompts(bank, {}, batch).flatten().tolist() == [0.0, 0.0, 0.0, 1.0]
    # To the bit, with keys and features of a usual size and no pattern.
    draw = torch.Generator().manual_seed(0)
    keys, features = torch.rand(10, 128, generator=draw) * 2 - 1, torch.randn(17, 128, generator=draw)
    together = L2P().choose(keys, features)
    for index in range(17):
        for whole, alone in zip(together, L2P().choose(keys, features[index : index + 1]), strict=True):
            assert torch.equal(whole[index], alone[0])


def test_nothing_of_lora_is_there_or_travels():
    bank = carried(L2P())
    params = bank.params()
    assert params[PROMPTS].shape == (10, 5, 16)
    assert params[KEYS].shape == (10, 4)
    assert params[KEYS].abs().max() <= 1
    assert not [name for name in params if "lora_" in name]
    job = first_job(L2P(), bank)
    assert job.assignment == Assignment(train=())
    assert job.params.keys() == params.keys()
    update = trainer(bank, L2P(), small_setting())(job)
    assert update.delta.keys() == {PROMPTS, KEYS} | {name for name in params if bank.is_projector(name)}


def test_prompts_start_as_wide_as_words():
    bank = carried(L2P(pool_size=20, prompt_length=20))
    # 20 * 20 * 16 = 6400 draws: relative standard error 1 / sqrt(12800) = 0.9 %
    assert bank.params()[PROMPTS].std().item() == pytest.approx(bank.spread, rel=0.04)


def test_a_pool_of_one_without_pull_is_prompt_tuning_to_the_bit():
    @dataclass(frozen=True, kw_only=True)
    class PromptTuning(Method):
        def num_adapters(self, setting):
            return 0

        def install(self, bank, setting):
            bank.add(PROMPTS, (1, 5, bank.width), std=bank.spread)

        def assign(self, knowledge, stage, clients):
            return [Assignment(train=()) for _ in clients]

        def prompts(self, bank, knowledge, features):
            return bank.parameter(PROMPTS)[torch.zeros(len(features), dtype=torch.long)]

    one, plain = learned(L2P(pool_size=1, top_k=1, pull=0.0)), learned(PromptTuning())
    initial = carried(L2P(pool_size=1, top_k=1)).params()
    assert torch.equal(one.params[KEYS], initial[KEYS])  # nothing pulls
    assert not torch.equal(one.params[PROMPTS], initial[PROMPTS])
    assert params_sha256({n: v for n, v in one.params.items() if n != KEYS}) == params_sha256(plain.params)


def test_chosen_keys_move_towards_their_queries_and_idle_ones_do_not_move_at_all():
    # All samples have one feature, near the keys 1 and 2: these two are chosen throughout.
    method = L2P(pool_size=4, prompt_length=2, top_k=2)
    bank = carried(method)
    keys = torch.tensor([[-1.0, 0.2, 0, 0], [1.0, 0.3, 0, 0], [1.0, 0, -0.4, 0], [-1.0, 0, 0, 0.1]])
    query = torch.tensor([1.0, 0, 0, 0])
    job = first_job(method, bank)
    job = replace(job, client=replace(job.client, num_examples=6), params={**job.params, KEYS: keys})
    records = LocalShard([{**sample(index), "feature": query.numpy()} for index in range(6)])
    batches = training_batches(records, COLLATOR, TRAIN.batch_size, 0, TRAIN.epochs)
    update = run_client(job, batches, bank, method, TRAIN, small_setting())
    before, after = (cosine_similarity(k, query[None]) for k in (keys, keys + update.delta[KEYS]))
    assert (after[1:3] > before[1:3] + 1e-4).all()
    moved = update.delta[PROMPTS].abs().flatten(1).amax(1)
    assert (moved[1:3] > 0).all()
    assert not moved[[0, 3]].any()
    assert not update.delta[KEYS][[0, 3]].any()


def test_more_prompts_than_the_pool_has_are_refused():
    with pytest.raises(ConfigError, match=r"method: top_k=11 exceeds pool_size=10"):
        make("method", {"name": "l2p", "top_k": 11})


def test_a_lora_rule_makes_no_sense_without_lora():
    @dataclass(frozen=True, kw_only=True)
    class Other(LoraRule):
        pass

    plain = Algorithm(L2P(), Plain(), FedAvg(), Aggregation())
    assert not reasons(plain)
    assert "no LoRA" in reasons(replace(plain, aggregation=Aggregation(lora=Other())))["method"]
