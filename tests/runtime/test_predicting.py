"""A trained model asked after its run: the answers and figures are the run's own, in this process and by Ray Data."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from conftest import Configure
from in_process import run

from fcit_ray.cli.predict import predict
from fcit_ray.data.questions.opening import open_input
from fcit_ray.data.questions.pieces import RecordsPiece, piece_to_json
from fcit_ray.errors import ConfigError, ModelError, RunFailed, UserError
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.predicting import Block, _Answer, _Encode, _raise, answering, check_places
from fcit_ray.runtime.store import RayStore
from fcit_ray.serving.asking import Answerer, answer_lines, encode_all, given_by, question_encoder, shown_line
from fcit_ray.serving.evaluating import Exam, open_exam
from fcit_ray.serving.opening import on_this_machine, open_trained, trained_sha256, view_of
from fcit_ray.serving.rescoring import rescore
from fcit_ray.serving.trained import Trained

METHODS: dict[str, dict[str, Any]] = {
    "disco": {},
    "hide": {"method": {"name": "hide"}},  # answers by merged adapters
    "modal_prompt": {"method": {"name": "modal_prompt"}},  # by prompts, and no adapter
    "fedsa": {"method": {"name": "finetune"}, "lora": {"name": "fedsa"}},  # by a model for each client
}


@pytest.fixture(scope="module")
def folders(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of runs that came to their end."""
    made: dict[str, Path] = {}
    for name, sections in METHODS.items():
        made[name] = tmp_path_factory.mktemp(name) / "run"
        run(configure(benchmark={"num_rounds": 1}, **sections), made[name])
    return made


def ready(path: Path, **how: Any) -> Trained:
    return on_this_machine(open_trained(path), **how)


