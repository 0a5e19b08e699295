"""A run goes on only with all that its figures are made of; what was lost is named, or written anew."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import begin, make_state, resume, start

from fcit_ray.errors import RunFolderError
from fcit_ray.results.run_folder import RunFolder


def two_stages(path: Path) -> RunFolder:
    """Killed after the evaluation of stage 1, with a checkpoint before every round but the first."""
    folder = start(path)
    folder.write_partition({"counts": [3, 4]})
    for stage in range(2):
        for round in range(2):
            folder.log({"kind": "round", "stage": stage, "round": round, "seconds": {"train": 1.5}})
            folder.save_checkpoint(make_state(stage + round, (round + 1) % 2), keep=9)
        folder.log({"kind": "evaluation", "stage": stage, "scores": {"a": 50.0}, "datasets": {"ArxivQA": {}}})
        folder.cover_records()
        folder.write_predictions(f"stage_{stage:04d}", "ArxivQA", [])
    return folder


def cut(metrics: Path) -> None:
    metrics.write_bytes(metrics.read_bytes()[:-5])


def edit(metrics: Path) -> None:
    metrics.write_text(metrics.read_text().replace("50.0", "99.9"))


LOST = {"missing": Path.unlink, "cut: holds": cut, "edited: its first": edit}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("told", LOST)
def test_records_that_were_lost_or_edited_stop_the_resume(tmp_path: Path, told: str, finished: bool) -> None:
    folder = two_stages(tmp_path / "run")
    if finished:
        folder.write_results({"last": 50.0})
    LOST[told](folder.metrics_file)
    with pytest.raises(RunFolderError) as caught:
        resume(folder.path)
    message = str(caught.value)
    assert message.startswith(f"{folder.metrics_file}: {told}")
    for part in ("copy it back", "--overwrite", "results.json" if finished else "stage_0002_round_0000"):
        assert part in message


def test_records_that_lost_their_end_are_good_for_an_earlier_checkpoint(tmp_path: Path) -> None:
    folder = two_stages(tmp_path / "run")
    records = folder.records()
    folder.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records[:4]))
    newest = folder.checkpoints()[-1]
    with pytest.raises(RunFolderError) as caught:
        resume(folder.path)
    assert f"or delete {newest} to resume from stage_0001_round_0001" in str(caught.value)
    shutil.rmtree(newest)
    assert resume(folder.path).records() == records[:4]


def test_an_evaluation_logged_right_before_a_kill_is_no_edit(tmp_path: Path) -> None:
    """Its checkpoint is older than it and has not been told of it yet."""
    folder = begin(tmp_path / "run")
    folder.log({"kind": "evaluation", "stage": 0, "scores": {}})
    assert len(resume(folder.path).records()) == 2


def test_an_edited_configuration_is_named_but_not_its_layout(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    text = folder.config_file.read_text()
    folder.config_file.write_text("# mine\n" + text.replace("num_workers: 2", "num_workers: 4"))
    resume(folder.path)
    folder.config_file.write_text(text.replace("lr: 0.0002", "lr: 0.0003"))
    for values in ({}, {"train": {"lr": 3e-4}}):  # also where what is given now agrees with the edit
        with pytest.raises(RunFolderError, match=r"config\.yaml: edited since stage_0000_round_0001 was written"):
            resume(folder.path, **values)


def test_a_lost_configuration_is_written_anew_where_the_one_given_is_the_run_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = begin(tmp_path / "run", train={"lr": 0.5})
    folder.config_file.unlink()
    with pytest.raises(
        RunFolderError, match=r"config\.yaml: missing, and .* is not the configuration that stage_0000_round"
    ):
        resume(folder.path, train={"lr": 0.25})
    assert not folder.config_file.exists()
    resume(folder.path, train={"lr": 0.5}, runtime={"num_workers": 7})
    assert folder.config().train.lr == 0.5
    assert "config.yaml: was missing, and is written anew" in caplog.text


@pytest.mark.parametrize("text", [None, "{", "[]", '{"x": 1}'])
def test_a_lost_environment_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None) -> None:
    """Whole runs could not be resumed for want of it, though nothing is computed from it."""
    folder = two_stages(tmp_path / "run")
    if text is None:
        folder.environment_file.unlink()
    else:
        folder.environment_file.write_text(text)
    resume(folder.path)
    assert len(json.loads(folder.environment_file.read_text())["sessions"]) == 1
    assert "was missing or damaged" in caplog.text
    folder.environment_file.unlink()
    shutil.rmtree(folder.checkpoint_folder)
    folder.write_results({"last": 1.0})
    assert resume(folder.path).results() == {"last": 1.0}


def test_a_run_without_any_of_its_checkpoints_does_not_begin_anew_by_itself(tmp_path: Path) -> None:
    folder = two_stages(tmp_path / "run")
    shutil.rmtree(folder.checkpoint_folder)
    with pytest.raises(
        RunFolderError, match=r"checkpoints: holds no checkpoint, though metrics\.jsonl tells of 4 rounds"
    ):
        resume(folder.path)


def test_data_that_changed_since_the_run_began_stops_the_resume(tmp_path: Path) -> None:
    folder = two_stages(tmp_path / "run")
    folder.partition_file.unlink()
    resumed = resume(folder.path)
    with pytest.raises(RunFolderError, match=r"partition\.json: the clients would not hold the records"):
        resumed.write_partition({"counts": [2, 5]})
    resumed.write_partition({"counts": (3, 4)})  # what is lost of it is written anew
    assert json.loads(folder.partition_file.read_text()) == {"counts": [3, 4]}


def test_lost_predictions_are_told_and_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = two_stages(tmp_path / "run")
    shutil.rmtree(folder.path / "predictions/stage_0000")
    resume(folder.path)
    assert "predictions/stage_0000 of ArxivQA are missing; no figure is made of them" in caplog.text
    assert "stage_0001" not in caplog.text


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda text: text.replace("50.0", "99.9"), "edited since"), (lambda text: text[:-9], "not the JSON")],
)
def test_edited_or_damaged_results_are_no_figures(tmp_path: Path, change: Callable[[str], str], told: str) -> None:
    folder = start(tmp_path / "run")
    folder.write_results({"last": 50.0})
    folder.results_file.write_text(change(folder.results_file.read_text()))
    with pytest.raises(RunFolderError, match=rf"results\.json: {told} .*delete it: --resume"):
        folder.results()


def test_results_without_a_digest_are_taken_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As earlier releases wrote them."""
    folder = start(tmp_path / "run")
    folder.results_file.write_text('{"last": 50.0}')
    assert folder.results() == {"last": 50.0}
    assert "an edit would not show" in caplog.text
