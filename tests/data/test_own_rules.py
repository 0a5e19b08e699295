"""A scorer of the user's own, from a module or a file: what it may return, and how its mistakes are told."""

import math
from pathlib import Path

import pytest

from fcit_ray.config.datasets import Dataset
from fcit_ray.config.reading import load_config
from fcit_ray.data.records.layout import Record
from fcit_ray.data.scoring.own import load_scorer, try_own
from fcit_ray.data.scoring.rules import Rule
from fcit_ray.data.scoring.scores import score
from fcit_ray.errors import ConfigError, RunFailed
from fcit_ray.models.prompt import Turn
from fcit_ray.results.scored import check_same_scorers, score_answers
from fcit_ray.types import Prediction

RECORD = Record("Meters", "7", ("a.png",), (Turn("a ?"),), "3.2", source="t.json", index=4)


def own(tmp_path: Path, body: str, name: str = "meters") -> str:
    file = tmp_path / f"{name}.py"
    file.write_text(f"def score(prediction, record):\n    {body}\nLIMIT = 3\n")
    return f"{file}:score"


def marks(rule: str, *said: str) -> tuple[float, ...]:
    records = [Record("Meters", str(n), ("a.png",), (Turn("a ?"),), "3.2") for n in range(len(said))]
    predictions = [Prediction(str(n), text, "3.2") for n, text in enumerate(said)]
    return score(Rule(rule, Dataset(answer=rule)), predictions, records).per_sample


def test_it_is_given_the_prediction_and_its_record(tmp_path):
    rule = own(tmp_path, "return 1 - min(1, abs(float(prediction) - float(record.answer)))")
    assert marks(rule, " 3.2\n", "2.7", "9") == pytest.approx((1, 0.5, 0))
    assert marks(own(tmp_path, "return prediction == record.answer", "yes_or_no"), "3.2", "3") == (1, 0)


def test_a_module_on_the_path_does_too(tmp_path, monkeypatch):
    own(tmp_path, "return 0.25", "meters_on_the_path")
    monkeypatch.syspath_prepend(tmp_path)
    assert marks("meters_on_the_path:score", "x") == (0.25,)


def test_two_files_of_one_name_are_two_scorers(tmp_path):
    for folder, mark in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        assert marks(own(tmp_path / folder, f"return {mark}"), "x") == (mark,)


@pytest.mark.parametrize("said", ["1.5", "-0.1", "float('nan')", "'1'", "None", str(math.inf).join(("float('", "')"))])
def test_what_is_no_score_is_refused(tmp_path, said):
    rule = own(tmp_path, f"return {said}")
    with pytest.raises(
        RunFailed, match=r"on t.json: record 4 \(id '7'\): returned .* for the prediction 'x'; expected"
    ):
        score(Rule(rule, Dataset(answer=rule)), [Prediction("7", "x", "3.2")], [RECORD])


def test_a_mistake_in_it_names_the_record_and_the_line(tmp_path):
    rule = own(tmp_path, "return float(prediction)")
    with pytest.raises(RunFailed, match=r"on t.json: record 4 \(id '7'\): .*meters.py, line 2, in score: ValueError"):
        score(Rule(rule, Dataset(answer=rule)), [Prediction("7", "three", "3.2")], [RECORD])


def test_a_file_that_changed_between_two_stages_is_refused(tmp_path):
    rule = own(tmp_path, "return 1")
    scored = lambda: score_answers(Rule(rule, Dataset(answer=rule)), [RECORD], {"": [("3.2", (1.0,))]})[1]  # noqa: E731
    records = [{"kind": "round"}, {"kind": "evaluation", "stage": 0, "datasets": {"Meters": scored()}}]
    check_same_scorers(records, {"Meters": scored()})
    own(tmp_path, "return 0.5  # another")
    with pytest.raises(RunFailed, match=r"'Meters': the file of its scorer has changed since stage 0 .*put it back"):
        check_same_scorers(records, {"Meters": scored()})


def test_it_is_tried_before_the_run(tmp_path):
    try_own(own(tmp_path, "return float(prediction) / 10"), RECORD)
    with pytest.raises(ConfigError, match=r"line 2, in score: NameError: .*\(tried with the record's own answer"):
        try_own(own(tmp_path, "return limit"), RECORD)
    with pytest.raises(ConfigError, match="returned 3"):
        try_own(own(tmp_path, "return float(prediction)"), RECORD)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{folder}/nowhere.py:score", "nowhere.py: No such file"),
        ("{folder}/meters.py:mark", r"no function 'mark' in .*meters.py \(only score\)"),
        ("{folder}/meters.py:LIMIT", "no function 'LIMIT' in .*; expected `def score"),
        ("{folder}/broken.py:score", "cannot be imported: SyntaxError"),
        ("no_such_module_at_all:score", "cannot be imported: ModuleNotFoundError: .*beside the configuration"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path, rule, message):
    own(tmp_path, "return 1")
    (tmp_path / "broken.py").write_text("def score(:\n")
    with pytest.raises(ConfigError, match=message):
        load_scorer(rule.format(folder=tmp_path))


def test_a_file_is_found_beside_the_configuration_and_only_if_written_as_one_from_an_override(tmp_path, monkeypatch):
    own(tmp_path, "return 1")
    file = tmp_path / "mine.yaml"

    def kind(answer: str, *overrides: str) -> str:
        file.write_text(f"benchmark: {{datasets: {{X: {{test: a.json, answer: {answer}}}}}, tasks: [X]}}\n")
        return load_config([file], overrides).benchmark.dataset("X").answer.kind

    monkeypatch.chdir("/")
    assert kind("meters:score") == kind("meters.py:score") == f"{tmp_path}/meters.py:score"
    assert kind("{kind: meters:score}") == f"{tmp_path}/meters.py:score"
    assert kind("elsewhere:score") == "elsewhere:score"
    monkeypatch.chdir(tmp_path)
    assert kind("exact", "benchmark.datasets.X.answer=meters.py:score") == f"{tmp_path}/meters.py:score"
    assert kind("exact", "benchmark.datasets.X.answer=meters:score") == "meters:score"
