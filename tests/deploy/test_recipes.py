"""The recipes of every start agree with the project: versions, files, commands; what cannot be run here is read."""

import re
import shlex
import sys
import tomllib
from typing import Any

import pytest
import yaml
from repository import ROOT

CLUSTERS = ("cluster.yaml", "deploy/cluster-gcp.yaml", "deploy/cluster-onprem.yaml")
FILES = [ROOT / "cluster.yaml", *(file for file in sorted((ROOT / "deploy").iterdir()) if file.is_file())]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
[RAY] = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def cluster(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return values


def rayjob() -> dict[str, Any]:
    [job] = [each for each in yaml.safe_load_all((ROOT / "deploy/rayjob.yaml").read_text()) if each["kind"] == "RayJob"]
    found: dict[str, Any] = job
    return found


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_carries_what_the_package_is_installed_from_and_the_token(name: str) -> None:
    mounts = cluster(name)["file_mounts"]
    carried = {there: here for there, here in mounts.items() if there.startswith("~/fcit_ray/")}
    assert all((ROOT / here).exists() and there == f"~/fcit_ray/{here}" for there, here in carried.items())
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PYPROJECT["project"]["readme"], *wheel["packages"], *wheel["force-include"]}
    assert needed | {"constraints.txt"} == set(carried.values())
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_installs_what_was_tested_on_every_node_and_hides_no_failure(name: str) -> None:
    values = cluster(name)
    install = values["setup_commands"]  # of head and workers; in these all are the same
    assert any(
        "--constraint ~/fcit_ray/constraints.txt --build-constraint ~/fcit_ray/constraints.txt" in line
        and '"$HOME/fcit_ray[jobs]"' in line
        for line in install
    )
    assert "jobs" in PYPROJECT["project"]["optional-dependencies"]
    assert not [line for line in install if re.search(r"\|\|\s*true|;\s*true", line)]
    assert "/shared" in " ".join(install)
    for start in ("head_start_ray_commands", "worker_start_ray_commands"):
        [begin] = [line for line in values[start] if "ray start" in line]
        assert begin.startswith("RAY_AUTH_MODE=token ")
    assert "--dashboard-host=127.0.0.1" in " ".join(values["head_start_ray_commands"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_s_own_checks_take_a_cluster_and_not_a_broken_one(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster(name)))
    with pytest.raises(Exception, match="rsync_excluded"):
        validate_config(prepare_config({**cluster(name), "rsync_excluded": []}))


def test_the_kubernetes_job_has_the_ray_of_the_constraints_and_as_many_workers_as_pods() -> None:
    spec = rayjob()["spec"]
    inside = spec["rayClusterSpec"]
    assert inside["rayVersion"] == RAY
    assert inside["authOptions"] == {"mode": "token"}
    pods = [inside["headGroupSpec"]["template"]["spec"], inside["workerGroupSpecs"][0]["template"]["spec"]]
    version = re.findall(r'"(.*)"', (ROOT / "fcit_ray/version.py").read_text())[-1]
    for pod in pods:
        [container] = pod["containers"]
        assert container["image"].endswith(f":{version}")
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    words = shlex.split(spec["entrypoint"])
    assert f"runtime.num_workers={inside['workerGroupSpecs'][0]['replicas']}" in words


def commands() -> list[list[str]]:
    """Of fcit-ray, as the recipes show or run them."""
    found = [shlex.split(rayjob()["spec"]["entrypoint"])]
    for file in (ROOT / "deploy/slurm.sh", ROOT / "docs/how-to/cluster.md"):
        for line in re.findall(r"^(?:#\s+)?(sbatch .*)$", file.read_text(), re.MULTILINE):
            _, nodes, script, *words = shlex.split(line)
            assert (nodes, script) == ("--nodes=4", "deploy/slurm.sh")
            found.append(["fcit-ray", *words])
    assert len(found) == 3
    return found


@pytest.mark.parametrize("words", commands(), ids=shlex.join)
def test_a_command_of_a_recipe_is_one(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import functools

    from fcit_ray.cli import app
    from fcit_ray.experiment.loading import load_config

    taken: list[dict[str, Any]] = []
    [info] = [each for each in app.app.registered_commands if each.callback and each.callback.__name__ == words[1]]
    real = info.callback
    assert real is not None
    monkeypatch.setattr(info, "callback", functools.wraps(real)(lambda **values: taken.append(values)))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert not ended.value.code
    [values] = taken
    assert str(values["out"]).startswith("/shared/")
    assert values["resume"]
    given = values["config"]
    config = load_config(
        *[word for word in given if "=" not in word], overrides=[word for word in given if "=" in word]
    )
    assert config.benchmark.root.startswith("/shared/")


def test_the_image_is_built_from_files_that_there_are_and_that_are_let_in() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {"pyproject.toml", PYPROJECT["project"]["readme"], *wheel["packages"], *wheel["force-include"]} <= copied
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["1000"]
    extras = re.findall(r"'\.\[(.*)\]'", text)[0].split(",")
    assert set(extras) <= PYPROJECT["project"]["optional-dependencies"].keys()


def test_no_recipe_holds_a_token_or_a_key() -> None:
    for file in FILES:
        assert not re.findall(r"AKIA\w{16}|[0-9a-f]{64}|BEGIN [A-Z ]*PRIVATE KEY", file.read_text()), file
