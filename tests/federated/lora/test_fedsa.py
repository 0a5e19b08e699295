"""FedSA-LoRA: A goes round, B stays at home, and everybody is asked with a B of their own."""

import pytest
import torch
from dense import learned
from small import TRAIN, SmallPopulation, client, job_batches, small_bank, small_setting

from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation
from fcit_ray.federated.lora.base import FactorAverage
from fcit_ray.federated.lora.fedsa import FedSA
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.hide import Hide
from fcit_ray.methods.merged_loras import MergedLoras
from fcit_ray.methods.olora import OLora
from fcit_ray.params import params_sha256
from fcit_ray.results import checkpoint
from fcit_ray.types import Assignment, ClientJob


def of(factor, params):
    return {name: value for name, value in params.items() if f".lora_{factor}." in name}


def job(index, personal=None, train=(0,), params=None):
    return ClientJob(
        stage=0,
        round=0,
        client=client(index, [1.0], 4),
        assignment=Assignment(train=train),
        params=params or {},
        knowledge={},
        memory={"personal": personal} if personal else {},
        seed=index,
    )


def run(bank, work):
    return run_client(work, job_batches(work), bank, Finetune(), TRAIN, small_setting(), None, FedSA())


def test_b_never_leaves_and_the_global_b_stays_zero():
    state, _, updates, initial = learned(FedSA(), SmallPopulation(((0, 1),)))
    assert all(of("A", update.delta) and not of("B", update.delta) for update in updates)
    assert not any(value.any() for value in of("B", state.params).values())
    assert params_sha256(of("A", state.params)) != params_sha256(of("A", initial))
    own = [state.memories[index]["personal"] for index in ("0", "1")]
    assert [of("B", values).keys() == values.keys() for values in own] == [True, True]
    assert params_sha256(own[0]) != params_sha256(own[1])


def test_a_client_goes_on_from_its_own_b():
    setting = small_setting(num_stages=1, num_rounds=3)
    run = Federation(Finetune(), FedAvg(), SmallPopulation(((0, 1),)), setting, aggregation=Aggregation(lora=FedSA()))
    bank, seen = small_bank(), []

    class Looking(Finetune):
        def forward(self, run, batch):
            if not seen or seen[-1][0] != run.job.key:
                seen.append((run.job.key, params_sha256(of("B", run.bank.params()))))
            return super().forward(run, batch)

    def train(job):
        return run_client(job, job_batches(job), bank, Looking(), TRAIN, setting, None, FedSA())

    state = run.start(bank.params())
    left = {}
    while not run.is_over(state):
        jobs = run.plan(state)
        updates = [train(job) for job in jobs]
        for job, (key, started) in zip(jobs, seen[-2:], strict=True):
            assert key == job.key
            if job.client.index in left:
                assert started == left[job.client.index]
        left = {update.client.index: params_sha256(update.memory["personal"]) for update in updates}
        state = run.close(state, updates)
    assert len(seen) == 6
    assert len({digest for _, digest in seen}) == 5  # the two began alike, with zeros


def test_a_client_of_two_adapters_keeps_the_b_that_it_does_not_train_this_time():
    bank = small_bank(2)
    params = bank.params()
    first = run(bank, job(0, train=(0,), params=params)).memory["personal"]
    both = run(bank, job(0, first, train=(1,), params=params)).memory["personal"]
    assert len(first) == 6
    assert len(both) == 12
    assert all(torch.equal(both[name], value) for name, value in first.items())


def test_there_is_a_view_for_everybody_who_has_trained():
    params = {"x.lora_A.s0.weight": torch.ones(1), "x.lora_B.s0.weight": torch.zeros(1)}
    assert FedSA().views(params, {}).keys() == {""}
    own = {"x.lora_B.s0.weight": torch.tensor([3.0])}
    memories = {"10": {"personal": own}, "2": {"personal": own, "method": {}}, "3": {"method": {"seen": 1}}}
    views = FedSA().views(params, memories)
    assert list(views) == ["client_2", "client_10"]  # by number, not by letter; client 3 has no B
    assert views["client_10"]["x.lora_A.s0.weight"].item() == 1.0
    assert views["client_10"]["x.lora_B.s0.weight"].item() == 3.0
    assert params["x.lora_B.s0.weight"].item() == 0.0
    # all other rules have one model, whatever clients remember
    assert FactorAverage().views(params, memories) == {"": params}


def test_a_view_is_what_the_client_would_train_next():
    state, _, _, _ = learned(FedSA(), SmallPopulation(((0, 1),)))
    views = FedSA().views(state.params, state.memories)
    for index in (0, 1):
        given = {**FedSA().give(state.params, client(index, [1.0])), **state.memories[str(index)]["personal"]}
        assert params_sha256(views[f"client_{index}"]) == params_sha256(given)


@pytest.mark.parametrize("method", [OLora(), MergedLoras(), Hide()])
def test_a_client_answers_with_its_b_of_every_stage(method):
    # One adapter a stage: the second stage must not cost a client the B of the first.
    state = learned(FedSA(), SmallPopulation(((0, 0), (1, 1))), setting=small_setting(2, 1), method=method)[0]
    views = FedSA().views(state.params, state.memories)
    assert list(views) == ["client_0", "client_1"]
    for view in views.values():
        of_b = of("B", view)
        assert len({name.split(".")[-2] for name in of_b}) == 2
        assert all(value.any() for value in of_b.values())


def test_views_survive_a_checkpoint(tmp_path):
    state, _, _, _ = learned(FedSA(), SmallPopulation(((0, 1),)))
    checkpoint.save(state, tmp_path / "state")
    again = checkpoint.load(tmp_path / "state")
    for name, view in FedSA().views(state.params, state.memories).items():
        assert params_sha256(FedSA().views(again.params, again.memories)[name]) == params_sha256(view)


def test_with_one_client_its_view_is_what_the_average_of_factors_would_be():
    # Nobody else's A, its own B: one client learns what one client learns; the B it kept has been through no sum.
    population = SmallPopulation(((0,),))
    setting = small_setting(num_stages=1, num_rounds=1)
    plain = learned(FactorAverage(), population, setting=setting)[0].params
    state = learned(FedSA(), population, setting=setting)[0]
    (view,) = FedSA().views(state.params, state.memories).values()
    assert params_sha256(of("A", view)) == params_sha256(of("A", plain))
    assert params_sha256(of("B", view)) == params_sha256(of("B", plain))
