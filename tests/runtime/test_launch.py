"""Runs on a Ray cluster: the same bits wherever and however they run, and every failure ends with its reason."""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from conftest import SERVED, Configure
from in_process import in_one_process, run

from fcit_ray.config.schema import Config, parse_config
from fcit_ray.errors import ConfigError, DataError, RunFailed
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.launch import Shared, check_room, launch
from fcit_ray.runtime.status import Status

pytestmark = pytest.mark.usefixtures("cluster")


def start(
    config: Config, path: Path, *, resume: bool = False, on_status: Callable[[Status], None] | None = None
) -> Any:
    folder = open_run(path, config, resume=resume, overwrite=False)
    return launch(config, folder, on_status=on_status or (lambda status: None))


def processes(name: str) -> list[psutil.Process]:
    """Of the cluster that this process started, by the title that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{name}"):
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile
    return found


class KillOnce:
    """Kills a process when the run trains in its second stage, or tells it to terminate."""

    def __init__(self, name: str, number: int = signal.SIGKILL):
        self.name = name
        self.number = number
        self.killed: psutil.Process | None = None
        self._others = {process.pid for process in processes(name)}  # the crew's, that serves other tests

    def __call__(self, status: Status) -> None:
        if self.killed is None and status.phase == "training" and status.stage == 1 and status.done < status.total:
            self.killed = next(process for process in processes(self.name) if process.pid not in self._others)
            self.killed.send_signal(self.number)


@pytest.fixture(scope="module")
def slower(configure: Configure) -> Config:
    """Rounds of some seconds, so that there is a middle to be killed in."""
    return configure(train={"lr": 5e-3, "epochs": 8})


@pytest.fixture(scope="module")
def expected(slower: Config) -> str:
    return in_one_process(slower)


def test_two_workers_share_each_client_and_one_is_killed_while_it_helps(configure: Configure, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    config = configure(
        method={"name": "killed_helper:KilledHelper", "marker": str(marker)},
        benchmark={"clients_per_round": 1, "num_rounds": 1},
        train={"lr": 5e-3, "epochs": 6, "micro_batch_size": 1},
        model={"dropout": 0.05},
    )
    results = start(config, tmp_path / "run")
    assert marker.exists(), "nobody died"
    clients = [client for record in RunFolder(tmp_path / "run").records() for client in record.get("clients", [])]
    assert len(clients) == 2
    shared = [client for client in clients if "shared" in client]  # the second may begin before there are two again
    assert shared
    assert all(0 < client["shared"] < 1 and client["exchange_s"] > 0 for client in shared)
    assert results["adapters_sha256"] == in_one_process(config)
    assert results == RunFolder(tmp_path / "run").results()


def test_workers_of_different_groups_do_one_run_to_the_bits_of_one_process(
    slower: Config, expected: str, tmp_path: Path
) -> None:
    groups = [{"num_workers": 1}, {"num_workers": 1, "cpus_per_worker": 0.25}]
    config = parse_config({**slower.model_dump(mode="json"), "runtime": {"worker_groups": groups}})
    kill = KillOnce("RayTrainWorker")
    results = start(config, tmp_path / "run", on_status=kill)
    assert kill.killed is not None
    assert results["adapters_sha256"] == expected
    # Two worker groups, and both have worked: the ranks of the second go on where the first's end.
    assert {path.name for path in (tmp_path / "run/logs").glob("workers-*")} == {"workers-0", "workers-1"}
    served = [record["workers"] for record in RunFolder(tmp_path / "run").records() if "workers" in record]
    assert {worker["worker"] for each in served for worker in each} >= {0, 1}


class Another:
    """Somebody else's actor, on the same cluster."""


class RoomThatComesLate:
    """So much of two CPUs is somebody else's until a round has begun, as if a node came then; who joins is killed once.

    Args:
        cpus: that are taken.
        twice: a file to be there once a worker has joined twice.
    """

    def __init__(self, cpus: float, twice: Path):
        self._other: Any = ray.remote(Another).options(num_cpus=cpus).remote()
        self._twice = twice
        self.killed = False
        self.said: list[str] = []

    def __call__(self, status: Status) -> None:
        self.said = [line.text.removeprefix("small  ") for line in status.lines if " of 2 " in line.text]
        if status.phase == "training" and self._other is not None:
            ray.kill(self._other)
            self._other = None
        joined = sum("has joined" in line for line in self.said)
        if joined == 1 and not self.killed:
            [worker] = processes("JoiningWorker.serve")
            worker.kill()
            self.killed = True
        elif joined == 2:
            self._twice.touch()


def test_a_run_begins_with_one_worker_and_another_joins_dies_and_is_replaced_to_the_bits_of_one_process(
    configure: Configure, tmp_path: Path
) -> None:
    twice = tmp_path / "twice"
    config = configure(
        method={"name": "troubled_clients:Troubled", "awaits": str(twice)},
        benchmark={"num_rounds": 1},
        runtime={"num_workers": 2, "min_workers": 1, "cpus_per_worker": 0.7},  # 0.5 of two CPUs are left to read with
    )
    room = RoomThatComesLate(0.7, twice)
    results = start(config, tmp_path / "run", on_status=room)
    assert room.said == [
        "1 of 2 workers are there; each of the others joins when it finds room",
        *["worker 1 has joined: 2 of 2 are there"] * 2,
    ]
    deadline = time.monotonic() + 5.0
    while processes("JoiningWorker") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes("JoiningWorker"), "left behind"
    assert results["adapters_sha256"] == in_one_process(config)  # nobody waits any more


