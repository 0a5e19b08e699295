"""What `make` installs lies within the ranges of pyproject.toml, and fits other machines."""

import re
import tomllib

import pytest
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
