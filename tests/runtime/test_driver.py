"""The driver with plain workers in threads, no Ray: a whole run, its folder, and resuming it anywhere."""

import errno
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Configure
from in_process import Lost, in_one_process, run

from fcit_ray.data.loading.shards import LocalShards
from fcit_ray.errors import RunFailed, RunFolderError
from fcit_ray.experiment.opening import open_experiment
from fcit_ray.federated.federation import simulate
from fcit_ray.federated.privacy import epsilon
from fcit_ray.params import params_sha256
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.data import sample_encoder
from fcit_ray.runtime.driver import Driver
from fcit_ray.runtime.messages import AnswerWork, DirectStore, TrainWork
from fcit_ray.runtime.status import Status, describe, figures_of
from fcit_ray.runtime.waiting import WaitingRoom
from fcit_ray.runtime.worker import Worker
from fcit_ray.storage.trees import plain
from fcit_ray.types import ClientJob, ClientUpdate

TIMES = (
    "seconds",
    "compute_s",
    "starved_s",
    "workers",
    "answer_s",
    "questions_per_s",
    "tokens_per_s",
    "behind",
    "failures",
)


def timeless(value: Any) -> Any:
    """Records without their seconds and what was tried again, in which alone two runs of the same bits differ."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def predictions(path: Path) -> dict[str, str]:
    return {str(f.relative_to(path)): f.read_text() for f in sorted(path.glob("predictions/**/*.jsonl"))}


@pytest.fixture(scope="module")
def whole(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run(configure(), path)
    return path


def test_a_run_leaves_all_its_records(whole: Path) -> None:
    folder = RunFolder(whole)
    assert folder.finished
    kinds = [(record["kind"], record["stage"], record.get("round")) for record in folder.records()]
    assert kinds == [
        ("round", 0, 0), ("round", 0, 1), ("evaluation", 0, None),
        ("round", 1, 0), ("round", 1, 1), ("evaluation", 1, None),
    ]  # fmt: skip
    names = [path.name for path in folder.checkpoints()]
    assert names == ["stage_0000_round_0001", "stage_0001_round_0000", "stage_0001_round_0001", "stage_0002_round_0000"]
    assert list(predictions(whole)) == [
        "predictions/stage_0000/ArxivQA.jsonl",
        "predictions/stage_0001/ArxivQA.jsonl",
        "predictions/stage_0001/IconQA.jsonl",
    ]
    rows = [json.loads(line) for line in (whole / "predictions/stage_0001/IconQA.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(row.keys() == {"question_id", "prediction", "answer", "score", "gate"} for row in rows)
    first = folder.records()[0]
    assert len(first["clients"]) == 2
    assert first["bytes_down"] > first["bytes_up"] / 2 > 0
    assert "epsilon" not in first  # only where privacy is counted


def test_the_driver_gives_the_bits_of_the_reference_loop(configure: Configure, whole: Path) -> None:
    assert in_one_process(configure()) == RunFolder(whole).results()["adapters_sha256"]


@pytest.mark.parametrize("name", ["l2p", "modal_prompt"])
def test_a_method_of_prompts_alone_runs_to_its_end(configure: Configure, tmp_path: Path, name: str) -> None:
    # Nothing of LoRA is trained, sent or kept, and the answers come from behind the prompts.
    run(configure(method={"name": name}), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert len(predictions(folder.path)) == 3
    state = folder.latest_checkpoint()
    assert state is not None
    assert not [parameter for parameter in state.params if "lora_" in parameter]
    assert all(record["global_delta_norm"] > 0 for record in folder.records() if record["kind"] == "round")


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_a_run_resumed_from_any_checkpoint_gives_the_same_bits(
    configure: Configure, whole: Path, tmp_path: Path, kept: int
) -> None:
    """As killed right after its n-th checkpoint, or (records beyond it are there too) long after."""
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "results.json").unlink()
    for late in RunFolder(path).checkpoints()[kept:]:
        shutil.rmtree(late)
    results = run(configure(), path, resume=True)
    assert results["adapters_sha256"] == RunFolder(whole).results()["adapters_sha256"]
    assert timeless(RunFolder(path).records()) == timeless(RunFolder(whole).records())
    assert predictions(path) == predictions(whole)


@pytest.mark.parametrize(
    "parts",
    [{"local": {"name": "scaffold"}}, {"lora": {"name": "fedsa"}}, {"robust": {"name": "median"}}],
    ids=["scaffold", "fedsa", "median"],
)
def test_where_updates_wait_and_memories_lie_changes_no_bit(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]
) -> None:
    """The reference loop keeps all in memory; here all that waits goes through the file, and the run is resumed."""
    config = configure(**parts)
    experiment = open_experiment(config)
    shards = LocalShards(experiment.stream, experiment.tests, sample_encoder(experiment))
    worker = Worker(config, DirectStore())

    def train(job: ClientJob) -> ClientUpdate:
        shard = shards.train_shard(job.client.task, job.client.index)
        work = replace(job, params={}, knowledge={}, local={})
        return worker.train(TrainWork(work, [job.params], job.knowledge, shard, job.local))

    expected = simulate(experiment.federation(shards.feature), worker.initial_params(), train, worker.frozen)
    monkeypatch.setattr("fcit_ray.runtime.driver.WaitingRoom", partial(WaitingRoom, stays=0))
    path = tmp_path / "run"
    run(config, path)
    (path / "results.json").unlink()
    for late in RunFolder(path).checkpoints()[2:]:
        shutil.rmtree(late)
    run(config, path, resume=True)
    found = RunFolder(path).latest_checkpoint()
    assert found is not None
    assert params_sha256(found.params) == params_sha256(expected.params)
    for part in ("local", "memories"):
        ours, theirs = (plain(getattr(state, part)) for state in (found, expected))
        assert bool(theirs) == ("robust" not in parts and (part == "memories" or "local" in parts))
        assert flat(ours).keys() == flat(theirs).keys()
        assert params_sha256(flat(ours)) == params_sha256(flat(theirs))


def test_a_disk_too_full_for_updates_to_wait_ends_the_run_with_what_to_do(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fcit_ray.runtime.driver.WaitingRoom", partial(WaitingRoom, stays=0))
    monkeypatch.setattr("fcit_ray.runtime.waiting.lay_out", full)
    with pytest.raises(
        RunFailed, match=r"run: the disk is full; the finished rounds are kept: make room, and --resume"
    ):
        run(configure(robust={"name": "median"}), tmp_path / "run")


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {name: value for key in tree for name, value in flat(tree[key], f"{path}/{key}").items()}
    return {path: tree}


def test_a_worker_lost_with_work_in_hand_changes_nothing(configure: Configure, whole: Path, tmp_path: Path) -> None:
    lost: list[Any] = []

    def perform(worker: Worker, work: Any) -> Any:
        if isinstance(work, TrainWork) and not lost:
            lost.append(work)
            raise Lost
        return worker.perform(work)

    # Two threads would share torch's generator, but of these two workers one soon is gone.
    config = configure(runtime={"lease_s": 2.0}, failures={"retries": 20})
    results = run(config, tmp_path / "run", workers=2, perform=perform)
    assert lost
    assert results["adapters_sha256"] == RunFolder(whole).results()["adapters_sha256"]


def test_a_worker_s_error_ends_the_run_and_leaves_it_resumable(
    configure: Configure, whole: Path, tmp_path: Path
) -> None:
    def perform(worker: Worker, work: Any) -> Any:
        if isinstance(work, TrainWork) and work.job.stage == 1:
            raise ValueError("a mistake in a method")
        return worker.perform(work)

    with pytest.raises(RunFailed, match="a mistake in a method"):
        run(configure(), tmp_path / "run", perform=perform)
    assert not RunFolder(tmp_path / "run").finished
    results = run(configure(), tmp_path / "run", resume=True)
    assert results["adapters_sha256"] == RunFolder(whole).results()["adapters_sha256"]


def test_an_update_that_is_no_number_stops_the_run_by_name_and_is_in_no_checkpoint(
    configure: Configure, whole: Path, tmp_path: Path
) -> None:
    def perform(worker: Worker, work: Any) -> Any:
        result = worker.perform(work)
        if isinstance(work, TrainWork) and work.job.key[:2] == (1, 0):
            next(iter(result.delta.values())).view(-1)[7] = float("nan")
        return result

    with pytest.raises(
        RunFailed, match=r"stage 1, round 0, client \d .*refused: delta, .*: 1 of \d+ numbers not finite"
    ):
        run(configure(), tmp_path / "run", perform=perform)
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoints()[-1].name == "stage_0001_round_0000"  # the last one before it
    assert kinds(folder.path) == [("round", 0), ("round", 0)]  # the evaluation was under way
    results = run(configure(), tmp_path / "run", resume=True)
    assert results["adapters_sha256"] == RunFolder(whole).results()["adapters_sha256"]


class Spoils:
    """A worker in which some clients fail: those of `always` at every attempt, those of `once` at the first."""

    def __init__(self, always: Sequence[int] = (), once: Sequence[int] = ()):
        self.always, self.once = set(always), set(once)

    def __call__(self, worker: Worker, work: Any) -> Any:
        result = worker.perform(work)
        if isinstance(work, TrainWork) and (client := work.job.client.index) in self.always | self.once:
            self.once.discard(client)
            if client % 2:
                raise OSError("the line broke")
            result.delta["model.nonsense"] = next(iter(result.delta.values()))
        return result


def test_clients_that_fail_once_change_nothing_but_the_record(
    configure: Configure, whole: Path, tmp_path: Path
) -> None:
    results = run(configure(), tmp_path / "run", perform=Spoils(once=(0, 1)))
    assert results["adapters_sha256"] == RunFolder(whole).results()["adapters_sha256"]
    records = RunFolder(tmp_path / "run").records()
    failed = [failure for record in records for failure in record.get("failures", [])]
    assert sorted(failure["client"] for failure in failed) == [0, 1]
    reasons = {f["client"]: [attempt["reason"] for attempt in f["attempts"]] for f in failed}
    assert [len(reasons[client]) for client in (0, 1)] == [1, 1]
    assert reasons[0][0].startswith("the client's update is refused: delta holds model.nonsense, which")
    assert reasons[1][0].endswith("OSError: the line broke")
    assert timeless(records) == timeless(RunFolder(whole).records())
    assert results["failures"] == {"updates": 8, "missing": 0, "retried": 2}
    assert "failures" not in RunFolder(whole).results()


def test_a_round_goes_on_without_a_client_and_goes_on_so_after_a_resume(configure: Configure, tmp_path: Path) -> None:
    config = configure(benchmark={"clients_per_round": 3}, failures={"then": "drop", "retries": 1})
    path, told = tmp_path / "run", []

    def watch(driver: Driver) -> None:
        told.extend(line.text for line in driver.status().lines)

    results = run(config, path, perform=Spoils(always=(1,)), watch=watch)
    rounds = [record for record in RunFolder(path).records() if record["kind"] == "round"]
    for record in rounds:
        assert sorted(client["client"] for client in record["clients"]) == [0, 2]
        [failed] = record["failures"]
        assert (failed["client"], failed["dropped"], len(failed["attempts"])) == (1, True, 2)
    assert results["failures"] == {"updates": 12, "missing": 4, "retried": 0}
    assert any(
        re.search(r"stage 0, round 0, client 1 .*the line broke; worker 0; it is tried again \(1 of 1\)", line)
        for line in told
    )
    assert any(
        re.search(r"line broke \(tried 2 times: by worker 0, worker 0\); the round goes on without it", line)
        for line in told
    )
    # What was finished stays as it was, though the client would come now.
    (path / "results.json").unlink()
    for late in RunFolder(path).checkpoints()[1:]:
        shutil.rmtree(late)
    run(config, path, resume=True)
    again = [record for record in RunFolder(path).records() if record["kind"] == "round"]
    assert again[0] == rounds[0]
    assert [len(record["clients"]) for record in again] == [2, 3, 3, 3]


def test_too_many_missing_end_the_run_at_once_and_it_resumes_at_that_round(
    configure: Configure, whole: Path, tmp_path: Path
) -> None:
    config = configure(failures={"then": "drop", "retries": 0, "quorum": 0.6})
    with pytest.raises(
        RunFailed,
        match=r"stage 0, round 0 .*: 1 of 2 updates are missing, and failures.quorum=0.6 wants 2: client \d \(.*\); "
        r"--resume trains the round again",
    ):
        run(config, tmp_path / "run", perform=Spoils(always=(0, 1, 2)))
    assert kinds(tmp_path / "run") == []
    results = run(config, tmp_path / "run", resume=True)
    assert results["adapters_sha256"] == RunFolder(whole).results()["adapters_sha256"]


def kinds(path: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["stage"]) for record in RunFolder(path).records()]


def test_evaluation_at_the_end_alone(configure: Configure, whole: Path, tmp_path: Path) -> None:
    results = run(configure(evaluation={"every_stage": False}, benchmark={"num_rounds": 1}), tmp_path / "run")
    assert kinds(tmp_path / "run") == [("round", 0), ("round", 1), ("evaluation", 1)]
    assert results["adapters_sha256"] != RunFolder(whole).results()["adapters_sha256"]  # one round, not two


def test_zero_shot_evaluates_and_trains_nothing(configure: Configure, tmp_path: Path) -> None:
    done: list[type] = []

    def perform(worker: Worker, work: Any) -> Any:
        done.append(type(work))
        return worker.perform(work)

    run(configure(regime="zero_shot", method={"name": "finetune"}), tmp_path / "run", perform=perform)
    assert kinds(tmp_path / "run") == [("evaluation", -1)]
    assert set(done) == {AnswerWork}
    assert list(predictions(tmp_path / "run")) == [
        "predictions/zero_shot/ArxivQA.jsonl",
        "predictions/zero_shot/IconQA.jsonl",
    ]


def test_centralised_is_one_client_with_all_the_data(configure: Configure, tmp_path: Path) -> None:
    config = configure(regime="centralised", method={"name": "finetune"}, benchmark={"num_rounds": 1})
    run(config, tmp_path / "run")
    assert kinds(tmp_path / "run") == [("round", 0), ("evaluation", 0)]
    [client] = RunFolder(tmp_path / "run").records()[0]["clients"]
    assert client["num_examples"] == 48
    assert client["steps"] == 12  # ceil(1 epoch * 1 round * 2 of 3 clients) = 1 pass, batches of 4


@pytest.mark.parametrize("step", [1, 11])
def test_a_centralised_run_goes_on_within_its_one_round(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Killed after a step of twelve: before the first checkpoint there is."""
    config = configure(
        regime="centralised", method={"name": "finetune"}, benchmark={"num_rounds": 1}, runtime={"save_update_s": 0.0},
        failures={"retries": 0},
    )  # fmt: skip
    whole = run(config, tmp_path / "whole")
    assert not RunFolder(tmp_path / "whole").updates(), "what a checkpoint holds is not kept twice"
    path = tmp_path / "run"
    keep = RunFolder.keep_update

    def keep_and_die(folder: RunFolder, client: int, state: Any) -> None:
        keep(folder, client, state)
        if len(state.knowledge["losses"]) == step:
            raise KeyError("killed")  # within a worker: the run ends, the folder stays

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "keep_update", keep_and_die)
        with pytest.raises(RunFailed):
            run(config, path)
    with pytest.raises(RunFolderError, match="unfinished run; give --resume"):
        open_run(path, config, resume=False, overwrite=False)
    kept: list[int] = []

    def keep_and_count(folder: RunFolder, client: int, state: Any) -> None:
        kept.append(len(state.knowledge["losses"]))
        keep(folder, client, state)

    monkeypatch.setattr(RunFolder, "keep_update", keep_and_count)
    results = run(config, path, resume=True)
    assert kept == list(range(step + 1, 12)), "steps before it were not taken again, the last is not kept"
    assert results["adapters_sha256"] == whole["adapters_sha256"]
    assert timeless(RunFolder(path).records()) == timeless(RunFolder(tmp_path / "whole").records())


