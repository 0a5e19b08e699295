"""What a user meets at the door of `predict` and `evaluate`: every message before a model is read or Ray started."""

import sys
from pathlib import Path

import pytest

from fcit_ray.cli.app import main


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fcit-ray", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        said: list[str] = capsys.readouterr().err.splitlines()
        assert exit.value.code == 2
        return "\n".join(line for line in said if not line.endswith(" ..."))

    return call


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("predict m", "nothing is asked: give INPUT and OUT, or --ask TEXT, with --image FILE if about a"),
        ("predict m --ask What?", "m: no such folder; expected that of a finished run, or of an export"),
        ("predict m --ask What? --resume", "--ask without INPUT asks one question here"),
        ("predict m --image a.png", '--image needs a question: --ask "..."'),
        ("predict m in.json out.jsonl --image a.png --ask What?", "--image asks one question here"),
        ("predict m in.json", "no file for the answers to in.json: give OUT behind it"),
        ("predict m in.json out.jsonl", "m: no such folder; expected that of a finished run, or of an export"),
        ("predict . in.json out.jsonl", ".: no folder of a run, nor of an export"),
        ("evaluate m", "no folder for the evaluation: give --out FOLDER"),
        ("evaluate m benchmark.split --out e", "'benchmark.split': an override reads key.path=value"),
        ("evaluate m --from-predictions --gpu", "--from-predictions asks no model"),
        ("evaluate m --from-predictions", "m: no folder of a run; --from-predictions scores what a run has answered"),
        ("evaluate m method.num_subspaces=4 --out e", "method.num_subspaces: says what the model is"),
        ("evaluate m model.path=x --out e", "model.path: says what the model is"),
        ("evaluate m seed=1 --out e", "seed: says what the model is"),
        ("evaluate m evaluation.every_stage=false --out e", "evaluation.every_stage: there is one state"),
        ("evaluate m benchmark.tasks=[IconQA] --out e", "benchmark.transfer names other datasets to answer"),
        ("evaluate m runtime.num_workers=3 --out e", "runtime.num_workers: --workers and --gpu say where"),
        ("evaluate m benchmark.splt=test --out e", "benchmark.splt: no such key; did you mean 'benchmark.split'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(refused, arguments: str, expected: str) -> None:
    message = refused(*arguments.split())
    assert message.startswith("error: ")
    assert expected in message


def test_every_key_that_is_wrong_gets_a_line(refused) -> None:
    message = refused("evaluate", "m", "lora.name=ffa", "evaluation.scoring=released", "train.lr=1", "--out", "e")
    assert [line.removeprefix("error: ").partition(":")[0] for line in message.splitlines()] == [
        "lora.name",
        "train.lr",
    ]
