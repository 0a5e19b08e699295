"""`prepare check` and `prepare parquet` on what a configuration declares, and on the root of a known benchmark."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from fcit_ray.cli import app as cli

CONFIG = """
benchmark:
  root: own
  catalog: null
  datasets:
    dots: {train: dots.json, test: dots-test.json, images: pictures, answer: number}
    words: {train: words.json, images: pictures}
  tasks: [dots]
"""


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Run `fcit-ray prepare` beside data of one's own; gives exit status and all that is printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own/pictures").mkdir(parents=True)
    for name in "abcd":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"own/pictures/{name}.png")

    def records(*rows: tuple[str, str]) -> str:
        return json.dumps([{"id": i, "image": f"{name}.png", "question": "How many?", "answer": answer}
                           for i, (name, answer) in enumerate(rows)])  # fmt: skip

    (tmp_path / "own/dots.json").write_text(records(("a", "1"), ("b", "2")))
    (tmp_path / "own/dots-test.json").write_text(records(("c", "one"), ("d", "two"), ("b", "2")))
    (tmp_path / "own/words.json").write_text(records(("a", "one"), ("gone", "two")))
    (tmp_path / "mine.yaml").write_text(CONFIG)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fcit-ray", "prepare", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        printed = capsys.readouterr()
        return int(exit.value.code or 0), printed.out + printed.err

    return run


def test_what_a_configuration_declares_is_looked_over(prepare):
    status, said = prepare("check", "mine.yaml", "--jobs", "1")
    assert status == 1  # words.json names a picture that is not there; it is in no task, and declared
    assert "image: words.json: record 1 (id '1'): image pictures/gone.png: no such file" in said
    assert (
        "shared: dots-test.json: record 2 (id '2'): the same question, pictures and answer as record 1 of dots.json"
        in said
    )
    assert "Warning: dots: 1 of 3 test records are training records too" in said
    assert "odd: dots-test.json: record 0 (id '0'): answer 'one'; expected a number" in said
    assert "Warning: dots: 2 of 3 test records have answers of another kind than declared (answer: number)" in said
    assert "Absent" not in said


def test_some_of_it_with_overrides(prepare):
    status, said = prepare("check", "mine.yaml", "dots", "benchmark.datasets.dots.answer=exact", "--jobs", "1")
    assert status == 0  # warnings do not fail a check
    assert "words" not in said
    assert "odd: " not in said
    (Path("own") / "dots.json").rename("dots.json")
    status, said = prepare("check", "mine.yaml", "dots", "--jobs", "1")
    assert (status, "dots.json: no such file" in said) == (1, True)
    status, said = prepare("check", "mine.yaml", "dots", "benchmark.root=away")
    assert (status, "away: no such folder" in said) == (2, True)


def test_it_becomes_parquet_that_a_run_takes_for_the_root(prepare):
    status, said = prepare("parquet", "mine.yaml", "made", "dots")
    assert status == 0, said
    status, said = prepare("parquet", "mine.yaml", "made-too")
    assert (status, "gone.png" in said) == (2, True)
    from fcit_ray.config.reading import load_config
    from fcit_ray.data.records.collection import Collection
    from fcit_ray.data.records.layout import load_train

    benchmark = load_config(["mine.yaml"], ["benchmark.root=made"]).benchmark
    assert [record.turns[0].answer for record in load_train(Collection.of(benchmark), "dots")] == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "mine.yaml", "dotz"], "unknown dataset 'dotz'; known: dots, words; did you mean 'dots'?"),
        (["check", "mine.yaml", "benchmark.rot=x"], "benchmark.rot: unknown key; did you mean benchmark.root?"),
        (["check", "mine.yaml", "--catalog", "ucit"], "--catalog ucit: goes with a root"),
        (["check", "theirs.yaml"], "theirs.yaml: no such file"),
        (["check", "own", "benchmark.seed=1"], "an override goes with a configuration; own is taken for a data root"),
        (["check", "own"], "own: none of the datasets that are known here; expected folders such as instr"),
        (["check", "own"], "data of your own is declared in a configuration, which `fcit-ray prepare init"),
        (["check", "own", "--catalog", "ucitt"], "unknown catalog 'ucitt'; known: fcit, "),
        (["check", "own", "--catalog", "mllm_dcl"], "expected folders such as Domain_data/"),
        (["parquet", "own", "made"], "which `fcit-ray prepare init PATH` writes"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_said(prepare, arguments, said):
    status, printed = prepare(*arguments)
    assert (status, said in printed) == (2, True), printed


def test_a_name_that_is_a_configuration_and_a_folder_is_asked_about(prepare):
    Path("miniature").mkdir()
    status, said = prepare("check", "miniature")
    assert (status, "is a shipped configuration and a folder here; write ./miniature" in said) == (2, True)
    status, said = prepare("check", "./miniature")
    assert (status, "./miniature: none of the datasets" in said) == (2, True)


def test_the_clients_files_that_a_configuration_takes_are_looked_at_too(prepare):
    split = [
        "benchmark.num_clients=2",
        "benchmark.min_samples=1",
        "benchmark.partition=equal",
        "benchmark.clients_per_round=1",
    ]
    status, said = prepare("partition", "mine.yaml", *split, "--out", "own/split")
    assert status == 0, said
    taken = ["benchmark.partition=files", "benchmark.partition_files=split", *split[:2], split[3]]
    Path("own/split/Task1/client_1.json").write_text('[{"id": 1, "conversations": []}]')
    status, said = prepare("check", "mine.yaml", *taken, "--jobs", "1")
    assert status == 1
    assert "broken: split/Task1/client_1.json: record 0 (id '1'): has no conversations" in said
    status, said = prepare("check", "mine.yaml", *taken, "benchmark.partition_files=elsewhere")
    assert (status, "elsewhere: holds no Task<k>/client_<i>.json" in said) == (2, True)
