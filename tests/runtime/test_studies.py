"""What Tune tries next and what it ends early: study by study, and the same again after a kill."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from repository import ROOT

from fcit_ray.config.sweep import StopEarly, Sweep
from fcit_ray.config.trials import Study, Trial, load_sweep
from fcit_ray.errors import ConfigError
from fcit_ray.results.records import rewind
from fcit_ray.runtime.studies import SCORE, STAGES, Halving, Studies

SPACE = {"train.lr": {"loguniform": [1e-4, 1e-1]}, "model.rank": {"choice": [16, 64]}}


def sweep(tmp_path: Path, by: str, trials: int = 5, **keys: Any) -> tuple[Sweep, list[Study]]:
    file = tmp_path / "sweep.yaml"
    search = {"by": by, "trials": trials, "space": SPACE, **keys}
    file.write_text(json.dumps({"config": ["miniature"], "methods": ["finetune", "ewc"], "search": search}))
    return load_sweep(file, [f"benchmark.root={ROOT}"])


def searcher(tmp_path: Path, by: str, **keys: Any) -> tuple[Studies, list[Trial]]:
    described, studies = sweep(tmp_path, by, **keys)
    told: list[Trial] = []
    return Studies(studies, described.search, tmp_path / "proposed.jsonl", {}, told.append), told


def result(score: float, stages: int = 8, finished: bool = True) -> dict[str, Any]:
    return {SCORE: score, STAGES: stages, "finished": finished, "over": False, "training_iteration": stages}


@pytest.mark.parametrize("by", ["random", "optuna"])
def test_every_study_has_its_budget_in_turns(tmp_path: Path, by: str) -> None:
    studies, told = searcher(tmp_path, by, trials=3)
    spaces = []
    while isinstance(space := studies.suggest(str(len(spaces))), dict):
        spaces.append(space["trial"])
        studies.on_trial_complete(str(len(spaces) - 1), result(50.0))
    assert space == studies.FINISHED
    assert [trial["study"] for trial in spaces] == ["Finetune seed 0", "EWC seed 0"] * 3
    assert [trial.folder for trial in told] == [trial["folder"] for trial in spaces]
    assert len({trial["folder"] for trial in spaces}) == 6


def test_optuna_learns_and_a_killed_search_tries_the_same_again(tmp_path: Path) -> None:
    def carry_on(studies: Studies, number: int, count: int) -> list[str]:
        """Trials whose score is the better the nearer their rate is to 1e-2."""
        folders = []
        for _ in range(count):
            space = studies.suggest(str(number))
            assert isinstance(space, dict)
            lr = space["trial"]["config"]["train"]["lr"]
            folders.append(space["trial"]["folder"])
            studies.on_trial_complete(str(number), result(100 - abs(lr - 1e-2) * 1000))
            number += 1
        return folders

    at_once, told = searcher(tmp_path, "optuna", trials=20)
    folders = carry_on(at_once, 0, 40)
    late = [trial.config.train.lr for trial in told[20:]]
    # Between 5e-3 and 2e-2 lie log10(4) = 0.6 of the three orders of magnitude: of 20 drawn at random 4.
    assert sum(0.5e-2 < lr < 2e-2 for lr in late) >= 8
    (tmp_path / "again").mkdir()
    lines = (tmp_path / "proposed.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "again" / "proposed.jsonl").write_text("".join(lines[:7]))  # killed with seven proposed
    again, _ = searcher(tmp_path / "again", "optuna", trials=20)
    assert carry_on(again, 0, 7) == folders[:7]


def test_what_was_stopped_is_no_score_and_an_edited_space_is_refused(tmp_path: Path) -> None:
    studies, _ = searcher(tmp_path, "optuna", trials=4)
    for number in range(8):
        assert isinstance(studies.suggest(str(number)), dict)
        # after one stage of eight, the mean over a single task: higher than any finished trial's
        studies.on_trial_result(str(number), result(99.0, stages=1, finished=False))
        studies.on_trial_complete(str(number), result(99.0, stages=1, finished=False))
    for study in studies._optuna.values():
        assert not [trial for trial in study._ot_study.trials if trial.state.name == "COMPLETE"]
    described, changed = sweep(tmp_path, "optuna", space={"train.lr": {"uniform": [0.5, 0.6]}}, defaults_first=False)
    with pytest.raises(ConfigError, match="was proposed for another search space than the one of now"):
        Studies(changed, described.search, tmp_path / "proposed.jsonl", {}, lambda trial: None)


def halving(tmp_path: Path, **rule: Any) -> Halving:
    _, studies = sweep(tmp_path, "random")
    return Halving(StopEarly(**rule), studies, {study.name: 8 for study in studies}, tmp_path / "stopped.jsonl")


def tell(scheduler: Halving, trial: str, study: str, stages: int, score: float, over: bool = False) -> str:
    named = SimpleNamespace(trial_id=trial, config={"trial": {"folder": trial, "study": study}})
    if stages == 2:
        scheduler.on_trial_add(None, named)  # type: ignore[arg-type]
    return scheduler.on_trial_result(None, named, {STAGES: stages, SCORE: score, "over": over})  # type: ignore[arg-type]


def test_trials_are_compared_with_those_of_their_study_at_the_same_stage(tmp_path: Path) -> None:
    scheduler = halving(tmp_path, grace_stages=2, reduction_factor=2)
    finetune, ewc = "Finetune seed 0", "EWC seed 0"
    assert tell(scheduler, "a", finetune, 2, 50.0) == "CONTINUE"  # the first has nobody to be compared with
    # EWC's first at 10 is not held against Finetune's 50.
    assert tell(scheduler, "b", ewc, 2, 10.0) == "CONTINUE"
    assert tell(scheduler, "c", ewc, 2, 9.0) == "STOP"
    # After stage 3 nothing is decided: the rungs are 2, 4, 8.
    assert tell(scheduler, "b", ewc, 3, 0.0) == "CONTINUE"
    # Of 50 and 40 the median is 45: 44 ends, 46 goes on.
    assert tell(scheduler, "d", finetune, 2, 40.0) == "STOP"
    assert tell(scheduler, "e", finetune, 2, 44.0) == "STOP"
    assert tell(scheduler, "f", finetune, 2, 46.0) == "CONTINUE"
    told = [json.loads(line) for line in (tmp_path / "stopped.jsonl").read_text().splitlines()]
    assert told == [
        {"folder": "c", "stage": 1, "score": 9.0},
        {"folder": "d", "stage": 1, "score": 40.0},
        {"folder": "e", "stage": 1, "score": 44.0},
    ]


def test_what_is_over_already_counts_for_the_others_and_is_not_stopped(tmp_path: Path) -> None:
    scheduler = halving(tmp_path, grace_stages=2, reduction_factor=2)
    assert tell(scheduler, "a", "EWC seed 0", 2, 50.0, over=True) == "CONTINUE"
    assert tell(scheduler, "b", "EWC seed 0", 2, 10.0, over=True) == "CONTINUE"
    assert not (tmp_path / "stopped.jsonl").exists()
    assert tell(scheduler, "c", "EWC seed 0", 2, 29.0) == "STOP"  # the median of the two is 30


def test_a_line_that_a_kill_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    first, _ = searcher(tmp_path, "optuna", trials=3)
    for number in range(3):
        first.suggest(str(number))
    file = tmp_path / "proposed.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-9])
    rewind(file, math.inf, 0)  # as run_sweep does before it reads them
    again, _ = searcher(tmp_path, "optuna", trials=3)
    for number in range(6):
        again.suggest(str(number))
    lines = file.read_text().splitlines()
    assert lines[:2] == whole.splitlines()[:2]
    assert [json.loads(line)["number"] for line in lines] == [0, 0, 1, 1, 2, 2]
