"""A run folder never loses a run by accident, and a resumed run leaves the same files as an uninterrupted one."""

import errno
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folders import begin, make_config, make_state, resume, start

from fcit_ray.errors import CheckpointError, RunFolderError
from fcit_ray.results.cover import config_sha256
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.storage import durable


def test_a_new_folder_tells_what_was_run_and_with_what(tmp_path: Path) -> None:
    folder = start(tmp_path / "deep" / "run", seed=3)
    assert folder.config() == make_config(seed=3)
    environment = json.loads((folder.path / "environment.json").read_text())
    (session,) = environment["sessions"]
    assert session["seed"] == 3
    assert {"ray", "torch", "transformers", "peft", "fcit_ray"} == session["versions"].keys()
    assert session["versions"]["torch"]
    assert {"python", "platform", "argv", "git_commit"} <= session.keys()
    assert folder.log_file == folder.path / "logs" / "ray.log"
    assert folder.log_file.parent.is_dir()
    assert not folder.finished


def test_a_run_is_neither_continued_nor_deleted_without_a_flag(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"unfinished run; give --resume to .*--overwrite .*--out"):
        start(folder.path)
    folder.write_results({"last": 1.0})
    with pytest.raises(RunFolderError, match=r"a finished run; give --overwrite") as caught:
        start(folder.path)
    assert "--resume" not in str(caught.value)
    with pytest.raises(RunFolderError, match="one of them"):
        open_run(folder.path, make_config(), resume=True, overwrite=True)


def test_overwrite_begins_anew(tmp_path: Path) -> None:
    folder = start(tmp_path / "run", seed=1)
    folder.log({"kind": "round", "stage": 0, "round": 0})
    folder.save_checkpoint(make_state(0, 1), keep=1)
    folder.write_results({"last": 1.0})
    again = open_run(folder.path, make_config(seed=2), resume=False, overwrite=True)
    assert (again.records(), again.latest_checkpoint(), again.finished) == ([], None, False)
    assert again.config().seed == 2


@pytest.mark.parametrize("flag", ["resume", "overwrite", None])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, flag: str | None) -> None:
    """A configuration or an environment.json of another program does not make a folder ours to delete."""
    for name, text in [("config.yaml", "a: 1"), ("environment.json", '{"x": 1}'), ("environment.json", "[")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(RunFolderError, match="none that fcit_ray wrote; nothing is deleted"):
            open_run(tmp_path, make_config(), resume=flag == "resume", overwrite=flag == "overwrite")
        assert (tmp_path / name).read_text() == text
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunFolderError, match="is a file"):
        start(file)


def test_overwrite_killed_halfway_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path / "run")
    folder.write_results({})

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            open_run(folder.path, make_config(), resume=False, overwrite=True)
    assert not folder.finished, "a half-deleted run does not pass for a finished one"
    open_run(folder.path, make_config(), resume=False, overwrite=True)


def test_overwrite_does_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    folder = start(tmp_path / "run")
    (folder.path / "link").symlink_to(tmp_path / "precious")
    open_run(folder.path, make_config(), resume=False, overwrite=True)
    assert (tmp_path / "precious" / "thesis").exists()


def test_resume_of_nothing_simply_starts(tmp_path: Path) -> None:
    assert resume(tmp_path / "new").latest_checkpoint() is None
    (tmp_path / "empty").mkdir()
    assert resume(tmp_path / "empty").records() == []


@pytest.mark.parametrize("step", [1, 2])
def test_killed_while_starting_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """At the first rename there is but a partial file, at the second the mark without a configuration."""
    calls = iter(range(1, 10))
    rename = durable.rename

    def die(source: Path, target: Path) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run")
    assert resume(tmp_path / "run").config() == make_config()


def test_resume_lists_every_key_that_differs(tmp_path: Path) -> None:
    begin(tmp_path / "run", seed=1, method={"name": "ewc", "weight": 2.0})
    with pytest.raises(RunFolderError) as caught:
        resume(tmp_path / "run", seed=2, method={"name": "lwf"}, train={"lr": 0.5})
    lines = str(caught.value).splitlines()
    assert [line.strip() for line in lines if line.startswith("  ")] == [
        "seed: 1 in the folder, 2 now",
        "method.name: 'ewc' in the folder, 'lwf' now",
        "method.weight: 2.0 in the folder, absent now",
        "train.lr: 0.0002 in the folder, 0.5 now",
    ]
    assert "runtime.*" in lines[-1]