def test_every_stage_and_every_score_is_a_line(configure: Configure, tmp_path: Path) -> None:
    """Whoever asks four times a second must not miss what passes between."""
    config = configure(benchmark={"num_rounds": 1, "transfer": ["DVQA"]}, runtime={"answer_behind": False})
    drivers: list[Driver] = []
    run(config, tmp_path / "run", watch=drivers.append)
    driver, folder = drivers[-1], RunFolder(tmp_path / "run")
    lines = [line.text for line in driver.status().lines]
    assert [re.split(r"  (loss|[\d.]+ \w+ left)", line)[0] for line in lines if "  scores " not in line] == [
        "small  preparing",
        "small  training  stage 1/2  ArxivQA  round 1/1",
        "small  evaluating  stage 1/2",
        "small  training  stage 2/2  IconQA  round 1/1",
        "small  evaluating  stage 2/2",
        "small  done",
    ]
    scores = folder.records()[-1]["scores"]
    mean = sum(scores.values()) / 2
    [first, second] = [line for line in driver.status().lines if line.lasting]
    assert first.text.startswith("small  scores after stage 1/2: ArxivQA ")
    assert second.text == (
        f"small  scores after stage 2/2: ArxivQA {scores['ArxivQA']:.1f}, IconQA {scores['IconQA']:.1f}; "
        f"mean {mean:.1f}; unseen: DVQA {folder.records()[-1]['transfer']['DVQA']:.1f}"
    )


