"""The plan of a sweep: trials counted by hand, hours added up, data that is not here taken as asked."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from fcit_ray.config.trials import load_sweep
from fcit_ray.planning.plan import assumed_experiment
from fcit_ray.planning.report import answering_hours, make_plan, training_hours
from fcit_ray.planning.speed import Device
from fcit_ray.planning.sweep import plan_sweep, refusals, sweep_plan_table

DEVICE = Device("GPU", 1e12, 1e11, 8e9, "made up")


def test_every_method_in_every_setting_is_planned_once_and_counted_with_its_seeds(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    described = {
        "config": ["miniature"], "methods": ["finetune", "disco"], "seeds": [0, 1, 2],
        "settings": {"one": [], "two": ["miniature_task_heterogeneous"]}, "max_concurrent": 3,
        "grid": {"train.lr": [1e-3, 2e-3]},
    }  # fmt: skip
    file.write_text(json.dumps(described))
    sweep, studies = load_sweep(file)
    items = list(plan_sweep(studies, DEVICE, 2, lambda config: (assumed_experiment(config, 400), None)))
    # two settings x two methods, each with three seeds and two rates
    assert [(item.group, item.label, item.trials) for item in items] == [
        ("one", "Finetune", 6), ("one", "DISCO", 6), ("two", "Finetune", 6), ("two", "DISCO", 6),
    ]  # fmt: skip
    config = studies[0].trial(studies[0].point(0)).config
    alone = make_plan(config, DEVICE, 2, assumed_experiment(config, 400), None)  # with a bank of its own
    assert items[0].hours == pytest.approx(training_hours(alone) + answering_hours(alone))
    assert items[0].hours > 0
    # ten clients share 400 records of a task, half of them train three rounds, for eight tasks and one stage each
    assert len(items[0].plan.run.rounds) == 8 * 3
    # 100 questions a task, asked again after every later stage: 100 * (1 + 2 + ... + 8)
    assert items[0].plan.tests == 3600
    assert refusals(items) == []
    console = Console(width=100)
    with console.capture() as shown:
        console.print(sweep_plan_table(items, sweep))
    assert "3 at a time" in shown.get()
    total = sum(item.hours * item.trials for item in items) / 3
    assert f"{total:.3g}" in shown.get()


def test_without_data_there_is_no_time(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps({"config": ["miniature"], "methods": ["finetune"]}))
    sweep, studies = load_sweep(file)
    [item] = plan_sweep(studies, DEVICE, 1, lambda config: (None, None))
    assert item.hours == 0
    console = Console(width=100)
    with console.capture() as shown:
        console.print(sweep_plan_table([item], sweep))
    assert shown.get().count("not known") == 3
