"""A run whose folder is in a store, on an S3 server: killed with its disk, gone on with from another machine's."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from conftest import Configure
from in_process import in_one_process
from s3_server import s3_server
from test_launch import KillOnce

from fcit_ray.cli.page import leave_report
from fcit_ray.config.schema import Config
from fcit_ray.config.trials import Trial, load_sweep
from fcit_ray.errors import RunFailed
from fcit_ray.results import lock
from fcit_ray.results.finding import find_runs
from fcit_ray.results.opening import open_run
from fcit_ray.results.out import Out
from fcit_ray.results.reading import open_results
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.driver_place import file_system_of
from fcit_ray.runtime.launch import launch
from fcit_ray.runtime.tune import run_sweep
from fcit_ray.serving.opening import open_trained
from fcit_ray.storage import mirror, working_copies

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server() as environment:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", environment["AWS_ACCESS_KEY_ID"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", environment["AWS_SECRET_ACCESS_KEY"])
        host = urlsplit(environment["AWS_ENDPOINT_URL"]).netloc
        yield f"s3://bucket/runs/x?endpoint_override={host}&scheme=http&region=us-east-1"
        lose_all()


def lose_all() -> None:
    """This process forgets what it knew of stores, and the disk its working copies, those of its actors too."""
    for held in list(lock._claims.values()):
        held._over.set()
    for key in list(lock._claims):
        lock.os.close(lock._held.pop(key))
    lock._claims.clear()
    for known in mirror._mirrors.values():
        for copy in known.path.parent.glob(f"{known.path.name.partition('-')[0]}-*"):
            shutil.rmtree(copy)
    mirror._mirrors.clear()


def carry_out(config: Config, uri: str, resume: bool = False, **options: Any) -> dict[str, Any]:
    folder = open_run(uri, config, resume=resume, overwrite=False)
    results = launch(config, folder, **options)
    assert folder.results() == results
    leave_report([folder.place], folder.path)
    assert not folder.bring_beside()
    return results


def test_killed_with_its_disk_a_run_goes_on_from_the_store_with_the_bits_of_one_process(
    configure: Configure, uri: str
) -> None:
    config = configure(
        train={"lr": 5e-3, "epochs": 8}, runtime={"driver": "anywhere", "keep_checkpoints": 2, "num_workers": 1}
    )
    kill = KillOnce("RayDriver")
    with pytest.raises(RunFailed, match=r"the driver.* died .*; --resume goes on"):
        carry_out(config, uri, on_status=kill)
    assert kill.killed is not None
    lose_all()
    seen = RunFolder.at(uri)
    done = len([record for record in seen.records() if record["kind"] == "round"])
    assert 0 < done < 4
    results = carry_out(config, uri, resume=True)
    assert results["adapters_sha256"] == in_one_process(config)
    lose_all()
    results_read = open_results(uri)
    rounds = [record for record in results_read.metrics if record["kind"] == "round"]
    assert [(record["stage"], record["round"]) for record in rounds] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert rounds[-1]["seconds"]["store"] > 0
    assert len(RunFolder.at(uri).environment()["sessions"]) == 2
    names = set(mirror.mirror_of(uri).list())
    assert {"report.html", "accuracy_matrix.png", "curves.png", "partition.json", "logs/ray.log"} <= names
    assert not {name for name in names if name.startswith((".locks", "under_way"))}
    assert open_trained(uri).state.stage == 2
    above = uri.replace("/runs/x", "/runs")
    assert [folder.finished for folder in find_runs([above]).finished] == [True]


def test_a_sweep_interrupted_with_its_disk_goes_on_from_the_store_with_the_same_bits(
    configure: Configure, uri: str, tmp_path: Path
) -> None:
    base = configure(benchmark={"tasks": ["ArxivQA"], "num_rounds": 1}, runtime={"num_workers": 1})
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base.model_dump(mode="json")))
    (tmp_path / "finetune.yaml").write_text("name: Finetune\nmethod: {name: finetune}\n")
    (tmp_path / "sweep.yaml").write_text(
        f"config: [{tmp_path}/base.yaml]\nmethods: [{tmp_path}/finetune.yaml]\nseeds: [0, 1]\nmax_concurrent: 1\n"
    )
    sweep, studies = load_sweep(tmp_path / "sweep.yaml")

    def interrupt(trial: Trial, results: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, studies, Out(uri), on_result=interrupt)
    first = Out(uri).run("finetune-seed0").environment()["sessions"]
    lose_all()
    ended = run_sweep(sweep, studies, Out(uri), on_result=lambda trial, results: None)
    assert not ended.failed
    assert [results["adapters_sha256"] for _, results in ended.finished] == [
        in_one_process(study.trial({}).config) for study in studies
    ]
    lose_all()
    assert Out(uri).run("finetune-seed0").environment()["sessions"][: len(first)] == first
    names = set(mirror.mirror_of(uri).list())
    assert {"finetune-seed0/results.json", "finetune-seed1/logs/ray.log"} <= names
    assert not {name for name in names if ".locks" in name}


def test_what_is_told_names_the_store_and_no_working_copy(uri: str) -> None:
    folder = RunFolder.at(uri)
    assert working_copies.told(f"{folder.path}/metrics.jsonl: bad") == f"{uri}/metrics.jsonl: bad"
    driver = folder.path.with_name(f"{folder.path.name.partition('-')[0]}-123-0")
    assert working_copies.told(f"the file ({driver}/a) is bad") == f"the file ({uri}/a) is bad"


def test_the_kind_of_a_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nfiler:/x /shared nfs4 rw 0 0\nfiler:/y /with\\040space nfs rw 0 0\n"
        "/dev/sdb /shared/scratch xfs rw 0 0\n"
    )
    for path, kind in {
        "/shared/runs/a": "nfs4", "/shared": "nfs4", "/sharedby/a": "ext4", "/shared/scratch/a": "xfs",
        "/with space/a": "nfs",
    }.items():  # fmt: skip
        assert file_system_of(Path(path), mounts)[0] == kind, path