def never(*_: Any) -> bool:
    return False


@pytest.mark.parametrize(("place", "behind"), [((1, 1), True), ((2, 0), True), ((1, 1), False)])
def test_a_run_killed_before_an_evaluation_was_on_record_answers_it_from_the_state_after_its_stage(
    configure: Configure, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, behind: bool
) -> None:
    """In the middle of the next stage, and after its last round, where the evaluations of two stages are missing."""
    path, config = tmp_path / "run", configure(runtime={"keep_checkpoints": 1})
    save = RunFolder.save_checkpoint

    def save_and_die(folder: RunFolder, state: Any, *rest: Any) -> Any:
        saved = save(folder, state, *rest)
        if (state.stage, state.round) == place:
            raise KeyError("killed")
        return saved

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", save_and_die)
        patch.setattr("fcit_ray.runtime.evaluating.Evaluation.is_ready", never)  # as slow as it may be
        with pytest.raises(KeyError, match="killed"):
            run(config, path)
    folder = RunFolder(path)
    assert [kind for kind, _ in kinds(path)] == ["round"] * (2 * place[0] + place[1])
    held = folder.checkpoint_at(1, 0)
    assert folder.checkpoints() == [held, folder.checkpoint_at(*place)]
    aside = held.rename(tmp_path / "aside")
    with pytest.raises(RunFolderError, match=r"stage 0 \(counted .*, and stage_0001_round_0000, .* is missing"):
        open_run(path, config, resume=True, overwrite=False)
    shutil.copytree(aside, held)
    again = configure(runtime={"keep_checkpoints": 1, "answer_behind": behind})
    results = run(again, path, resume=True)
    assert results["adapters_sha256"] == RunFolder(whole).results()["adapters_sha256"]
    assert timeless(folder.records()) == timeless(RunFolder(whole).records())
    assert predictions(path) == predictions(whole)
    assert folder.checkpoints() == [folder.checkpoint_at(2, 0)], "nothing is to be made of the other any more"


