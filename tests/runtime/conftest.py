"""One Ray cluster and one small generated benchmark for all tests of the runtime."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.miniature.writing import write_miniature

if TYPE_CHECKING:
    from fcit_ray.runtime.launch import Shared

Configure = Callable[..., Config]
NAMED = ("method", "server", "local", "lora", "robust", "privacy")  # sections that belong to the name in them


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("miniature") / "data"
    write_miniature(root, num_train=24, num_validation=2, num_test=6)
    return root


@pytest.fixture(scope="session")
def mixed(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but of three records one has no picture and one has two, in training and in the test."""
    root = tmp_path_factory.mktemp("mixed") / "data"
    shutil.copytree(miniature, root)
    for file in (root / "instructions").rglob("*.json"):
        records = json.loads(file.read_text())
        if isinstance(records, dict):  # reference captions
            continue
        for number, record in enumerate(records):
            message, key = (record["conversations"][0], "value") if "conversations" in record else (record, "text")
            words = message[key].replace("<image>", "").strip()
            if number % 3 == 0:
                del record["image"]
                message[key] = words
            elif number % 3 == 1:
                record["image"] = [record["image"]] * 2
                message[key] = f"<image> or <image>? {words}"
        file.write_text(json.dumps(records))
    return root


@pytest.fixture(scope="session")
def configure(miniature: Path) -> Configure:
    """A configuration of two tasks, two rounds and a second of training; sections given override keys of its own."""

    def make(**sections: Any) -> Config:
        values: dict[str, Any] = {
            "name": "small",
            "method": {"name": "disco", "num_subspaces": 4},
            "benchmark": {
                "root": str(miniature),
                "tasks": ["ArxivQA", "IconQA"],
                "num_clients": 3,
                "clients_per_round": 2,
                "num_rounds": 2,
                "min_samples": 2,
            },
            "model": {"path": "tiny", "max_length": 256, "rank": 8, "alpha": 16},
            "train": {"lr": 5e-3, "projector_lr": 2e-4},
            "evaluation": {"batch_size": 4, "max_new_tokens": 4},
            "runtime": {"num_workers": 2, "cpus_per_worker": 0.5, "keep_checkpoints": 100},
        }
        for name, section in sections.items():
            merge = isinstance(section, dict) and name not in NAMED
            values[name] = {**values.get(name, {}), **section} if merge else section
        return parse_config(values)

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A cluster of this process's own, on two CPUs; its processes find the modules beside the tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # a cluster in each process, on two CPUs each, would be slow and brittle
        assert os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0].endswith("@cluster"), "tests are not held in groups"
    import ray

    from fcit_ray.runtime.cluster import start_ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    # For the store of test_stored_run.py: credentials are no part of a URI.
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    start_ray(num_cpus=2, address="local")
    yield
    ray.shutdown()


SERVED: dict[str, Any] = {"num_workers": 2, "cpus_per_worker": 0.01}
"""Of a run that the crew of `served` serves; so little is held all the while from those that bring their own."""


@pytest.fixture(scope="session")
def served(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Shared"]:
    """`shared` of launches to which the workers' processes are not the point: two that serve one run after another.

    Most of a launch with workers of its own is their start.
    """
    from fcit_ray.runtime.crew import Crews, engage
    from fcit_ray.runtime.launch import Shared

    over = threading.Event()
    with Crews(1, SERVED["num_workers"], tmp_path_factory.mktemp("crew")) as crews:

        def hire() -> None:
            while not over.wait(0.2):
                crews.hire()

        thread = threading.Thread(target=hire, daemon=True)
        thread.start()
        yield Shared(engage(crews.foreman), abandon_s=0.0)
        over.set()
        thread.join()
