"""The paper's configurations end to end, on a root in the authors' layout, a tiny LLaVA-1.5 and a tiny CLIP.

Nothing of the configurations is changed but the places of data and models, the size of the federation and what the
machine has. So is `max_new_tokens` left at 128: the tiny model ends its answers by itself.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authors_root import (
    CAPABILITIES,
    PARTITION_CAPABILITIES,
    PARTITION_ORDER,
    TASK_RELATED,
    write_authors_root,
)
from conftest import SERVED
from fcit_layout import FCIT
from in_process import run
from repository import ROOT
from tiny_clip import write_tiny_clip
from tiny_llava15 import LAYERS, write_tiny_llava15

from fcit_ray.config.reading import load_config
from fcit_ray.config.schema import Config
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.params import params_sha256
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.launch import Shared, launch

CONFIGS = ROOT / "configs"
SIZE = ("benchmark.num_rounds=1", "benchmark.num_clients=5", "benchmark.min_samples=1")
MACHINE = (
    "runtime.gpu=false",
    *(f"runtime.{key}={value}" for key, value in SERVED.items()),
    "runtime.feature_cache=null",
)
NUM_TRAIN, NUM_TEST = 6, 3
NAMES = {
    *(
        f"model.language_model.layers.{layer}.mlp.{projection}_proj.lora_{factor}"
        for layer in range(LAYERS)
        for projection in ("gate", "up", "down")
        for factor in "AB"
    ),
    *(f"model.multi_modal_projector.linear_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")),
}
Paper = Callable[..., Config]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """A configuration of the paper by its file and its method's."""
    folder = tmp_path_factory.mktemp("paper")
    root = write_authors_root(folder / "FCIT", num_train=NUM_TRAIN, num_test=NUM_TEST, num_clients=5)
    model = write_tiny_llava15(folder / "llava-1.5-7b-hf")
    clip = write_tiny_clip(folder / "clip-336")
    places = (f"benchmark.root={root}", f"model.path={model}", f"model.identity_encoder={clip}")

    def load(name: str, method: str, *more: str) -> Config:
        files = [CONFIGS / f"{name}.yaml", CONFIGS / "methods" / f"{method}.yaml"]
        return load_config(files, [*places, *SIZE, *MACHINE, *more])

    return load


def answers(folder: RunFolder, label: str) -> dict[str, list[dict[str, Any]]]:
    files = (folder.path / "predictions" / label).glob("*.jsonl")
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def check_whole(folder: RunFolder, results: dict[str, Any], stages: list[set[str]], num_subspaces: int) -> None:
    """Every stage answered every record of the datasets seen by then, and the end can be read back.

    Args:
        folder: of the run.
        results: as the launch gave them.
        stages: the datasets answered after each stage.
        num_subspaces: of the method.
    """
    assert folder.finished
    assert results == folder.results()
    for stage, datasets in enumerate(stages):
        given = answers(folder, f"stage_{stage:04d}")
        assert set(given) == datasets
        for name, rows in given.items():
            records = json.loads((Path(folder.config().benchmark.root) / FCIT[name].test[0].path).read_text())
            assert [row["question_id"] for row in rows] == [str(record["question_id"]) for record in records]
            assert len(rows) == NUM_TEST
            for row in rows:
                assert len(row["gate"]) == num_subspaces
                assert sum(row["gate"]) == pytest.approx(1, abs=1e-5)
    state = folder.latest_checkpoint()
    assert state is not None
    assert (state.stage, state.round) == (len(stages), 0)
    assert params_sha256(state.params) == results["adapters_sha256"]
    subspaces = {f".s{k}.weight" for k in range(num_subspaces)}
    found = {name: name for name in state.params}
    for name in found:
        for suffix in subspaces:
            if name.endswith(suffix):
                found[name] = name.removesuffix(suffix)
    assert set(found.values()) == NAMES
    assert len(state.params) == 6 * LAYERS * num_subspaces + 4