def test_questions_are_answered_behind_the_next_rounds_and_it_is_told(configure: Configure, tmp_path: Path) -> None:
    """An idle worker answers; rounds go first; and what was answered last does not stand last."""
    seen: list[Status] = []
    works: list[str] = []
    drivers: list[Driver] = []

    def perform(worker: Worker, work: Any) -> Any:
        stage = work.job.stage if isinstance(work, TrainWork) else work.stage
        works.append(f"{'train' if isinstance(work, TrainWork) else 'answer'} {stage}")
        return worker.perform(work)

    def look(driver: Driver) -> None:
        drivers.append(driver)
        seen.append(driver.status())

    config = configure(evaluation={"batch_size": 1})
    run(config, tmp_path / "run", perform=perform, watch=look)
    assert works.index("train 1") < len(works) - 1 - works[::-1].index("answer 0"), "the next stage did not wait"
    [line] = [line.text for line in drivers[-1].status().lines if "behind" in line.text]
    assert line == "small  answering stage 1/2 behind the next rounds: 6 records"
    behind = [status for status in seen if status.answering == 0 and status.phase == "training"]
    assert {status.answered[1] for status in behind} == {6}
    assert {status.total for status in behind} <= {0, 2}, "clients are counted apart from questions"
    assert f"answering stage 1: {behind[-1].answered[0]}/6" in figures_of(behind[-1])
    first, last = (record for record in RunFolder(tmp_path / "run").records() if record["kind"] == "evaluation")
    assert (first["stage"], first["behind"], last["stage"], last["behind"]) == (0, True, 1, False)
    for record, answers in ((first, 6), (last, 12)):
        assert record["padding_frac"] == 0.0  # one at a time
        assert answers <= record["answer_tokens"] <= 4 * answers
        assert record["questions_per_s"] == pytest.approx(answers / record["answer_s"])
        assert record["tokens_per_s"] == pytest.approx(record["answer_tokens"] / record["answer_s"])


