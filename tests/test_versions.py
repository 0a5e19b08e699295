"""What `make` installs lies within the ranges of pyproject.toml, fits other machines, and agrees with the cluster."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
NAMED = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
OF_THE_SITE = [Requirement(line) for line in PROJECT["optional-dependencies"]["docs"]]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(pin.name): pin for pin in PINS}


def version(pin: Requirement) -> str:
    (only,) = pin.specifier
    assert only.operator == "==", f"{pin}: a constraint names one version"
    return only.version


@pytest.mark.parametrize("named", [*NAMED, *OF_THE_SITE], ids=lambda named: named.name)
def test_every_dependency_is_pinned_within_its_range(named):
    assert version(PINNED[canonicalize_name(named.name)]) in named.specifier


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.name)
def test_no_pin_shuts_out_another_machine(pin):
    assert "+" not in version(pin), "a local build, such as one of torch for the CPU, is not on every index"
    assert not re.match(r"nvidia-|cuda-|triton", pin.name), "torch pins what its own build needs"
    assert pin.marker is None


@pytest.mark.parametrize("named", NAMED, ids=lambda named: named.name)
def test_every_dependency_has_a_lower_end_to_test(named):
    # `make test-lowest` installs it; types-PyYAML only informs mypy, which it does not run.
    assert named.name == "types-PyYAML" or [part for part in named.specifier if part.operator == ">="]


def test_the_cluster_installs_the_ray_that_the_project_asks_for():
    ray = next(named for named in NAMED if named.name == "ray")
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"]
    (asked,) = [Requirement(found) for line in commands for found in re.findall(r'"(ray\[[^"]*)"', line)]
    assert asked.specifier == ray.specifier


def test_the_cluster_carries_what_the_package_is_installed_from():
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    carried = {there: here for there, here in cluster["file_mounts"].items() if there.startswith("~/fcit_ray/")}
    assert all((ROOT / here).exists() and there == f"~/fcit_ray/{here}" for there, here in carried.items())
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PROJECT["readme"], *wheel["packages"], *wheel["force-include"]}
    assert needed == set(carried.values())
    assert "pip install ~/fcit_ray" in cluster["setup_commands"]
