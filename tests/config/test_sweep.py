"""Sweep files: what is crossed, varied and drawn, and what a user is told who asks for what there is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from fcit_ray.config.space import Space
from fcit_ray.config.trials import Study, load_sweep
from fcit_ray.errors import ConfigError

BASE: dict[str, Any] = {"config": ["miniature"], "methods": ["finetune", "ewc"]}


def loaded(tmp_path: Path, **keys: Any) -> list[Study]:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(BASE | keys))
    return load_sweep(file, [f"benchmark.root={ROOT}"])[1]


def refused(tmp_path: Path, **keys: Any) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, **keys)
    return str(error.value)


def folders(studies: list[Study]) -> list[str]:
    return [trial.folder for study in studies for trial in study.trials()]


def test_settings_and_the_benchmark_s_grid_have_a_folder_and_a_table_each(tmp_path: Path) -> None:
    settings = {"one": [], "two": ["miniature_task_heterogeneous"]}
    grid = {"benchmark.beta": [0.5, 5]}
    studies = loaded(tmp_path, methods=["finetune"], settings=settings, seeds=[0, 1], grid=grid)
    assert folders(studies) == [
        f"{setting}_beta={beta}/finetune-seed{seed}"
        for setting in ("one", "two")
        for beta in (0.5, 5)
        for seed in (0, 1)
    ]
    hetero = studies[-1].trial({}).config
    assert (hetero.name, hetero.benchmark.beta, hetero.seed) == ("Finetune", 5.0, 1)
    assert hetero.benchmark.schedule != "homogeneous"


def test_a_grid_crosses_rules_by_section_and_keys_by_value(tmp_path: Path) -> None:
    local = [{"name": "plain"}, {"name": "fedprox", "mu": 0.1}]
    studies = loaded(tmp_path, methods=["finetune"], grid={"local": local, "train.lr": [1e-3, 2e-3]})
    assert len(studies) == 1  # what is compared: one method, one setting, one seed
    trials = list(studies[0].trials())
    assert [trial.config.name for trial in trials] == [
        "Finetune local=plain lr=0.001", "Finetune local=plain lr=0.002",
        "Finetune local=fedprox mu=0.1 lr=0.001", "Finetune local=fedprox mu=0.1 lr=0.002",
    ]  # fmt: skip
    assert [trial.config.local for trial in trials] == [local[0], local[0], local[1], local[1]]


def test_vary_changes_one_thing_at_a_time(tmp_path: Path) -> None:
    studies = loaded(tmp_path, methods=["ewc"], vary={"train.lr": [1e-3], "method.strength": [1.0, 2.0]})
    points = [trial.point for trial in studies[0].trials()]
    assert points == [{}, {"train.lr": 1e-3}, {"method.strength": 1.0}, {"method.strength": 2.0}]


def search(**keys: Any) -> dict[str, Any]:
    return {"search": {"trials": 4, "space": {"train.lr": {"loguniform": [1e-4, 1e-2]}}, **keys}, "seeds": [100]}


def test_every_method_has_as_many_trials_and_its_own_keys(tmp_path: Path) -> None:
    own = {"ewc": {"method.strength": {"choice": [10.0, 100.0]}}}
    finetune, ewc = loaded(tmp_path, **search(own=own, defaults_first=False))
    assert finetune.num_trials == ewc.num_trials == 4
    assert {key for trial in finetune.trials() for key in trial.point or {}} == {"train.lr"}
    for trial in ewc.trials():
        assert trial.point is not None
        assert trial.point["method.strength"] in (10.0, 100.0)
        assert 1e-4 <= trial.point["train.lr"] <= 1e-2
        assert trial.config.method["strength"] == trial.point["method.strength"]
        assert trial.config.train.lr == float(f"{trial.config.train.lr:.3g}")


def test_more_trials_keep_the_ones_there_were(tmp_path: Path) -> None:
    few, many = (loaded(tmp_path, **search(trials=count)) for count in (3, 9))
    assert folders(many)[:3] == folders(few)[:3]
    other = loaded(tmp_path, **search(seed=1))
    assert folders(other)[1:3] != folders(few)[1:3]


def test_the_first_trial_takes_what_the_configuration_has(tmp_path: Path) -> None:
    own = {"ewc": {"method.strength": {"loguniform": [1.0, 10.0]}}}
    finetune, ewc = loaded(tmp_path, **search(own=own))
    assert finetune.point(0) == {"train.lr": 5e-4}  # of `tuned` in configs/miniature.yaml
    assert ewc.point(0) == {"train.lr": 2e-3, "method.strength": 5000.0}


def test_no_point_is_tried_twice_and_a_space_may_be_used_up(tmp_path: Path) -> None:
    space = {"train.lr": {"choice": [1e-3, 2e-3, 3e-3]}}
    studies = loaded(tmp_path, methods=["finetune"], **search(trials=3, space=space, defaults_first=False))
    assert sorted(trial.config.train.lr for trial in studies[0].trials()) == [1e-3, 2e-3, 3e-3]
    said = refused(tmp_path, methods=["finetune"], **search(trials=4, space=space, defaults_first=False))
    assert "search.trials: 4 asked for, but the space has not many more than 3 points" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (search(space={"train.lrr": {"choice": [1]}}), "train.lrr: unknown key; did you mean train.lr"),
        (search(own={"ewc": {"method.strenght": {"choice": [1]}}}), "method.strenght: the configuration has no such"),
        (search(space={}), "nothing to draw for finetune; give search.space, or search.own.finetune"),
        (search(space={"train.lr": {"choice": []}}), "search.space.train.lr.choice"),
        (search(space={"train.lr": {}}), "expected one of uniform, loguniform, randint, choice"),
        (search(space={"train.lr": {"uniform": [0, 1], "choice": [1]}}), "expected one of uniform, loguniform"),
        (search(space={"train.lr": {"loguniform": [0, 1]}}), "expected numbers above 0"),
        (search(space={"train.lr": {"uniform": [2, 1]}}), "expected two numbers, the lower one first"),
        # the end of the space that no draw may happen to reach is refused before anything starts
        (search(space={"model.dropout": {"uniform": [0.0, 1.5]}}), "model.dropout"),
        (search(own={"disco": {"train.lr": {"choice": [1]}}}), "search.own.disco: none of this sweep's methods"),
        (search() | {"seeds": [0, 1]}, "each point that is drawn is judged by one run; expected one seed"),
        (search() | {"grid": {"train.lr": [1.0]}}, "train.lr: stands in grid and in search"),
        (search() | {"vary": {"model.rank": [8]}}, "draws values where vary tries them one at a time"),
        ({"grid": {"train.lr": []}}, "train.lr: no values, so there would be no trials"),
        ({"stop_early": {}, "overrides": ["evaluation.every_stage=false"]}, "evaluation.every_stage is false"),
        ({"stop_early": {"reduction_factor": 1}}, "stop_early.reduction_factor"),
        ({"methods": ["finetune", "finetune"]}, "two trials would share a run folder"),
    ],
)  # fmt: skip
def test_what_a_search_is_refused_for(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    assert said in refused(tmp_path, **keys)


def test_numbers_are_drawn_between_their_ends_and_integers_below_the_second() -> None:
    import random

    source = random.Random(0)
    drawn = [Space(randint=(2, 5)).draw(source) for _ in range(100)]
    assert set(drawn) == {2, 3, 4}
    narrow = Space(uniform=(0.99961, 0.99969))  # three digits would leave it
    assert all(0.99961 <= narrow.draw(source) <= 0.99969 for _ in range(20))