def ask_here(exam: Exam, size: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All answers of an exam in this process, by view and dataset."""
    answerer, encoder = Answerer(exam.trained, exam.views[0]), question_encoder(exam.trained)
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for view, name, piece in exam.pieces(size):
        answerer.use(view)
        asked = encode_all(piece.read(), encoder)
        batch_size = exam.trained.config.evaluation.batch_size
        lines.setdefault((view, name), []).extend(answer_lines(asked, answerer, batch_size))
    return lines


@pytest.mark.parametrize("name", METHODS)
def test_answers_and_figures_are_those_of_the_run(folders: dict[str, Path], name: str) -> None:
    exam = open_exam(ready(folders[name]))
    results, rows = exam.results(ask_here(exam, 32), {"answer": 1.5})
    for dataset in ("ArxivQA", "IconQA"):
        path = folders[name] / "predictions/stage_0001" / f"{dataset}.jsonl"
        assert rows[dataset] == [json.loads(line) for line in path.read_text().splitlines()]
    own = RunFolder(folders[name]).results()
    assert results["matrix"] == own["matrix"][-1:]
    assert (results["last"], results["adapters_sha256"]) == (own["last"], own["adapters_sha256"])
    record = RunFolder(folders[name]).records()[-1]
    assert (results["scores"], results["datasets"]) == (record["scores"], record["datasets"])
    assert results["seconds"] == 1.5


def test_another_split_and_unseen_datasets_are_answered(folders: dict[str, Path]) -> None:
    overrides = ["benchmark.split=validation", "benchmark.transfer=[OCRVQA]", "benchmark.max_test_records=1"]
    exam = open_exam(ready(folders["disco"]), overrides)
    assert {name: [record.source for record in records] for name, records in exam.tests.items()} == {
        name: [f"instructions/{name}/validation.json"] for name in ("ArxivQA", "IconQA", "OCRVQA")
    }
    results, _ = exam.results(ask_here(exam, 32), {})
    assert results["transfer"]["num_records"] == {"OCRVQA": 1}
    assert set(results["scores"]) == {"ArxivQA", "IconQA"}
    assert results["benchmark"]["split"] == "validation"


def test_a_client_is_chosen_where_each_has_a_model(folders: dict[str, Path]) -> None:
    several = ready(folders["fedsa"])
    with pytest.raises(ConfigError, match=r"holds a model for each client .*expected one of \d"):
        view_of(several, None)
    with pytest.raises(ConfigError, match="--client 99: "):
        view_of(several, 99)
    clients = [int(view.removeprefix("client_")) for view in open_exam(several).views]
    digests = {trained_sha256(several, view_of(several, client)) for client in clients}
    assert len(digests) == len(clients) > 1
    with pytest.raises(ConfigError, match=r"--client 0: .* holds one model for all clients"):
        view_of(ready(folders["disco"]), 0)


def test_a_model_is_another_if_it_or_the_way_it_is_asked_is(folders: dict[str, Path]) -> None:
    disco = ready(folders["disco"])
    assert trained_sha256(disco) == trained_sha256(ready(folders["disco"]))
    others = [
        ready(folders["hide"]),
        ready(folders["disco"], evaluation={"batch_size": 3}),
        ready(folders["disco"], gpu=True),
    ]
    assert trained_sha256(disco) not in {trained_sha256(other) for other in others}


@pytest.mark.parametrize("name", ["disco", "fedsa"])
def test_predictions_scored_again_by_the_same_rule_give_the_runs_own_figures(
    folders: dict[str, Path], name: str
) -> None:
    folder = RunFolder(folders[name])
    rescored = rescore(folder, folder.config())
    assert rescored.results == folder.results()
    before = [record for record in folder.records() if record["kind"] == "evaluation"]
    for record, again in zip(before, rescored.evaluations, strict=True):
        assert (again["stage"], again["scores"]) == (record["stage"], record["scores"])
        for dataset, details in record["datasets"].items():
            assert again["datasets"][dataset]["percent"] == details["percent"]
    # The answers are in the predictions, so that these need no data.
    elsewhere = folder.config().model_copy(
        update={"benchmark": folder.config().benchmark.model_copy(update={"root": "/nowhere"})}
    )
    without = rescore(folder, elsewhere)
    assert set(without.without_data) == {"ArxivQA", "IconQA"}
    assert without.results["matrix"] == folder.results()["matrix"]


def test_predictions_that_were_edited_or_lost_are_not_scored(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(folders["disco"], folder.path)
    path = folder.path / "predictions/stage_0001/IconQA.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def refused(*edited: dict[str, Any]) -> str:
        path.write_text("".join(json.dumps(row) + "\n" for row in edited))
        with pytest.raises(UserError) as error:
            rescore(folder, folder.config())
        return str(error.value)

    assert "scores 100.0000 by the run's own rule, and the run says" in refused(
        *({**row, "prediction": row["answer"]} for row in rows)
    )
    assert "holds no answer to 1 of 6 records" in refused(*rows[1:])
    assert "twice" in refused(*rows, rows[0])
    assert "and the data in benchmark.root says" in refused({**rows[0], "answer": "other"}, *rows[1:])
    assert "is not in the data in benchmark.root" in refused({**rows[0], "question_id": "other"}, *rows[1:])
    assert "line 1: not a prediction that a run wrote" in refused({"question_id": 3}, *rows[1:])
    path.unlink()
    with pytest.raises(UserError, match="missing; copy it back"):
        rescore(folder, folder.config())


def test_the_subspaces_that_gave_an_answer_are_those_with_a_share_of_a_hundredth() -> None:
    assert given_by([0.005, 0.7, 0.0, 0.295]) == [1, 3]
    assert given_by([1.0, 2.0, 1.0]) == [1, 0, 2]
    assert given_by([0.0, 0.0]) == given_by([]) == []
    assert shown_line({"id": "a", "error": "why"}) == {"id": "a", "error": "why"}


# With Ray Data.


def questions(folder: Path, root: Path) -> Path:
    """Nine questions of the miniature as JSONL: the third's picture does not decode, and the fifth's is no path.

    The second has no picture, the sixth two.
    """
    records = json.loads((root / "instructions/ArxivQA/test_1w.json").read_text())
    records += json.loads((root / "instructions/IconQA/val.json").read_text())[:3]
    for record in records:
        record["image"] = str(root / "datasets" / record["image"])
    broken = folder / "broken.png"
    content = Path(records[2]["image"]).read_bytes()
    broken.write_bytes(content[:60] + bytes(40) + content[100:])
    records[2]["image"] = str(broken)
    del records[1]["image"]
    records[4]["image"] = 3
    records[5]["image"] = [records[5]["image"], records[6]["image"]]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def named(root: Path, places: Sequence[int]) -> list[str]:
    """The pictures of these questions."""
    records = json.loads((root / "instructions/ArxivQA/test_1w.json").read_text())
    records += json.loads((root / "instructions/IconQA/val.json").read_text())[:3]
    return [records[place]["image"] for place in places]


class Cut(BaseException):
    """As a kill: nothing of ours sees it."""


@pytest.mark.usefixtures("cluster")
def test_an_actor_and_then_the_command_are_killed_and_the_bytes_are_those_of_this_process(
    folders: dict[str, Path], miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("fcit_ray.serving.answer_file.block_size", lambda count, size: 4)  # a batch: three blocks
    asked, out = questions(tmp_path, miniature), tmp_path / "answers.jsonl"
    trained, real, parts = ready(folders["disco"]), os.replace, []

    def kill(source: Any, target: Any) -> None:
        real(source, target)
        if "part-" in Path(target).name:
            parts.append(Path(target).name)
        if len(parts) == 1:
            ours = psutil.Process().children(recursive=True)
            [actor] = [process for process in ours if "MapWorker" in "".join(process.cmdline())]
            os.kill(actor.pid, signal.SIGKILL)
        if len(parts) == 2:
            raise Cut

    monkeypatch.setattr("os.replace", kill)
    with pytest.raises(Cut):
        predict(folders["disco"], asked, out, workers=1)
    monkeypatch.setattr("os.replace", real)
    assert len(set(parts)) == 2
    with pytest.raises(SystemExit) as exit:
        predict(folders["disco"], asked, out, workers=1, resume=True)
    assert exit.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        '7 of 9 questions answered; 2 failed: their lines say why under "error"'
    )
    here = [
        shown_line(line)
        for piece in open_input(asked).pieces(4)
        for line in answer_lines(encode_all(piece.read(), question_encoder(trained)), Answerer(trained), 4)
    ]
    assert out.read_text() == "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in here)
    assert [(line["index"], "error" in line) for line in here] == [(n, n in (2, 4)) for n in range(9)]
    assert "record 2 (id 'test-2'): image " in here[2]["error"]
    assert "'image' is 3; expected a path, a picture's bytes, or a list of these" in here[4]["error"]
    assert [type(line["image"]) for line in here[:2]] == [str, type(None)]
    assert here[5]["image"] == [str(miniature / "datasets" / name) for name in named(miniature, (5, 6))]
    own = (folders["disco"] / "predictions/stage_0001/IconQA.jsonl").read_text().splitlines()[:3]
    assert [line["prediction"] for line in here[6:]] == [json.loads(line)["prediction"] for line in own]


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_has_room_for_are_refused() -> None:
    check_places(3, gpu=False)  # of half a CPU each, and half a CPU to read with
    with pytest.raises(ConfigError, match=r"--workers 4: find no room at 0\.5 CPUs each, .* has 2 CPUs and 0 GPUs"):
        check_places(4, gpu=False)
    with pytest.raises(ConfigError, match=r"at 0\.5 CPUs and a GPU each"):
        check_places(1, gpu=True)


@pytest.mark.usefixtures("cluster")
def test_actors_with_gpus_are_planned_a_block_at_a_time(folders: dict[str, Path]) -> None:
    """Not executed: there is no GPU here. Ray Data takes no such plan without a number of rows."""
    trained = ready(folders["disco"])
    runtime = trained.config.runtime.model_copy(update={"gpu": True})
    on_gpus = replace(trained, config=trained.config.model_copy(update={"runtime": runtime}))
    handle = RayStore().put(trained)
    blocks = [Block(0, RecordsPiece(()), ""), Block(1, RecordsPiece(()), "")]
    assert "_Answer" in str(answering(on_gpus, handle, blocks, workers=1))


@pytest.mark.usefixtures("cluster")
def test_what_stops_an_actor_comes_back_in_its_own_words(folders: dict[str, Path], tmp_path: Path) -> None:
    """Raised, it would have the actor started anew."""
    trained = ready(folders["disco"])
    lost = trained.config.model_copy(update={"model": trained.config.model.model_copy(update={"path": str(tmp_path)})})
    handle = RayStore().put(Trained(lost, trained.state, trained.source))
    encoded = _Encode(question_encoder(trained))(
        pa.Table.from_pylist([{"block": 7, "view": "", "piece": piece_to_json(RecordsPiece(()))}])
    )
    [row] = _Answer(handle, 4)(encoded).to_pylist()
    assert row["block"] == 7
    with pytest.raises(ModelError, match=str(tmp_path)):
        _raise(row["failure"])
    [row] = _Encode(question_encoder(trained))(
        pa.Table.from_pylist([{"block": 8, "view": "", "piece": "{}"}])
    ).to_pylist()
    with pytest.raises(RunFailed, match="answering: "):  # a mistake of ours, with its traceback for the log
        _raise(row["failure"])