def test_task_related_homogeneous(paper: Paper, tmp_path: Path) -> None:
    config = paper("task_homogeneous", "disco")
    assert (config.model.prompt, config.model.dtype, config.evaluation.max_new_tokens) == ("vicuna_v1", "bfloat16", 128)
    results = run(config, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert results["tasks"] == list(TASK_RELATED)
    matrix = results["matrix"]
    assert [sum(score is not None for score in row) for row in matrix] == list(range(1, 9))
    assert 0 <= results["last"] <= 100
    assert 0 <= results["avg"] <= 100
    check_whole(folder, results, [set(TASK_RELATED[: stage + 1]) for stage in range(8)], num_subspaces=8)
    rounds = [record for record in folder.records() if record["kind"] == "round"]
    for stage, record in enumerate(rounds):
        assert {client["task"] for client in record["clients"]} == {TASK_RELATED[stage]}
        assert sum(client["num_examples"] for client in record["clients"]) == NUM_TRAIN  # the five clients' of all
        # Their instructions differ: each task opens a subspace of its own, which all its clients train.
        assert {tuple(client["trained"]) for client in record["clients"]} == {(stage,)}
    state = folder.latest_checkpoint()
    assert state is not None
    assert state.knowledge["mass"].tolist() == [6.0] * 8


def test_capability_related_heterogeneous(paper: Paper, served: Shared, tmp_path: Path) -> None:
    """On Ray."""
    config = paper("capability_heterogeneous", "disco")
    folder = open_run(tmp_path / "run", config, resume=False, overwrite=False)
    results = launch(config, folder, shared=served)
    assert results["tasks"] == ["General", "Chart", "Math", "Other"]
    assert [score is not None for score in results["matrix"][-1]] == [True] * 4
    # The schedule's first stage holds tasks 0, 1 and 3, from the second on all four have been seen.
    first = {name for task in (0, 1, 3) for name in CAPABILITIES[task]}
    check_whole(folder, results, [first, *[set(FCIT)] * 3], num_subspaces=4)
    rounds = [record for record in folder.records() if record["kind"] == "round"]
    names = ["General", "Chart", "Math", "Other"]
    assert [[names.index(client["task"]) for client in record["clients"]] for record in rounds] == [
        [0, 1, 1, 3, 3],
        [0, 2, 2, 2, 3],
        [1, 2, 2, 3, 3],
        [0, 0, 0, 1, 1],
    ]
    for row in answers(folder, "stage_0003")["Grounding"]:
        assert row["answer"].startswith("[")  # the box that was asked for


@pytest.mark.parametrize(
    ("name", "folder"),
    [("task_homogeneous", "Task-related/seq/1.0"), ("capability_heterogeneous", "Capability-related/cap/1.0")],
)
def test_the_authors_partition_is_used_as_it_is_whatever_its_order_of_tasks(
    paper: Paper, name: str, folder: str
) -> None:
    files = f"partitioned_data/{folder}"
    config = paper(name, "disco", "benchmark.partition=files", f"benchmark.partition_files={files}")
    stream = open_experiment(config).stream
    for number, task in enumerate(config.benchmark.tasks):
        # In the files ImageNet-R comes first, in the stream it does not.
        order = [{dataset} for dataset in PARTITION_ORDER] if "Task" in folder else map(set, PARTITION_CAPABILITIES)
        there = Path(config.benchmark.root) / files / f"Task{list(order).index(set(task.datasets)) + 1}"
        for client in range(5):
            wanted = json.loads((there / f"client_{client}.json").read_text())
            got = stream.shard(number, client)
            assert [record.id for record in got] == [str(r.get("question_id", r.get("id"))) for r in wanted]
            assert {record.dataset for record in got} <= set(task.datasets)
        assert sum(map(len, stream.shards[number])) == NUM_TRAIN * len(task.datasets)


@pytest.mark.parametrize("method", ["centralised", "zero_shot"])
def test_the_bounds_of_the_table(paper: Paper, tmp_path: Path, method: str) -> None:
    config = paper("task_homogeneous", method)
    results = run(config, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert len(results["matrix"]) == 1
    assert 0 <= results["last"] <= 100
    assert results["avg"] is None
    given = answers(folder, "stage_0000" if method == "centralised" else "zero_shot")
    assert {name: len(rows) for name, rows in given.items()} == dict.fromkeys(TASK_RELATED, NUM_TEST)
    rounds = [record for record in folder.records() if record["kind"] == "round"]
    # All eight datasets' six records in one place, or nothing trained at all.
    assert [record["clients"][0]["num_examples"] for record in rounds] == ([48] if method == "centralised" else [])
