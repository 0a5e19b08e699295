"""What a search chose, and what is said of it: by hand on made-up trials."""

import json
from pathlib import Path

import pytest
import yaml
from repository import ROOT

from fcit_ray.config.reading import load_config
from fcit_ray.config.shipped import find_config
from fcit_ray.config.space import Space
from fcit_ray.config.trials import Study, load_sweep
from fcit_ray.results.sweeps import Ended, Stopped, by_group, choices, choices_markdown, tuned_files

SPACE = {"train.lr": {"loguniform": [1e-4, 1e-2]}, "model.rank": {"choice": [16, 32, 64]}}


def studies(folder: Path, **keys: object) -> list[Study]:
    file = folder / "sweep.yaml"
    search = {"trials": 4, "space": SPACE}
    file.write_text(json.dumps({"config": ["miniature"], "methods": ["finetune", "ewc"], "search": search, **keys}))
    return load_sweep(file, [f"benchmark.root={ROOT}"])[1]


def ended(all_studies: list[Study]) -> Ended:
    """Finetune: two finished (the better second), one stopped, one failed; EWC: nothing finished."""
    finetune, ewc = (study for study in all_studies if study.group == all_studies[0].group)
    points = [{"train.lr": lr, "model.rank": rank} for lr, rank in ((1e-3, 32), (9.9e-3, 32), (2e-3, 16), (3e-3, 64))]
    trials = [finetune.trial(point) for point in points]
    return Ended(
        finished=[(trials[0], {"last": 40.0}), (trials[1], {"last": 45.5})],
        stopped=[(trials[2], Stopped(1, 20.0)), (ewc.trial(points[0]), Stopped(1, 1.0))],
        failed=[(trials[3], "out of memory")],
    )


def test_the_highest_last_is_chosen_among_what_finished_and_an_edge_is_said(tmp_path: Path) -> None:
    all_studies = studies(tmp_path)
    finetune, ewc = choices(all_studies, ended(all_studies))
    assert finetune.point == {"train.lr": 9.9e-3, "model.rank": 32}
    assert (finetune.last, finetune.num_finished, finetune.num_stopped, finetune.num_failed) == (45.5, 2, 1, 1)
    # 9.9e-3 lies within 5 % of the two orders of magnitude below 1e-2; 32 is the middle one of three.
    assert finetune.edges == ("train.lr",)
    assert (ewc.point, ewc.num_finished, ewc.num_stopped) == (None, 0, 1)
    table = choices_markdown([finetune, ewc]).splitlines()
    assert table[2].startswith("| Finetune | 45.5 | `train.lr=0.0099` (edge), `model.rank=32` | 2 finished, 1 stopped")
    assert "none finished | 0 finished, 1 stopped early" in table[3]


def test_what_was_chosen_is_a_configuration_that_a_run_takes(tmp_path: Path) -> None:
    all_studies = studies(tmp_path)
    files = tuned_files(choices(all_studies, ended(all_studies)))
    assert list(files) == [""]
    file = tmp_path / "tuned.yaml"
    file.write_text(files[""])
    assert yaml.safe_load(files[""]) == {"tuned": {"Finetune": {"train": {"lr": 9.9e-3}, "model": {"rank": 32}}}}
    assert "Finetune: Last 45.5 among 2 finished, 1 stopped early, 1 failed; at the edge" in files[""]
    run = [find_config("miniature"), file]
    finetune = load_config([*run, find_config("finetune", "methods")])
    assert (finetune.train.lr, finetune.model.rank) == (9.9e-3, 32)
    ewc = load_config([*run, find_config("ewc", "methods")])
    assert ewc.train.lr == 2e-3  # nothing was chosen for it: as before


def test_each_setting_has_a_file_and_a_table_of_its_own(tmp_path: Path) -> None:
    all_studies = studies(tmp_path, settings={"one": [], "two": ["miniature_task_heterogeneous"]})
    end = ended(all_studies)
    assert list(tuned_files(choices(all_studies, end))) == ["one"]
    groups = by_group(all_studies, end)
    assert {group: len(trials) for group, trials in groups.items()} == {"one": 2, "two": 0}


@pytest.mark.parametrize(
    ("space", "value", "edge"),
    [
        (Space(choice=(16, 32, 64)), 16, True),
        (Space(choice=(16, 32, 64)), 32, False),
        (Space(choice=("products", "factors")), "products", False),  # words have no order
        (Space(randint=(1, 11)), 10, True),
        (Space(uniform=(0.0, 1.0)), 0.5, False),
        (Space(uniform=(0.0, 1.0)), 0.96, True),
        (Space(loguniform=(1.0, 100.0)), 50.0, False),  # 0.85 of the way, though above half of the largest
        (Space(loguniform=(1.0, 100.0)), 500.0, True),  # a default from outside
    ],
)
def test_where_an_edge_is(tmp_path: Path, space: Space, value: object, edge: bool) -> None:
    [study, *_] = studies(tmp_path)
    only = Study(**{**study.__dict__, "space": {"train.lr": space}})
    trial = study.trial({})
    end = Ended([(type(trial)(trial.folder, trial.config, only.name, {"train.lr": value}), {"last": 1.0})], [], [])
    assert choices([only], end)[0].edges == (("train.lr",) if edge else ())
