"""From a section to the dataclass it names: built-in, or a user's own from a file outside the package."""

import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from fcit_ray.config.schema import parse_config
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.components import AXES, build, check_names, make, part_class
from fcit_ray.federated.method import Method
from fcit_ray.methods.disco import Disco

OWN = """
from dataclasses import dataclass
from typing import Annotated
from pydantic import Field
from fcit_ray.federated.method import Method

@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    strength: Annotated[float, Field(ge=0)]
    steps: int = 3

    def __post_init__(self):
        if self.steps * self.strength > 100:
            raise ValueError("steps * strength exceeds 100")

class NotAMethod: ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_built_in_is_built_with_its_hyper_parameters():
    assert make("method", {"name": "disco", "num_subspaces": 4}) == Disco(num_subspaces=4)


def test_a_number_that_yaml_reads_as_text_is_a_number():
    # YAML 1.1 has no number 5e-2, only 5.0e-2; users write the former.
    assert make("method", {"name": "disco", "temperature": "5e-2"}) == Disco(temperature=0.05)


def test_a_users_own_class_travels_to_the_workers(own):
    method = make("method", {"name": f"{own}:Mine", "strength": 2})
    assert isinstance(method, Method)
    assert (method.strength, method.steps) == (2.0, 3)  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"method\.strength: missing"),
        ({"strength": -1}, r"method\.strength: expected at least 0 \(got -1\)"),
        ({"strength": 1, "stepz": 1}, r"method\.stepz: unknown key; .* takes: strength, steps"),
        ({"strength": 60, "steps": 2}, r"method: steps \* strength exceeds 100$"),
        ({"strength": True}, r"method\.strength: expected a finite number \(got True\)"),
        ({"strength": "inf", "steps": 0}, r"method\.strength: expected a finite number \(got 'inf'\)"),
    ],
)
def test_a_users_own_class_is_checked_like_a_built_in(own, values, message):
    with pytest.raises(ConfigError, match=message):
        make("method", {"name": f"{own}:Mine", **values})


def test_several_mistakes_are_told_together():
    with pytest.raises(ConfigError) as error:
        make("method", {"name": "disco", "threshold": 2, "temperature": 0})
    assert "method.threshold" in str(error.value)
    assert "method.temperature" in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, f"method.name: missing; one of {', '.join(AXES['method'].parts)}, or module:Class of your own"),
        (3, "method.name: missing"),
        (
            "discoo",
            f"method.name: unknown 'discoo'; one of {', '.join(AXES['method'].parts)}, or module:Class of your own",
        ),
        ("no.such.module:Mine", "cannot import 'no.such.module:Mine': No module named 'no'"),
        ("OWN:Yours", "has no attribute 'Yours'"),
        ("OWN:", "cannot import"),
        (":Mine", "cannot import"),
        (".sibling:Mine", "cannot import"),
        ("OWN:NotAMethod", "is not a dataclass derived from fcit_ray.federated.method.Method"),
        ("fcit_ray.federated.server_optim:FedAvg", "is not a dataclass derived from fcit_ray.federated.method.Method"),
        ("math:pi", "is not a dataclass derived from fcit_ray.federated.method.Method"),
    ],
)
def test_a_name_that_will_not_do_says_why(own, name, message):
    with pytest.raises(ConfigError) as error:
        make("method", {"name": name.replace("OWN", own) if isinstance(name, str) else name})
    assert message in str(error.value)


def test_a_users_class_that_does_not_say_what_its_hooks_say_is_told_what_to_write(own, tmp_path):
    file = tmp_path / f"{own}.py"
    file.write_text(OWN.replace("    steps: int = 3", "    steps: int = 3\n    def consolidate(self, *_): ..."))
    with pytest.raises(ConfigError, match=r"cannot import .*Mine overrides `consolidate`.*Trait\.KEEPS_MODELS\}\)"):
        make("method", {"name": f"{own}:Mine", "strength": 1})


@pytest.mark.parametrize("axis", AXES)
def test_every_place_of_the_registry_has_a_part_of_its_axis(axis):
    for name in AXES[axis].parts:
        assert type(make(axis, {"name": name})) is part_class(axis, name)


def test_names_are_known_without_torch():
    program = "import sys, fcit_ray.experiment.components as c; print(len(c.AXES), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]


def test_all_misspelled_names_are_told_at_once():
    sections = {"method": {"name": "discco"}, "lora": {"name": "own_rules:Mine"}, "server": {"name": "fedadm"}}
    with pytest.raises(ConfigError) as error:
        check_names(parse_config({"benchmark": {"tasks": ["ArxivQA"]}, **sections}))
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["method.name", "server.name"]


def test_the_whole_configuration_checks_the_users_class_too(own):
    values = {"benchmark": {"tasks": ["ArxivQA"]}, "method": {"name": f"{own}:Mine", "strength": "a lot"}}
    with pytest.raises(ConfigError, match=r"method\.strength: expected a number \(got 'a lot'\)"):
        make_algorithm(parse_config(values))


def test_truth_is_taken_where_truth_is_asked_for():
    @dataclass(frozen=True)
    class Component:
        flag: bool = False
        count: Annotated[int, Field(ge=0)] = 1
        names: tuple[str, ...] = field(default=())

    assert build("part", Component, {"name": "c", "flag": True, "names": ["x"]}) == Component(True, 1, ("x",))
    with pytest.raises(ConfigError, match=r"part\.count: expected a finite number \(got True\)"):
        build("part", Component, {"name": "c", "count": True})