def test_zero_shot_shows_how_many_records_are_answered_and_how_long_it_takes(
    configure: Configure, tmp_path: Path
) -> None:
    """It has no stage, and nothing earlier to estimate from."""
    seen: list[Status] = []
    config = configure(regime="zero_shot", method={"name": "finetune"})
    drivers: list[Driver] = []

    def look(driver: Driver) -> None:
        drivers.append(driver)
        seen.append(driver.status())

    run(config, tmp_path / "run", watch=look)
    driver = drivers[-1]
    # Two datasets of six questions in batches of four.
    assert [(status.done, status.total) for status in seen] == [(4, 12), (8, 12), (10, 12), (12, 12)]
    assert all(status.stage == -1 and "zero-shot" in describe(status) for status in seen)
    assert all(status.seconds_left is not None for status in seen)
    assert any(line.text.startswith("small  scores zero-shot: ArxivQA ") for line in driver.status().lines)


def test_in_a_heterogeneous_schedule_clients_of_one_stage_learn_different_tasks(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(benchmark={"num_rounds": 1, "schedule": [[0, 1], [1, 0]]}, method={"name": "finetune"})
    run(config, tmp_path / "run")
    rounds = [record for record in RunFolder(tmp_path / "run").records() if record["kind"] == "round"]
    assert [[client["task"] for client in record["clients"]] for record in rounds] == [
        ["ArxivQA", "IconQA"],
        ["IconQA", "ArxivQA"],
    ]
    evaluations = [record for record in RunFolder(tmp_path / "run").records() if record["kind"] == "evaluation"]
    assert all(record["scores"].keys() == {"ArxivQA", "IconQA"} for record in evaluations)


# A rule without a global model


def test_every_clients_own_model_is_asked_and_their_scores_are_averaged(configure: Configure, tmp_path: Path) -> None:
    config = configure(method={"name": "finetune"}, lora={"name": "fedsa"}, benchmark={"num_rounds": 1})
    path = tmp_path / "run"
    run(config, path)
    folder = RunFolder(path)
    last = folder.latest_checkpoint()
    assert last is not None
    trained = [f"client_{index}" for index in sorted(map(int, last.memories))]
    assert len(trained) > 1
    record = folder.records()[-1]
    differ = 0
    assert record["num_records"] == 12  # two datasets of six questions, however many answer them
    for name in ("ArxivQA", "IconQA"):
        text = (path / f"predictions/stage_0001/{name}.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        assert [row["view"] for row in rows] == [view for view in trained for _ in range(6)]
        by_view = {view: [row["score"] for row in rows if row["view"] == view] for view in trained}
        percents = {view: 100 * sum(scores) / 6 for view, scores in by_view.items()}
        texts = {view: [row["prediction"] for row in rows if row["view"] == view] for view in trained}
        differ += any(text != texts[trained[0]] for text in texts.values())
        detail = record["datasets"][name]
        assert detail["views"] == pytest.approx(percents)
        assert record["scores"][name] == detail["percent"] == pytest.approx(sum(percents.values()) / len(trained))
    assert differ  # or one packed model has answered for all


def test_before_anybody_has_trained_the_global_model_answers_under_no_name(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(regime="zero_shot", method={"name": "finetune"}, lora={"name": "fedsa"})
    run(config, tmp_path / "run")
    record = RunFolder(tmp_path / "run").records()[-1]
    assert "views" not in record["datasets"]["IconQA"]
    rows = (tmp_path / "run/predictions/zero_shot/IconQA.jsonl").read_text().splitlines()
    assert len(rows) == 6
    assert "view" not in json.loads(rows[0])


def test_a_private_run_records_what_it_has_spent_round_by_round(configure: Configure, tmp_path: Path) -> None:
    privacy = {"name": "dp_fedavg", "noise_multiplier": 1.0, "delta": 1e-3}
    evaluation = {"every_stage": False, "max_new_tokens": 1}
    config = configure(weights="uniform", method={"name": "finetune"}, privacy=privacy, evaluation=evaluation)
    results = run(config, tmp_path / "run")
    records = [record for record in RunFolder(tmp_path / "run").records() if record["kind"] == "round"]
    # Two clients of three in each of the four rounds.
    spent = [epsilon(noise_multiplier=1.0, sampling_frac=2 / 3, rounds=n, delta=1e-3) for n in (1, 2, 3, 4)]
    assert [record["epsilon"] for record in records] == spent
    assert (results["epsilon"], results["dp_delta"]) == (spent[-1], 1e-3)


def test_unseen_datasets_are_answered_once_and_reported_apart(
    configure: Configure, whole: Path, tmp_path: Path
) -> None:
    results = run(configure(benchmark={"transfer": ["OCRVQA", "DVQA"]}), tmp_path / "run")
    assert [name for name in predictions(tmp_path / "run") if "OCRVQA" in name or "DVQA" in name] == [
        "predictions/stage_0001/DVQA.jsonl",
        "predictions/stage_0001/OCRVQA.jsonl",
    ]
    plain = RunFolder(whole).results()
    # The run is otherwise the same to the bit: the unseen are neither trained on nor part of Last and Avg.
    for key in ("adapters_sha256", "matrix", "last", "avg", "tasks", "num_records"):
        assert results[key] == plain[key]
    assert "transfer" not in plain
    scores = results["transfer"]["scores"]
    assert results["transfer"] == {
        "mean": (scores["OCRVQA"] + scores["DVQA"]) / 2, "scores": scores, "num_records": {"OCRVQA": 6, "DVQA": 6},
    }  # fmt: skip
    for name, score in scores.items():
        rows = (tmp_path / f"run/predictions/stage_0001/{name}.jsonl").read_text().splitlines()
        assert score == pytest.approx(100 * sum(json.loads(row)["score"] for row in rows) / 6)


def test_zero_shot_answers_the_unseen_too(configure: Configure, tmp_path: Path) -> None:
    config = configure(regime="zero_shot", method={"name": "finetune"}, benchmark={"transfer": ["DVQA"]})
    results = run(config, tmp_path / "run")
    assert results["transfer"]["scores"].keys() == {"DVQA"}
    assert len(results["matrix"][0]) == 2