def test_the_place_of_a_run_may_change_but_not_its_arithmetic(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    resume(tmp_path / "run", runtime={"num_workers": 7, "keep_checkpoints": 9})
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["sessions"]) == 2
    with pytest.raises(RunFolderError, match=r"runtime.gpu: False in the folder, True now"):
        resume(tmp_path / "run", runtime={"gpu": True})


def test_who_else_is_told_of_a_run_may_change_and_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    untold = begin(tmp_path / "run")
    resume(tmp_path / "run", tracking={"report_to": ["tensorboard"], "project": "study"})
    told = start(tmp_path / "other", tracking={"report_to": ["wandb"]})
    assert config_sha256(told.config_file) == config_sha256(untold.config_file)
    older = yaml.safe_load(untold.config_file.read_text())
    del older["tracking"]  # as a release without trackers wrote it
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(older))
    assert config_sha256(tmp_path / "older.yaml") == config_sha256(untold.config_file)


def test_a_configuration_of_another_release_is_named(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    values = yaml.safe_load((folder.path / "config.yaml").read_text())
    (folder.path / "config.yaml").write_text(yaml.safe_dump({**values, "sead": 1}))
    with pytest.raises(RunFolderError, match="sead: unknown key"):
        resume(folder.path)


def test_records_come_back_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    folder.log({"kind": "round", "stage": 0, "round": 0, "loss": math.nan, "text": "a\u2028b\n"})
    folder.log({"kind": "evaluation", "stage": 0, "scores": {"a": math.inf, "b": 0.1}})
    assert folder.records() == [
        {"kind": "round", "stage": 0, "round": 0, "loss": None, "text": "a\u2028b\n"},
        {"kind": "evaluation", "stage": 0, "scores": {"a": None, "b": 0.1}},
    ]


def stream() -> list[dict[str, Any]]:
    """Zero-shot, then two stages of two rounds, each with its evaluation."""
    records: list[dict[str, Any]] = [{"kind": "evaluation", "stage": -1, "scores": {}}]
    for stage in range(2):
        records += [{"kind": "round", "stage": stage, "round": round, "loss": 0.1} for round in range(2)]
        records += [{"kind": "evaluation", "stage": stage, "scores": {}}]
    return records


@pytest.mark.parametrize(
    ("position", "kept"),
    [
        ((0, 0), 1),  # the zero-shot evaluation
        ((0, 1), 2),
        ((1, 0), 4),  # both rounds of stage 0 and its evaluation
        ((1, 1), 5),
        ((2, 0), 7),
    ],
)
def test_rewind_keeps_what_lies_before_the_position(tmp_path: Path, position: tuple[int, int], kept: int) -> None:
    folder = start(tmp_path / "run")
    for record in stream():
        folder.log(record)
    folder.rewind(*position)
    assert folder.records() == stream()[:kept]


def test_rewind_before_the_evaluation_was_written_invents_none(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    for record in stream()[:3]:
        folder.log(record)
    folder.rewind(1, 0)
    assert folder.records() == stream()[:3]


@pytest.mark.parametrize(("position", "kept"), [((1, 1), 3), ((1, 0), 2), ((0, 1), 1)])
def test_an_evaluation_that_was_written_after_rounds_of_the_next_stage_lies_before_them(
    tmp_path: Path, position: tuple[int, int], kept: int
) -> None:
    folder = start(tmp_path / "run")
    first, evaluation, second, third = (
        {"kind": "round", "stage": 0, "round": 0},
        {"kind": "evaluation", "stage": 0, "scores": {}},
        {"kind": "round", "stage": 1, "round": 0},
        {"kind": "round", "stage": 1, "round": 1},
    )
    for record in (first, second, evaluation, third):
        folder.log(record)
    assert folder.records() == [first, evaluation, second, third]
    folder.rewind(*position)
    assert folder.records() == [first, evaluation, second][:kept]


def test_a_resumed_run_leaves_the_same_metrics_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed within, before and after each line, and resumed from the checkpoint that then was the newest."""
    folder = start(tmp_path / "run")
    for record in stream():
        folder.log(record)
    metrics = folder.path / "metrics.jsonl"
    whole = metrics.read_bytes()
    ends = {place + 1 for place, byte in enumerate(whole) if byte == ord("\n")}
    for length in sorted({*range(0, len(whole), 11), *ends, *(end - 1 for end in ends)}):
        metrics.write_bytes(whole[:length])
        closed = sum(record["kind"] == "round" for record in folder.records())
        # A round is logged before its checkpoint: the newest checkpoint may be that of the round before.
        for known in {closed, max(0, closed - 1)}:
            metrics.write_bytes(whole[:length])
            folder.rewind(*divmod(known, 2))
            # What a driver does from there: whatever the uninterrupted run had logged and this file lacks, in order.
            for record in stream()[len(folder.records()) :]:
                folder.log(record)
            assert metrics.read_bytes() == whole, length


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    folder.log({"kind": "round", "stage": 0, "round": 0})
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write('{"kind": "é'.encode()[:-1])
    assert len(folder.records()) == 1
    folder.rewind(5, 0)
    assert (folder.path / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    (folder.path / "metrics.jsonl").write_text('{"a": 1}\n{"b"\n{"c": 1}\n')
    with pytest.raises(RunFolderError, match="line 2"):
        folder.records()


def test_rewind_killed_halfway_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path / "run")
    for record in stream():
        folder.log(record)

    def die(*_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            folder.rewind(0, 1)
    assert folder.records() == stream()


def test_only_the_last_checkpoints_are_kept_by_number_not_by_text(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    for stage, round in [(0, 1), (0, 2), (3, 0), (9999, 0), (10000, 1)]:
        folder.save_checkpoint(make_state(stage, round), keep=2)
    names = [child.name for child in folder.checkpoints()]
    assert names == ["stage_9999_round_0000", "stage_10000_round_0001"]
    assert sorted([*names, "objects"]) == sorted(child.name for child in folder.checkpoint_folder.iterdir())
    state = folder.latest_checkpoint()
    assert state is not None
    assert (state.stage, state.round, state.params["w"].tolist()) == (10000, 1, [100001.0, 100001.0])
    folder.save_checkpoint(make_state(3, 2), keep=9)
    assert folder.checkpoints()[0].name == "stage_0003_round_0002"


def test_a_damaged_newest_checkpoint_stops_the_resume_and_says_what_to_delete(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    folder.save_checkpoint(make_state(0, 1), keep=2)
    folder.save_checkpoint(make_state(0, 2), keep=2)
    first, second = folder.checkpoints()
    told = f"Delete the folder {second} and the run resumes from {first.name}"
    for checkpoint, remedy in [(second, told), (first, "There is none before it: --overwrite starts the run anew")]:
        (checkpoint / "state.json").write_text("{}")
        with pytest.raises(CheckpointError) as caught:
            folder.latest_checkpoint()
        assert remedy in str(caught.value)
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    assert folder.latest_checkpoint() is None


def test_a_save_that_was_killed_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path / "run")
    folder.save_checkpoint(make_state(0, 1), keep=2)

    def die(*_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            folder.save_checkpoint(make_state(0, 2), keep=1)
    assert [child.name for child in folder.checkpoints()] == ["stage_0000_round_0001"], "nor is the old one pruned yet"
    state = folder.latest_checkpoint()
    assert state is not None
    assert state.round == 1


def test_pruning_that_was_killed_is_finished_by_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every kill could leave a checkpoint's bytes behind for good."""
    folder = start(tmp_path / "run")
    folder.save_checkpoint(make_state(0, 1), keep=1)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            folder.save_checkpoint(make_state(0, 2), keep=1)
    state = folder.latest_checkpoint()
    assert state is not None
    assert state.round == 2
    folder.save_checkpoint(make_state(1, 0), keep=1)
    assert {child.name for child in folder.checkpoint_folder.iterdir()} == {"stage_0001_round_0000", "objects"}


def test_predictions_and_results_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path / "run")

    def die(*_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            folder.write_results({"last": 1.0})
        with pytest.raises(KeyboardInterrupt):
            folder.write_predictions("final", "ArxivQA", [{"a": 1}])
    assert not folder.finished
    with pytest.raises(RunFolderError, match=r"not finished, --resume"):
        folder.results()
    assert not list((folder.path / "predictions" / "final").glob("*.jsonl"))
    path = folder.write_predictions("final", "ArxivQA", [{"answer": "é"}, {"gate": (0.5, math.nan)}])
    assert path == folder.path / "predictions" / "final" / "ArxivQA.jsonl"
    assert path.read_text() == '{"answer": "é"}\n{"gate": [0.5, null]}\n'
    folder.write_results({"last": math.nan})
    assert folder.finished
    assert folder.results() == {"last": None}


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_predictions_stay_inside_the_run_folder(tmp_path: Path, name: str) -> None:
    folder = start(tmp_path / "run")
    for label, dataset in [(name, "d"), ("l", name)]:
        with pytest.raises(RunFolderError, match="file names"):
            folder.write_predictions(label, dataset, [])


def test_a_run_folder_travels_to_another_process(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    assert pickle.loads(pickle.dumps(folder)) == folder


def test_a_record_is_on_the_disk_when_log_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path / "run")
    synced: list[bytes] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((folder.path / "metrics.jsonl").read_bytes())

    monkeypatch.setattr(os, "fsync", watch)
    folder.log({"a": 1})
    assert synced == [b'{"a": 1}\n']


# A run that never got to a record


@pytest.mark.parametrize("resumed", [True, False])
def test_a_run_that_could_not_start_is_no_unfinished_run(tmp_path: Path, resumed: bool) -> None:
    """Ray could not be started, say: what was written until then stands in nobody's way."""
    folder = start(tmp_path / "run", seed=1)
    folder.log_file.write_text("no such cluster")
    (folder.path / "predictions/stage_0000").mkdir()
    again = open_run(folder.path, make_config(seed=2), resume=resumed, overwrite=False)
    assert again.config().seed == 2
    assert list((folder.path / "predictions").iterdir()) == []
    assert folder.log_file.read_text() == "no such cluster"


# Places that cannot be used


def dangle(path: Path) -> Path:
    path.symlink_to(path.with_name("gone"))
    return path


def below_a_file(path: Path) -> Path:
    path.touch()
    return path / "run"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (below_a_file, "a part of the path is a file"),
        (dangle, "is a link to .*gone, which is not there"),
        (lambda path: dangle(path) / "run", "is a link to .*gone, which is not there"),
        (lambda path: path / ("n" * 300), "longer than the file system takes"),
        (lambda path: path.joinpath(*["n" * 200] * 25), "longer than the file system takes"),
    ],
)
def test_a_place_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, place: Callable[[Path], Path], reason: str
) -> None:
    path = place(tmp_path / "place")
    with pytest.raises(RunFolderError, match=reason) as caught:
        start(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "--out" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EACCES, "no permission"), (errno.EPERM, "no permission"), (errno.EROFS, "read-only")]
)
def test_a_place_where_nothing_may_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    """Root may write anywhere, so the refusal is the test's."""

    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunFolderError, match=reason):
        start(tmp_path / "run")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.log({"kind": "round"}),
        lambda folder: folder.save_checkpoint(make_state(0, 2), keep=2),
        lambda folder: folder.cover_records(),
        lambda folder: folder.rewind(0, 0),
        lambda folder: folder.write_predictions("zero_shot", "ArxivQA", []),
        lambda folder: folder.write_partition({}),
        lambda folder: folder.write_results({}),
    ],
    ids=["log", "checkpoint", "cover", "rewind", "predictions", "partition", "results"],
)
def test_a_full_disk_is_told_with_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[RunFolder], Any], number: int
) -> None:
    folder = begin(tmp_path / "run")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))  # without a name, as where a descriptor is written to

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError) as caught:
            write(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder.path}: the disk ")
    assert "the finished rounds are kept" in message
    assert "--resume" in message
    assert resume(folder.path).latest_checkpoint() is not None
