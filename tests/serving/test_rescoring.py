"""Predictions written by hand, scored by another rule: every figure is worked out beside them."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from fcit_ray.config.reading import with_overrides
from fcit_ray.config.schema import parse_config
from fcit_ray.errors import DataError, UserError
from fcit_ray.results.figures import make_results
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.serving.evaluation_folder import EvaluationFolder, check_free
from fcit_ray.serving.rescoring import rescore

YES_NO = {"yes-no": "Yes", "no-yes": "No"}
BOXES = {"two digits": "[0.12, 0.20, 0.50, 0.50]", "one digit": "[0.1, 0.2, 0.5, 0.5]"}
# Strictly an answer is right as a whole. As released a part of it will do, an empty one too.
STAGES: list[dict[str, dict[str, str]]] = [
    {"FigureQA": {"yes-no": "yes", "no-yes": "NO"}},  # 100 by both rules
    {
        "FigureQA": {"yes-no": "", "no-yes": "o"},  # 0, and 100 as released
        # 100, and 50 as released: brackets go, and then a first and a last character, so that 0.5 below ends as 0.
        "Grounding": {"two digits": "[0.12, 0.20, 0.50, 0.50]", "one digit": "[0.1, 0.2, 0.5, 0.5]"},
    },
]
STRICT = [{"FigureQA": 100.0}, {"FigureQA": 0.0, "Grounding": 100.0}]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of two stages as its files would be."""
    root = tmp_path / "data"
    for name, file, answers in (("FigureQA", "test.json", YES_NO), ("Grounding", "test_6000.json", BOXES)):
        place = root / "instructions" / name
        place.mkdir(parents=True)
        more = [
            {"answer_bbox": json.loads(a), "size": [60, 40]} if name == "Grounding" else {} for a in answers.values()
        ]
        records = [
            {"question_id": id, "image": "a.png", "text": "where?", "answer": answer, **extra}
            for (id, answer), extra in zip(answers.items(), more, strict=True)
        ]
        (place / file).write_text(json.dumps(records))
    config = parse_config(
        {
            "name": "by hand",
            "benchmark": {
                "root": str(root), "tasks": ["FigureQA", "Grounding"], "num_clients": 1, "clients_per_round": 1,
            },
        }
    )  # fmt: skip
    folder = open_run(tmp_path / "run", config, resume=False, overwrite=False)
    references = {"FigureQA": YES_NO, "Grounding": BOXES}
    for stage, (datasets, scores) in enumerate(zip(STAGES, STRICT, strict=True)):
        for name, answers in datasets.items():
            rows = [
                {"question_id": id, "prediction": said, "answer": references[name][id], "gate": []}
                for id, said in answers.items()
            ]
            folder.write_predictions(f"stage_{stage:04d}", name, rows)
        details = {name: {"percent": percent} for name, percent in scores.items()}
        folder.log({"kind": "evaluation", "stage": stage, "scores": scores, "datasets": details, "seconds": {"a": 2.0}})
    results = make_results(
        label="by hand",
        seed=0,
        tasks=["FigureQA", "Grounding"],
        num_stages=2,
        records=folder.records(),
        num_records={"FigureQA": 2, "Grounding": 2},
        params={},
    )
    folder.write_results(results)
    folder.release()
    return folder


def scored(folder: RunFolder, *overrides: str) -> dict[str, Any]:
    return rescore(folder, with_overrides(folder.config(), overrides)).results


def figures(results: dict[str, Any]) -> list[Any]:
    return [results[key] for key in ("matrix", "last", "avg", "forgetting", "bwt", "scoring")]


def test_the_whole_matrix_and_what_is_made_of_it_are_of_the_other_rule(folder: RunFolder) -> None:
    assert figures(scored(folder)) == figures(folder.results())
    assert figures(scored(folder)) == [[[100.0, None], [0.0, 100.0]], 50.0, 75.0, 100.0, -100.0, "strict"]
    released = scored(folder, "evaluation.scoring=released")
    assert figures(released) == [[[100.0, None], [100.0, 50.0]], 75.0, 87.5, 0.0, 0.0, "released"]
    assert released["seconds"] == 4.0  # the run's own


def test_a_rule_that_needs_more_than_the_answers_says_what_is_missing(folder: RunFolder) -> None:
    with pytest.raises(
        DataError, match=r"Grounding: its rule needs the boxes and sizes of its pictures.*no such folder"
    ):
        scored(folder, "benchmark.root=/nowhere")


def test_an_evaluation_is_whole_or_absent_and_replaced_only_when_asked(tmp_path: Path) -> None:
    out, results = tmp_path / "out", {"format": "fcit_ray evaluation", "last": 1.0}
    with contextlib.suppress(KeyboardInterrupt), EvaluationFolder(out) as folder:
        folder.log_file.parent.mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with EvaluationFolder(out) as folder:
        folder.finish(results, {"IconQA": [{"question_id": "a", "score": 1.0}]})
    assert (out / "predictions/IconQA.jsonl").read_text() == '{"question_id": "a", "score": 1.0}\n'
    with pytest.raises(UserError, match="holds an evaluation; give --overwrite"):
        check_free(out, overwrite=False)
    with EvaluationFolder(out, overwrite=True) as folder:
        folder.finish({**results, "last": 2.0}, {})
    assert json.loads((out / "evaluation.json").read_text())["last"] == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    for overwrite in (False, True):  # a run folder too
        with pytest.raises(UserError, match="holds files, but no evaluation; nothing is deleted"):
            check_free(tmp_path / "mine", overwrite)
    with pytest.raises(UserError, match="is a file; name a folder"):
        check_free(tmp_path / "mine/file", overwrite=True)
