"""Several runs at once in one worker group: each gives what it gives alone, and one that fails costs others none."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from conftest import Configure
from in_process import run

from fcit_ray.config.schema import Config
from fcit_ray.errors import RunFailed
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.results.opening import open_run
from fcit_ray.runtime.together import Planned, alike, at_a_time, launch_together


def test_so_many_runs_at_a_time_as_keep_the_workers_busy(configure: Configure) -> None:
    def configs(workers: int, clients: int, number: int = 9) -> list[Config]:
        sizes = {"num_clients": 50, "clients_per_round": clients}
        return [configure(runtime={"num_workers": workers}, benchmark=sizes)] * number

    assert at_a_time(configs(2, 5)) == 3
    assert at_a_time(configs(8, 5)) == 6
    assert at_a_time(configs(8, 5, number=3)) == 3
    assert alike(configs(2, 5) + configs(2, 10))
    assert not alike(configs(2, 5) + configs(8, 5))


@pytest.mark.usefixtures("cluster")
def test_runs_in_one_group_at_once_give_the_bits_of_each_alone(configure: Configure, tmp_path: Path) -> None:
    configs = {
        "disco": configure(),
        "broken": configure(name="broken", method={"name": "broken_method:Broken"}),
        "finetune": configure(name="finetune", method={"name": "finetune"}, train={"lr": 1e-3}),
    }
    planned = {
        name: Planned(config, open_run(tmp_path / name, config, resume=False, overwrite=False), open_experiment(config))
        for name, config in configs.items()
    }
    at_once: set[frozenset[str]] = set()
    phases: dict[str, str] = {}
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}

    def seen(name: str, status: Any) -> None:
        phases[name] = status.phase
        at_once.add(frozenset(name for name, phase in dict(phases).items() if phase in ("training", "evaluating")))

    def ended(name: str, end: "Future[dict[str, Any]]") -> None:
        phases.pop(name, None)
        try:
            results[name] = end.result()
        except RunFailed as error:
            failed[name] = str(error)

    launch_together(planned, tmp_path / "logs", lambda name, once: once(), on_status=seen, on_end=ended)
    assert any(len(names) > 1 for names in at_once)
    assert len([*(tmp_path / "logs").glob("crew-*")]) == 1  # Ray Train keeps a folder a group
    assert list(failed) == ["broken"]
    log = planned["broken"].folder.log_file
    assert failed["broken"].endswith(f"; the traceback is in {log}")
    assert "ZeroDivisionError" in log.read_text()
    assert "ZeroDivisionError" not in planned["disco"].folder.log_file.read_text()
    for name in ("disco", "finetune"):
        alone = run(configs[name], tmp_path / "alone" / name)
        assert results[name]["adapters_sha256"] == alone["adapters_sha256"]
        assert results[name]["matrix"] == alone["matrix"]
