"""`fcit-ray doctor`: what each fault is told as, of planted facts; on a healthy cluster nothing fails."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcit_ray.cli import app as cli
from fcit_ray.config.schema import Config
from fcit_ray.errors import RunFailed
from fcit_ray.runtime.checkup.asking import Places
from fcit_ray.runtime.checkup.doctor import judge, needs_of, places_of, unwritable
from fcit_ray.runtime.checkup.facts import Cluster, Disk, Finding, Gpu, Look, Needs, Node, Port
from fcit_ray.runtime.checkup.looking import Looker, gpus, memory, open_ports, readable, sources_digest

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cu128", "transformers": "5.24.0", "peft": "0.21.2",
            "fcit_ray": "0.1.0"}  # fmt: skip
H100 = Gpu("NVIDIA H100", 80e9, 1e9)
LOOK = Look(
    versions=VERSIONS, sources="ab" * 32, commit="c" * 40, gpus=(H100,), memory=200e9, memory_free=180e9,
    shm=Disk("/dev/shm", 100e9, 100e9), session=Disk("/tmp/ray/s", 500e9, 400e9), token=True, java=True, flash=True,
)  # fmt: skip
HEAD = Node(name="10.0.0.1 (a)", here=True, cpus=8, gpus=1, object_store=50e9, look=LOOK, listing={"data": "x"})
OTHER = replace(HEAD, name="10.0.0.2 (b)", here=False)
NEEDS = Needs(workers=2, cpus=1.0, gpu=True, shape="2 of 1 CPUs and a GPU", bytes=40e9, cache=2e9)
WANTED = Places({"data": "/data", "model": "/models/m"}, "/shared/runs")
CLUSTER = Cluster(address="10.0.0.1:6379", own=False, nodes=(HEAD, OTHER), open=False)


def with_other(look: Mapping[str, Any] | None = None, **changes: Any) -> Cluster:
    """The cluster, with something different about its second node."""
    return replace(CLUSTER, nodes=(HEAD, replace(OTHER, look=replace(LOOK, **(look or {})), **changes)))


def without_ok(cluster: Cluster, needs: Needs | None = NEEDS) -> list[Finding]:
    return [finding for finding in judge(cluster, needs, WANTED) if finding.level != "ok"]


def test_on_a_healthy_cluster_every_check_says_that_all_is_well() -> None:
    found = judge(CLUSTER, NEEDS, WANTED)
    assert {finding.level for finding in found} == {"ok"}
    assert [finding.check for finding in found] == [
        "nodes", "versions", "workers", "GPUs", "memory", "object store", "data", "model", "run folder", "disk",
        "clock", "token", "ports", "Java", "flash-attn",
    ]  # fmt: skip
    assert "a worker needs 40 GB, has 80 GB" in found[3].text


FAULTS: dict[str, tuple[Cluster, Needs, str, str, str]] = {
    "a node that does not answer": (
        replace(CLUSTER, silent={"10.0.0.3 (c)": "ModuleNotFoundError: No module named 'fcit_ray'"}), NEEDS,
        "fail nodes", "10.0.0.3 (c) does not answer: ModuleNotFoundError", "the same Python environment",
    ),
    "nobody answers": (replace(CLUSTER, nodes=()), NEEDS, "fail nodes", "no node answered", "ray start"),
    "another transformers": (
        with_other({"versions": {**VERSIONS, "transformers": "5.20.0"}}), NEEDS,
        "fail versions", "transformers differs: 5.24.0 on 10.0.0.1 (a); 5.20.0 on 10.0.0.2 (b)", "install one version",
    ),
    "a torch of another build": (
        with_other({"versions": {**VERSIONS, "torch": "2.13.0+cu126"}}), NEEDS,
        "warn versions", "torch is built differently: 2.13.0+cu128 on 10.0.0.1 (a)", "same bits",
    ),
    "other files under the same version": (
        with_other({"sources": "cd" * 32}), NEEDS,
        "fail versions", "the files of fcit_ray differ: cccccccccccc, files abababab on 10.0.0.1 (a)", "same commit",
    ),
    "no room": (
        CLUSTER, replace(NEEDS, refusal="runtime.num_workers: 9 workers of 1 CPUs find no room: x"),
        "fail workers", "runtime.num_workers: 9 workers of 1 CPUs find no room", "",
    ),
    "GPUs that Ray believes in": (
        with_other({"gpus": ()}), NEEDS, "fail GPUs", "Ray hands out 1 GPUs, the driver knows 0", "nvidia-smi",
    ),
    "GPUs that Ray does not use": (
        with_other({"gpus": (H100, H100)}), NEEDS, "warn GPUs", "2 GPUs, of which Ray hands out 1", "--num-gpus",
    ),
    "a torch without GPUs": (
        replace(CLUSTER, nodes=[replace(n, look=replace(LOOK, versions={**VERSIONS, "torch": "2.13.0+cpu"}))
                                for n in CLUSTER.nodes]),
        NEEDS, "fail GPUs", "torch 2.13.0+cpu computes on no GPU", "pytorch.org",
    ),
    "a GPU too small": (
        with_other({"gpus": (Gpu("NVIDIA L4", 24e9, 0.0),)}), NEEDS,
        "fail GPUs", "10.0.0.2 (b): a worker needs 40 GB, NVIDIA L4 is 24 GB", "--plan --gpu-memory-gb 24",
    ),
    "a share of a GPU too small": (
        with_other({"gpus": (replace(H100, memory=100e9),)}), replace(NEEDS, share=0.45),
        "fail GPUs", "10.0.0.1 (a): a worker needs 40 GB, 0.45 of NVIDIA H100 is 36 GB", "--plan --gpu-memory-gb 36",
    ),
    "a GPU that somebody uses": (
        with_other({"gpus": (replace(H100, used=50e9),)}), NEEDS,
        "warn GPUs", "of NVIDIA H100's 80 GB somebody holds 50 GB", "nvidia-smi",
    ),
    "less memory than workers need": (
        CLUSTER, replace(NEEDS, gpu=False, bytes=150e9),
        "fail memory", "10.0.0.1 (a): 2 worker(s) of 150 GB may be placed there, which has 200 GB", "num_workers",
    ),
    "less memory free than workers need": (
        with_other({"memory_free": 70e9}), replace(NEEDS, gpu=False),
        "warn memory", "2 worker(s) of 40 GB may be placed there, which has 70 GB free", "end other programs",
    ),
    "what could not be planned": (
        CLUSTER, replace(NEEDS, bytes=0.0, unknown="no such model"), "warn memory", "not planned: no such model", "",
    ),
    "a small object store": (
        with_other(object_store=1.5e9), NEEDS,
        "warn object store", "1.5 GB, runtime.cache_mb takes 2 GB", "runtime.cache_mb=715, or `ray start",
    ),
    "a small /dev/shm": (
        with_other({"shm": Disk("/dev/shm", 64e6, 64e6)}), NEEDS,
        "warn object store", "/dev/shm has 64 MB, the object store wants 50 GB", "--shm-size=55g",
    ),
    "no /dev/shm": (with_other({"shm": None}), NEEDS, "warn object store", "there is no /dev/shm", "--shm-size"),
    "no data": (
        with_other(places={"data": "is not there"}), NEEDS,
        "fail data", "10.0.0.2 (b): /data: is not there", "mount it there at the same path",
    ),
    "no data anywhere": (
        replace(CLUSTER, nodes=[replace(n, places={"data": "is not there"}) for n in CLUSTER.nodes]), NEEDS,
        "fail data", "10.0.0.1 (a), 10.0.0.2 (b): /data: is not there", "mount it",
    ),
    "other data": (
        with_other(listing={"data": "y"}), NEEDS, "fail data", "/data holds other files on some of", "copy it anew",
    ),
    "no model": (
        with_other(places={"model": "model.path='/models/m': no config.json in this folder"}), NEEDS,
        "fail model", "10.0.0.2 (b): /models/m: no config.json in this folder", "at the same path on every node",
    ),
    "a run folder of each node's own": (
        with_other(places={"run": "does not show what another node has written there"}), NEEDS,
        "fail run folder", "10.0.0.2 (b): /shared/runs: does not show", "storage that all nodes share",
    ),
    "a run folder that nobody can write": (
        replace(CLUSTER, nodes=[replace(n, places={"run": "lies on a file system that is read-only"})
                                for n in CLUSTER.nodes]),
        NEEDS, "fail run folder", "/shared/runs: lies on a file system that is read-only", "--out",
    ),
    "a disk nearly full": (
        with_other({"session": Disk("/tmp/ray/s", 500e9, 20e9)}), NEEDS,
        "warn disk", "10.0.0.2 (b): Ray's folder /tmp/ray/s: 20 GB of 500 GB free", "RAY_TMPDIR",
    ),
    "a disk full": (
        replace(CLUSTER, disks={"run folder": Disk("/shared/runs", 500e9, 5e6)}), NEEDS,
        "fail disk", "run folder /shared/runs: 5 MB of 500 GB free", "make room",
    ),
    "a clock two seconds ahead": (
        with_other(clock=2.0, clock_bound=0.25), NEEDS, "warn clock", "is 2.0 s ahead (±0.250)", "chrony",
    ),
    "a clock ten minutes behind": (with_other(clock=-600.0), NEEDS, "fail clock", "is 600.0 s behind", "chrony"),
    "an open cluster": (
        replace(CLUSTER, open=True), NEEDS, "warn token", "10.0.0.1:6379 lets in whoever reaches it", "AUTH_MODE=token",
    ),
    "a cluster that cannot be tried": (
        replace(with_other({"token": False}), open=None), NEEDS, "warn token", "not known whether", "AUTH_MODE=token",
    ),
    "open ports": (
        replace(with_other({"ports": (Port("0.0.0.0", 6379, "gcs_server"), Port("::", 8076, "raylet"))}), open=True),
        NEEDS, "warn ports", "10.0.0.2 (b) listens for other machines: gcs_server 6379, raylet 8076", "firewall",
    ),
    "somebody else's processes": (
        with_other({"hidden": 2}), NEEDS, "warn ports", "could be looked into on 10.0.0.2 (b)", "as the user",
    ),
    "no Java": (
        replace(CLUSTER, nodes=(replace(HEAD, look=replace(LOOK, java=False)), OTHER)), replace(NEEDS, java=True),
        "fail Java", "10.0.0.1 (a): none, and captions are scored in full", "evaluation.captions=portable",
    ),
    "no flash-attn where it is asked for": (
        with_other({"flash": False}), replace(NEEDS, flash=True), "fail flash-attn", "not on 10.0.0.2 (b)", "auto",
    ),
    "flash-attn on some": (with_other({"flash": False}), NEEDS, "warn flash-attn", "not on 10.0.0.2", "bits differ"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_it_and_says_what_to_do(fault: str) -> None:
    cluster, needs, what, text, remedy = FAULTS[fault]
    bad = without_ok(cluster, needs)
    matching = [finding for finding in bad if f"{finding.level} {finding.check}" == what and text in finding.text]
    assert len(matching) == 1, bad
    assert remedy in matching[0].remedy
    assert {f"{finding.level} {finding.check}" for finding in bad} <= {what, "warn token"}  # and nothing beside it


def test_bits_of_a_clock_within_its_bound_are_no_fault() -> None:
    assert without_ok(with_other(clock=1.2, clock_bound=0.4)) == []


def test_ports_behind_a_token_are_told_and_are_no_fault() -> None:
    guarded = with_other({"ports": (Port("::", 8076, "raylet"),)})
    assert without_ok(guarded) == []
    (told,) = [finding for finding in judge(guarded, NEEDS, WANTED) if finding.check == "ports"]
    assert "behind the token: raylet 8076" in told.text


def test_without_a_run_only_the_cluster_is_looked_at() -> None:
    found = judge(CLUSTER, None, Places({}))
    assert {finding.level for finding in found} == {"ok"}
    assert not {"workers", "data", "model", "run folder"} & {finding.check for finding in found}


# Looking.


def test_a_container_counts_as_large_as_its_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert memory(tmp_path) == (1e6, 6e5)
    (tmp_path / "memory.max").write_text("max\n")
    total, free = memory(tmp_path)
    assert total > free > 1e6


def test_gpus_are_those_that_the_driver_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA A100, 40960, 1024'\necho 'NVIDIA GB10, [N/A], [N/A]'\n")
    smi.chmod(0o755)
    assert gpus() == [Gpu("NVIDIA A100", 40 * 2.0**30, 2.0**30), Gpu("NVIDIA GB10", 0.0, 0.0)]
    smi.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert gpus() == []


def test_nodes_whose_copies_of_the_data_differ_have_other_digests(tmp_path: Path) -> None:
    reasons = []
    for name, content in (("a", "1"), ("b", "1"), ("c", "22")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text(content)
        reasons.append(readable(str(tmp_path / name)))
    assert reasons[0] == reasons[1]
    assert reasons[0][1] != reasons[2][1]
    assert readable(str(tmp_path / "none"))[0]
    assert readable(str(tmp_path / "a/x.json"))[0]


def test_an_edited_copy_of_the_package_shows(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    before = sources_digest(tmp_path)
    (tmp_path / "__init__.py").write_text("# edited\n")
    edited = sources_digest(tmp_path)
    (tmp_path / "__init__.py").rename(tmp_path / "other.py")
    assert len({before, edited, sources_digest(tmp_path), sources_digest()}) == 4


@pytest.mark.parametrize("place", [str, Path.as_uri])
def test_a_file_of_another_node_is_waited_for_and_then_missed(tmp_path: Path, place: Callable[[Path], str]) -> None:
    looker, folder = Looker(), place(tmp_path)
    assert looker.write(folder, ".probe", "mark") == ""
    assert looker.read(folder, ".probe", "mark", 0.0) == ""
    assert "another node" in looker.read(folder, ".probe", "other", 0.0)
    looker.remove(folder, ".probe")
    assert list(tmp_path.iterdir()) == []
    assert looker.write(str(tmp_path / "none"), ".probe", "mark") == "is not there"
    assert not (tmp_path / "none").exists()  # what only this node would see is not made


def test_a_session_that_runs_nothing_listens_nowhere() -> None:
    assert open_ports("session_of_nobody_2026") == ([], 0)


def test_a_run_is_tried_out_in_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert places_of(None, str(tmp_path / "runs/first")).write == str(tmp_path)
    assert places_of(None, "s3://bucket/runs").write == "s3://bucket/runs"
    assert unwritable(str(tmp_path / "cache")) == ""
    assert unwritable("/proc/nothing")


def test_what_a_run_needs_is_read_from_its_configuration() -> None:
    benchmark = {"root": "s3://b/fcit", "tasks": ["IconQA"]}
    config = Config.model_validate(
        {"benchmark": benchmark, "model": {"path": "/m", "attention": "flash_attention_2"},
         "runtime": {"worker_groups": [{"num_workers": 2, "gpus_per_worker": 0.5}, {"num_workers": 1}],
                     "cpus_per_worker": 2, "gpu": True, "cache_mb": 10, "feature_cache": "/f"}}
    )  # fmt: skip
    assert needs_of(config, 5.0, True, "", "") == Needs(
        workers=3,
        cpus=2.0,
        gpu=True,
        share=0.5,
        shape="2 of 2 CPUs and 0.5 of a GPU, 1 of 2 CPUs and a GPU",
        bytes=5.0,
        cache=10 * 2**20,
        java=True,
        flash=True,
    )
    wanted = places_of(config, "")
    assert wanted.read == {"data": "s3://b/fcit", "model": "/m"}
    assert wanted.keep == {"features": "/f"}


# The command.


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """Run `fcit-ray doctor`; gives exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["fcit-ray", "doctor", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        said = capsys.readouterr()
        return exit.value.code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([Finding("ok", "nodes", "one")], 0),
        ([Finding("ok", "nodes", "one"), Finding("warn", "token", "open [red]", "shut it")], 0),
        ([Finding("fail", "data", "away", "bring it"), Finding("ok", "nodes", "one")], 2),
    ],
)
def test_only_what_fails_decides_the_exit_code(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, found: list[Finding], status: int
) -> None:
    monkeypatch.setattr("fcit_ray.runtime.checkup.doctor.examine", lambda *_, **__: (CLUSTER, found))
    code, out, _ = call()
    assert code == status
    for finding in found:
        for words in (finding.level, finding.check, finding.text, finding.remedy):
            assert words in out
    code, out, _ = call("--json")
    assert code == status
    told = json.loads(out)
    assert [Finding(**finding) for finding in told["findings"]] == found
    assert told["level"] == {0: found[-1].level, 2: "fail"}[status]
    assert told["cluster"]["nodes"][1]["name"] == "10.0.0.2 (b)"


def test_a_cluster_that_is_not_there_is_a_line_like_others(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise RunFailed("no Ray cluster answers")

    monkeypatch.setattr("fcit_ray.runtime.checkup.doctor.start_ray", away)
    code, out, _ = call("--address", "127.0.0.1:1", "--json")
    assert code == 2
    told = json.loads(out)
    assert (told["level"], told["cluster"]) == ("fail", None)
    assert told["findings"][0]["text"] == "no Ray cluster answers"