def test_a_client_that_fails_once_is_tried_elsewhere_to_the_same_bits_and_the_terminal_gets_nothing(
    configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = configure(method={"name": "troubled_clients:Troubled", "marker": str(tmp_path / "failed")})
    told: list[str] = []
    capfd.readouterr()
    results = start(config, tmp_path / "run", on_status=lambda status: told.extend(line.text for line in status.lines))
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    records = [record for record in RunFolder(tmp_path / "run").records() if record["kind"] == "round"]
    [failed] = [failed for record in records for failed in record.get("failures", [])]
    [attempt] = failed["attempts"]
    assert not failed["dropped"]
    assert re.fullmatch(r".*troubled_clients\.py, line \d+, in report: OSError: a cosmic ray", attempt["reason"])
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", attempt["node"])
    again = f"; worker {attempt['worker']} on {attempt['node']}; it is tried again (1 of 2)"
    assert next(line for line in told if "cosmic" in line).endswith(again)
    assert len(records[0]["clients"]) == 2
    assert results["failures"] == {"updates": 8, "missing": 0, "retried": 1}
    assert results["adapters_sha256"] == in_one_process(config)
    # Every run says who holds what: 24 records of each of two tasks over three clients.
    counts = json.loads((tmp_path / "run/partition.json").read_text())
    assert (counts["kind"], counts["num_clients"]) == ("dirichlet", 3)
    assert [sum(task["counts"]) for task in counts["tasks"]] == [24, 24]
    assert (tmp_path / "run/partition.png").is_file()


def test_a_client_that_sleeps_for_ever_is_left_out_and_its_worker_replaced(
    configure: Configure, tmp_path: Path
) -> None:
    """The replacement counts for no death: the run bears none."""
    config = configure(
        method={"name": "troubled_clients:Troubled", "sleeps": 1},
        benchmark={"tasks": ["ArxivQA"], "clients_per_round": 3, "num_rounds": 1},
        runtime={"lease_s": 12.0, "max_worker_failures": 0},
        failures={"retries": 0, "then": "drop"},
    )
    results = start(config, tmp_path / "run")
    records = [record for record in RunFolder(tmp_path / "run").records() if record["kind"] == "round"]
    for record in records:
        [failed] = record["failures"]
        assert (failed["client"], failed["task"], failed["dropped"]) == (1, "ArxivQA", True)
        assert failed["attempts"][0]["reason"] == "nothing was heard of it for 12 s (runtime.lease_s)"
        assert sorted(client["client"] for client in record["clients"]) == [0, 2]
    assert results["failures"] == {"updates": 3, "missing": 1, "retried": 0}


def test_more_deaths_than_allowed_end_the_run(configure: Configure, tmp_path: Path) -> None:
    config = configure(train={"lr": 5e-3, "epochs": 8}, runtime={"max_worker_failures": 0, "num_workers": 1})
    with pytest.raises(RunFailed, match=r"max_worker_failures=0 times, at last worker 0 "):
        start(config, tmp_path / "run", on_status=KillOnce("RayTrainWorker"))


def test_a_driver_told_to_terminate_and_an_interrupt_end_the_run_which_resumes_with_the_same_bits(
    slower: Config, expected: str, tmp_path: Path
) -> None:
    """One that is killed: `test_stored_run.py`."""
    config = parse_config({**slower.model_dump(mode="json"), "runtime": {"num_workers": 1, "cpus_per_worker": 0.5}})
    kill = KillOnce("RayDriver", signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(RunFailed, match=r"the driver.* told to terminate \(SIGTERM.*; --resume goes on"):
        start(config, tmp_path / "run", on_status=kill)
    assert kill.killed is not None
    assert time.monotonic() - began < 60.0

    raised: list[float] = []

    def interrupt(status: Status) -> None:
        if status.phase == "training" and status.stage == 1:
            raised.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", resume=True, on_status=interrupt)
    assert time.monotonic() - raised[0] < 10.0
    assert run(config, tmp_path / "run", resume=True)["adapters_sha256"] == expected


@pytest.mark.parametrize("cache_mb", [100, 0])
def test_an_image_that_breaks_off_after_the_check_ends_the_run_by_name(
    configure: Configure, served: Shared, miniature: Path, tmp_path: Path, cache_mb: int
) -> None:
    """Met in the driver's Ray Data execution, or, streamed, in a later one."""
    shutil.copytree(miniature, tmp_path / "data")
    config = configure(
        benchmark={"root": str(tmp_path / "data"), "tasks": ["ArxivQA"]},
        method={"name": "finetune"},
        runtime={**SERVED, "cache_mb": cache_mb},
    )
    experiment = open_experiment(config)
    for image in (tmp_path / "data").glob("datasets/ArxivQA/**/*.png"):
        image.write_bytes(image.read_bytes()[:-60])
    folder = open_run(tmp_path / "run", config, resume=False, overwrite=False)
    place = r"^instructions/ArxivQA/train_4w\.json: record \d+ \(id '.*'\): image datasets/ArxivQA/.*\.png: "
    with pytest.raises((DataError, RunFailed), match=place) as caught:
        launch(config, folder, experiment=experiment, shared=served)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"num_workers": 9}, "runtime.num_workers: 9 workers of 0.5 CPUs find no room"),
        ({"cpus_per_worker": 3.0}, "runtime.num_workers: 2 workers of 3 CPUs find no room"),
        ({"cpus_per_worker": 1.0}, "runtime.cpus_per_worker: 2 workers of 1 CPUs leave less than 0.5 CPU to read"),
        ({"gpu": True, "num_workers": 64, "cpus_per_worker": 0.01}, "64 workers of 0.01 CPUs and a GPU"),
    ],
)
def test_what_can_never_be_placed_is_refused(configure: Configure, runtime: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_room(configure(runtime=runtime))
