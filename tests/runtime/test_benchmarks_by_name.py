"""The neighbours' benchmarks and a dataset of one's own, from the first file to the table, without Ray."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from in_process import run

from fcit_ray.config.reading import load_config, with_overrides
from fcit_ray.config.schema import Config
from fcit_ray.config.shipped import find_config
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.serving.rescoring import rescore

SMALL = (
    "benchmark.num_clients=1", "benchmark.clients_per_round=1", "benchmark.num_rounds=1", "benchmark.min_samples=1",
    "train.epochs=1", "train.batch_size=8", "benchmark.max_test_records=4", "evaluation.every_stage=false",
)  # fmt: skip


def small(tmp_path: Path, benchmark: str, *files: Path, overrides: tuple[str, ...] = ()) -> Config:
    root = tmp_path / "data"
    write_miniature(root, num_train=8, num_validation=2, num_test=6, benchmark=benchmark)
    names = [find_config(f"miniature_{benchmark}"), find_config("disco"), *files]
    return load_config(names, [*SMALL, f"benchmark.root={root}", *overrides])


@pytest.mark.parametrize("benchmark", ["mllm_dcl", "coin"])
def test_a_benchmark_runs_and_is_scored_by_both_rules(tmp_path, benchmark):
    config = small(tmp_path, benchmark)
    results = run(config, tmp_path / "run")
    tasks = [task.name for task in config.benchmark.tasks]
    assert results["tasks"] == tasks
    assert all(0 <= score <= 100 for score in results["matrix"][-1])
    assert results["scoring"] == "strict"
    folder = RunFolder(tmp_path / "run")
    again = rescore(folder, config).results
    assert again["matrix"] == results["matrix"]
    released = rescore(folder, with_overrides(config, ["evaluation.scoring=released"])).results
    assert released["scoring"] == "released"
    # None of MLLM-DCL's rules asks for more than the whole answer in lower case, as long as that holds no full stop.
    if benchmark == "mllm_dcl":
        assert all(loose >= strict for loose, strict in zip(released["matrix"][-1], results["matrix"][-1], strict=True))


def test_ucit_scores_two_tasks_of_captions(tmp_path):
    config = small(
        tmp_path, "ucit", overrides=("benchmark.tasks=[VizWiz, IconQA, Flickr30k]", "method.num_subspaces=3")
    )
    results = run(config, tmp_path / "run")
    assert results["captions"] == "portable"
    assert {"CIDEr", "ROUGE-L"} <= results["diagnostics"]["VizWiz"].keys() & results["diagnostics"]["Flickr30k"].keys()


OWN = {
    "benchmark": {
        "datasets": {
            "Meters": {
                "train": "Domain_data/RS/train.json",
                "test": "Domain_data/RS/test.json",
                "images": "Domain_data/RS",
                "answer": "meters:score",
            }
        },
        "tasks": ["Meters"],
    },
    "method": {"num_subspaces": 1},
}


def with_scorer(tmp_path: Path, body: str) -> Path:
    """A configuration of one's own with a scorer beside it, in a folder that is not on the Python path."""
    folder = tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "meters.py").write_text(f"def score(prediction, record):\n    {body}\n")
    (folder / "meters.yaml").write_text(yaml.safe_dump(OWN))
    return folder / "meters.yaml"


def test_a_scorer_beside_the_configuration_scores_a_run(tmp_path):
    file = with_scorer(tmp_path, "return len(record.id) / 10 if record.turns[0].question else 0")
    config = small(tmp_path, "mllm_dcl", file)
    assert config.benchmark.dataset("Meters").answer.kind == f"{tmp_path}/mine/meters.py:score"
    results = run(config, tmp_path / "run")
    assert results["last"] == pytest.approx(60)  # ids are test-0 to test-3
    lines = (tmp_path / "run/predictions/stage_0000/Meters.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [0.6] * 4
    # One's own scorer may be mended after the run, and the predictions scored again by it.
    with_scorer(tmp_path, "return 0.25")
    assert rescore(RunFolder(tmp_path / "run"), config).results["last"] == 25


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return records[0]", r"meters.py, line 2, in score: NameError: .*tried with the record's own answer"),
        ("return 2", "returned 2 for the prediction .*; expected `def score"),
        ("return (", "cannot be imported: SyntaxError"),
    ],
)
def test_a_scorer_that_fails_is_refused_before_the_run(tmp_path, body, message):
    config = small(tmp_path, "mllm_dcl", with_scorer(tmp_path, body))
    with pytest.raises(ConfigError, match=message):
        open_experiment(config)


def test_a_kind_that_does_not_fit_its_answers_is_told_when_a_run_is_opened(tmp_path, caplog):
    file = with_scorer(tmp_path, "return 1")
    config = small(tmp_path, "mllm_dcl", file, overrides=("benchmark.datasets.Meters.answer=number",))
    with caplog.at_level(logging.WARNING):
        open_experiment(config)
    [said] = [record.message for record in caplog.records if "do not fit" in record.message]
    # Answers are yes, no, 2 and 3, as often as each other.
    assert said.startswith("Meters: 2 of 4 records (50 %) do not fit the kind of answers that is declared, 'number': ")


def test_unseen_data_need_only_a_test_file(tmp_path):
    write_miniature(tmp_path / "unseen", num_train=2, num_validation=2, num_test=3, benchmark="coin")
    unseen = {
        "Signs": {
            "test": f"{tmp_path}/unseen/Instructions_Original/TextVQA/val.json",
            "images": f"{tmp_path}/unseen/cl_dataset",
            "answer": {
                "kind": "soft_vote",
                "references": f"{tmp_path}/unseen/cl_dataset/TextVQA/TextVQA_0.5.1_val.json",
            },
        }
    }
    file = tmp_path / "unseen.yaml"
    file.write_text(yaml.safe_dump({"benchmark": {"datasets": unseen, "transfer": ["Signs"]}}))
    config = small(tmp_path, "mllm_dcl", file, overrides=("benchmark.tasks=[RS]", "method.num_subspaces=1"))
    results = run(config, tmp_path / "run")
    assert results["transfer"]["num_records"] == {"Signs": 3}
    assert 0 <= results["transfer"]["scores"]["Signs"] <= 100
