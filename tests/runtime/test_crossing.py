"""Every method, and every choice of the other axes: two stages on the miniature each.

Which methods cross with which choices is `tests/experiment/test_crossings.py`'s, on a smaller model: every server
optimiser with every method among them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SERVED, Configure

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.shards import LocalShards
from fcit_ray.experiment.components import AXES
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.federated.federation import simulate
from fcit_ray.params import norm, params_sha256
from fcit_ray.results.opening import open_run
from fcit_ray.runtime.data import sample_encoder
from fcit_ray.runtime.launch import Shared, launch
from fcit_ray.runtime.messages import AnswerWork, DirectStore, TrainWork
from fcit_ray.runtime.store import RayStore
from fcit_ray.runtime.worker import Worker
from fcit_ray.types import Params, ServerState

SMALL = {"num_rounds": 1, "num_clients": 2, "clients_per_round": 2}
ROBUST = {"num_clients": 4, "clients_per_round": 4}


Run = tuple[ServerState, Params, list[str]]


def untouched(value: Any) -> Any:
    return value


def run(
    config: Config, worker: Worker | None = None, first: Params | None = None, travel: Callable[[Any], Any] = untouched
) -> Run:
    """A whole run in this process: the last state, what it started from, and two answers a task.

    Whatever goes from one process to another in a run on Ray passes through `travel`.
    """
    experiment = travel(open_experiment(config))
    shards = LocalShards(experiment.stream, experiment.tests, sample_encoder(experiment))
    worker = worker or Worker(config, DirectStore())
    first = worker.initial_params() if first is None else first

    def train(job: Any) -> Any:
        shard = shards.train_shard(job.client.task, job.client.index)
        return travel(worker.train(travel(TrainWork(job, [job.params], job.knowledge, shard))))

    state = simulate(experiment.federation(shards.feature), first, train)
    answers = []
    for name in experiment.tests:
        work = travel(AnswerWork(1, [state.params], state.knowledge, name, shards.test_shard(name, [0, 1])))
        answers += [text for text, _ in travel(worker.answer(work)).answers]
    return state, first, answers


def check(config: Config, worker: Worker | None = None, first: Params | None = None) -> ServerState:
    state, first, answers = run(config, worker, first)
    assert state.stage == 2
    moved = {name: state.params[name] - value for name, value in first.items()}
    assert math.isfinite(norm(moved))
    assert norm(moved) > 0
    assert len(answers) == 4
    return state


def test_every_server_optimiser_runs_under_finetune_and_leaves_nothing_on_the_base(configure: Configure) -> None:
    # a worker knows nothing of the server, so one base serves them all; the first run's bits show that none is left
    worker = Worker(configure(method={"name": "finetune"}, benchmark=SMALL), DirectStore())
    first = worker.initial_params()
    digests: dict[str, str] = {}
    for server in [*AXES["server"].parts, "fedavg"]:
        state = check(configure(method={"name": "finetune"}, server={"name": server}, benchmark=SMALL), worker, first)
        digest = params_sha256(state.params)
        assert digests.setdefault(server, digest) == digest
    # With one round a stage FedAvgM, which forgets its momentum at a new one, is FedAvg; no other two are the same.
    assert digests["fedavgm"] == digests["fedavg"]
    assert len(set(digests.values())) == len(AXES["server"].parts) - 1


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
def test_every_choice_runs_under_finetune(configure: Configure, axis: str, name: str) -> None:
    weights = {"weights": "uniform"} if axis == "privacy" else {}
    check(configure(method={"name": "finetune"}, benchmark=SMALL | ROBUST, **{axis: {"name": name}}, **weights))


@pytest.mark.parametrize("method", AXES["method"].parts)
def test_every_method_runs_on_the_pictures_features(configure: Configure, method: str) -> None:
    # Of another length than the texts', 96 for 128.
    check(configure(method={"name": method}, benchmark=SMALL, model={"identity": "image"}))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("method", AXES["method"].parts)
def test_all_of_a_method_travels_through_ray(configure: Configure, method: str) -> None:
    """The run's parts, jobs, updates and answers' work, as the object store hands them on: with the same bits."""
    store = RayStore()
    config = configure(method={"name": method}, benchmark=SMALL)
    worker = Worker(config, DirectStore())
    first = worker.initial_params()
    travelled, _, answers = run(config, worker, first, travel=lambda value: store.get([store.put(value)])[0])
    stayed, _, same_answers = run(config, worker, first)
    assert params_sha256(travelled.params) == params_sha256(stayed.params)
    assert answers == same_answers


def test_a_method_with_reports_and_knowledge_runs_on_ray(
    configure: Configure, served: Shared, mixed: Path, tmp_path: Path
) -> None:
    # Over records with no picture, one and two.
    config = configure(method={"name": "ewc"}, benchmark={**SMALL, "root": str(mixed)}, runtime=SERVED)
    results = launch(config, open_run(tmp_path / "run", config, resume=False, overwrite=False), shared=served)
    assert results["adapters_sha256"] == params_sha256(run(config)[0].params)
