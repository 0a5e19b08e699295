"""Runs share a row only if nothing but the seed tells them apart; a run given twice counts once."""

from typing import Any

import pytest

from fcit_ray.config.schema import Config
from fcit_ray.errors import UserError
from fcit_ray.results.tell_apart import tell_apart


def run(seed: int, name: str = "DISCO", sha: str = "", **values: Any) -> dict[str, Any]:
    config = Config.model_validate(
        {"name": name, "seed": seed, "benchmark": {"tasks": ["ArxivQA"], **values.pop("benchmark", {})}, **values}
    )
    return {
        "label": name, "seed": seed, "tasks": ["ArxivQA"], "last": 50.0 + seed, "adapters_sha256": sha or f"{seed}",
        "config": config.model_dump(mode="json"),
    }  # fmt: skip


def labels(*results: dict[str, Any]) -> list[tuple[str, int]]:
    return [(result["label"], result["seed"]) for result in tell_apart(results)]


def test_runs_that_differ_in_the_seed_or_in_where_they_ran_are_one_row() -> None:
    runs = run(0), run(1), run(2, runtime={"num_workers": 7, "cache_mb": 1})
    assert labels(*runs) == [("DISCO", 0), ("DISCO", 1), ("DISCO", 2)]


def test_unlike_runs_are_rows_of_their_own_that_say_what_differs() -> None:
    # seed 0 and a run of seed 1 with other epochs and another rate used to be a mean over two seeds
    other = run(1, train={"epochs": 2, "lr": 0.001})
    assert labels(run(0), other, run(2)) == [
        ("DISCO (train.epochs=1, train.lr=0.0002)", 0),
        ("DISCO (train.epochs=2, train.lr=0.001)", 1),
        ("DISCO (train.epochs=1, train.lr=0.0002)", 2),
    ]
    assert labels(run(0), run(1, runtime={"gpu": True})) == [
        ("DISCO (runtime.gpu=false)", 0),
        ("DISCO (runtime.gpu=true)", 1),
    ]


def test_a_key_that_one_of_them_lacks_is_told_where_it_is() -> None:
    plain, disco = run(0, method={"name": "disco"}), run(1, method={"name": "disco", "threshold": 0.5})
    assert labels(plain, disco) == [("DISCO", 0), ("DISCO (method.threshold=0.5)", 1)]


def test_many_differences_are_counted() -> None:
    other = run(1, train={"epochs": 2, "lr": 0.001, "batch_size": 2, "weight_decay": 0.5})
    assert labels(run(0), other)[1] == ("DISCO (train.epochs=2, train.batch_size=2, train.lr=0.001, 1 more)", 1)
    third = run(1, train={"epochs": 2, "lr": 0.001, "batch_size": 2, "weight_decay": 0.25})
    assert len(set(labels(run(0), other, third))) == 3, "rows that look alike would be merged"


def test_tasks_are_told_by_their_names() -> None:
    other = run(1, benchmark={"tasks": ["IconQA", "DVQA"]})
    assert labels(run(0), other) == [("DISCO (benchmark.tasks=ArxivQA)", 0), ("DISCO (benchmark.tasks=IconQA,DVQA)", 1)]


def test_other_names_are_other_rows_as_ever() -> None:
    assert labels(run(0), run(0, name="Mine"), run(1, name="Mine")) == [("DISCO", 0), ("Mine", 0), ("Mine", 1)]


def test_scoring_is_said_by_the_table_itself() -> None:
    strict, released = run(0), run(1, evaluation={"scoring": "released"})
    assert labels(strict, {**released, "scoring": "released"}) == [("DISCO", 0), ("DISCO", 1)]


def test_a_run_given_twice_counts_once_and_another_end_of_it_is_refused() -> None:
    assert labels(run(0), run(1), run(0)) == [("DISCO", 0), ("DISCO", 1)]
    with pytest.raises(UserError, match=r"runs/a and runs/b: runs of one configuration and seed \(DISCO, seed 0\)"):
        tell_apart([run(0), run(0, sha="other")], ["runs/a", "runs/b"])


def test_runs_of_releases_that_kept_no_configuration_are_told_apart_by_what_they_answered() -> None:
    def old(seed: int, *tasks: str) -> dict[str, Any]:
        return {key: value for key, value in run(seed).items() if key != "config"} | {"tasks": list(tasks)}

    assert labels(old(0, "a"), old(1, "a")) == [("DISCO", 0), ("DISCO", 1)]
    assert labels(old(0, "a"), old(1, "b")) == [("DISCO (tasks=a)", 0), ("DISCO (tasks=b)", 1)]
    assert labels(old(0, "a"), run(1)) == [("DISCO (configuration unknown)", 0), ("DISCO", 1)]
