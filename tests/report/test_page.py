"""The page says what the run's files say, as far as they go, and nothing of a run can become a part of the page."""

import json
import re
import shutil

import pytest
from made import FAILURES, HOSTILE, TASKS, make_run, write_data
from reader import read

from fcit_ray.errors import UserError
from fcit_ray.report import answers, pictures
from fcit_ray.report.page import RUNS_IN_FULL
from fcit_ray.report.writing import write_report
from fcit_ray.results.figures import make_results
from fcit_ray.results.tables import UNDEFINED


def page_of(tmp_path, *runs, **more):
    file = write_report([run.path for run in runs], tmp_path / "page.html", **more)
    return read(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The page of a finished run whose data is at hand."""
    place = tmp_path_factory.mktemp("one")
    return page_of(place, make_run(place / "run", root=write_data(place / "data")))


def test_a_run_is_told_by_its_own_numbers(one):
    tables = one.tables
    assert tables["Score of each task after each stage, %"] == [
        ["After", "ArxivQA", "IconQA", "Mean"],
        ["stage 1", "75.0", UNDEFINED, "75.0"],
        ["stage 2", "50.0", "100.0", "75.0"],
    ]
    assert tables["Forgetting by task"][1] == ["ArxivQA", "75.0", "75.0", "50.0", "25.0", "-25.0"]
    assert tables["Training loss by round"][1:] == [
        ["stage 1, round 1", "2.5000"], ["stage 1, round 2", "1.5000"],
        ["stage 2, round 1", "2.2500"], ["stage 2, round 2", "1.2500"],
    ]  # fmt: skip
    assert tables["Client updates by task and subspace"] == [
        ["Task", "s0", "s1"], ["ArxivQA", "2", "2"], ["IconQA", "·", "4"],
    ]  # fmt: skip
    assert tables["Clients by round and subspace"][1] == ["stage 1, round 1", "0", "1"]
    assert tables["Cosines between the identity tokens of the subspaces"][1] == ["s0", "1.000", "0.600"]
    assert tables["Mean gate weight of each subspace, by dataset"][1] == ["ArxivQA", "stage 2", "0.875", "0.125"]
    assert tables["Norm of the updates by round"][1] == [
        "stage 1, round 1",
        "3.000",
        "1.000",
        "2.000",
        "0: 1.00, 1: 2.00",
    ]
    # Two rounds of 0.5, 4 and 0.25 s and an evaluation of 1 and 0.5 s a stage.
    assert tables["Seconds by stage and phase, seconds"] == [
        ["Stage", "prepare", "train", "aggregate", "answer", "score", "In all"],
        *([f"stage {n}", "1.00", "8.00", "0.50", "1.00", "0.50", "11 s"] for n in (1, 2)),
        ["all", "2.00", "16.00", "1.00", "2.00", "1.00", "22 s"],
    ]
    assert tables["Bytes by stage and direction, MB"][-1] == ["all", "8.00", "4.00", "12.0 MB"]
    assert tables["Training records by task and client, 2 clients"][1] == ["ArxivQA", "10", "20", "30"]
    assert tables["What was odd about the answers, %"][1][:3] == ["ArxivQA", "50.0", "12.5"]
    assert ["benchmark.num_rounds", "2"] in tables["Resolved configuration"]
    assert "platform" in dict(tables["Environment"])
    # Last (50 + 100) / 2, Avg (75 + 75) / 2, forgetting 75 - 50
    assert re.search(
        r"Last\s*75\.0.*Avg\s*75\.0.*Forgetting\s*25\.0.*BWT\s*-25\.0.*22 s.*12\.0 MB", one.text, re.DOTALL
    )


def test_a_chart_draws_what_its_table_says(one):
    specs = [json.loads(text) for attrs, text in one.scripts if attrs.get("type") == "application/json"]
    assert len(specs) == 6  # scores, losses, forgetting, norms, seconds, bytes
    losses = next(spec for spec in specs if spec["description"] == "Training loss by round")
    assert [(p["x"], p["y"]) for p in losses["data"]["values"]] == [
        (0.75, 2.5),
        (1.25, 1.5),
        (1.75, 2.25),
        (2.25, 1.25),
    ]
    assert all("://" not in json.dumps(spec) for spec in specs)
    plots = [attrs for tag, attrs in one.tags if attrs.get("class") == "plot"]
    assert all(plot["role"] == "img" and "table below" in plot["aria-label"] for plot in plots)


def test_answers_are_a_sample_of_right_and_wrong_ones_with_small_pictures(one):
    cards = [attrs for tag, attrs in one.tags if attrs.get("class") == "card"]
    assert len(cards) == 2 * answers.PER_DATASET
    given = [attrs["data-right"] for _, attrs in one.tags if "data-right" in attrs]
    # Of ArxivQA's 16 answers 8 are right, so are 6 of the 12 shown; of IconQA's all.
    assert (given.count("yes"), given.count("no")) == (6 + 12, 6)
    images = [attrs for tag, attrs in one.tags if tag == "img"]
    assert len(images) == len(cards)
    assert {(image["width"], image["height"]) for image in images} == {(f"{pictures.SIDE}", f"{pictures.SIDE // 2}")}
    assert all(image["src"].startswith("data:image/webp;base64,") and image["alt"] for image in images)
    assert "What is it? (0)" in one.text
    assert "s0 0.75" in one.text


def test_the_sample_is_spread_and_small_groups_leave_their_places(tmp_path):
    def asked(right):
        rows = [{0: {"score": float(n in right)}} for n in range(100)]
        return [answers._Question(None, "IconQA", str(n), "A", row) for n, row in enumerate(rows)]

    chosen = [int(question.question_id) for question in answers.choose(asked({7}), 1, 6)]
    assert 7 in chosen
    assert len(chosen) == 6
    assert chosen == sorted(chosen)
    assert chosen[-1] - chosen[0] > 60
    assert len(answers.choose(asked(set(range(50))), 1, 200)) == 100


def test_nothing_is_fetched_and_no_text_becomes_code(tmp_path):
    data = write_data(tmp_path / "data", question=HOSTILE)
    run = make_run(tmp_path / "run", name=HOSTILE, root=data, wrong=f"{HOSTILE}\"'>{{{{7*7}}}}")
    file = write_report(run.path, tmp_path / "page.html")
    html = file.read_text(encoding="utf-8")
    page = read(html)
    assert HOSTILE not in html
    assert page.text.count(HOSTILE) > 20  # name, questions, answers: told as they are
    assert "{{7*7}}" in page.text
    assert len([attrs for attrs, _ in page.scripts if "type" not in attrs]) == 2  # the chart library and ours
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert not [attrs for _, attrs in page.tags if attrs.get("src", "data:")[:5] != "data:"]
    assert not [attrs for tag, attrs in page.tags if tag == "link" or attrs.get("href", "#")[:1] != "#"]
    policy = next(attrs["content"] for _, attrs in page.tags if "Content-Security" in attrs.get("http-equiv", ""))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert file.stat().st_size < 1_500_000


def test_a_run_that_is_not_finished_is_shown_as_far_as_it_is(tmp_path):
    page = page_of(tmp_path, make_run(tmp_path / "run", finished=False, root=write_data(tmp_path / "data")))
    assert "not finished: 2 of 4 rounds and 1 of 2 evaluations are done" in page.text
    assert f"--out {tmp_path / 'run'} --resume" in page.text
    assert page.tables["Score of each task after each stage, %"][1:] == [["stage 1", "75.0", UNDEFINED, "75.0"]]
    assert "Forgetting by task" not in page.tables
    assert "Avg" not in page.text  # that would be another figure
    assert len([1 for _, attrs in page.tags if attrs.get("class") == "card"]) == answers.PER_DATASET


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    run.metrics_file.unlink()
    shutil.rmtree(run.checkpoint_folder)
    page = page_of(tmp_path, run)
    assert "0 of 4 rounds and 0 of 2 evaluations" in page.text
    assert "Resolved configuration" in page.tables


def test_a_run_that_lost_its_configuration_is_told_by_its_records(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    run.config_file.unlink()
    page = page_of(tmp_path, run)
    assert "The configuration cannot be read:" in page.text
    assert page.tables["Score of each task after each stage, %"][1:] == [["stage 1", "75.0", "75.0"]]
    assert "Resolved configuration" not in page.tables
    make_run(tmp_path / "other", finished=False).log({"kind": "evaluation", "stage": 7, "scores": {}, "datasets": {}})
    with pytest.raises(UserError, match=r"metrics\.jsonl: evaluation of stage 7: the run has 2 stages; edited"):
        write_report(tmp_path / "other", tmp_path / "page.html")


def test_what_is_missing_is_named_and_costs_nothing_else(tmp_path):
    run = make_run(tmp_path / "run", root="/nowhere/data")
    run.partition_file.write_text("[]")
    (run.path / "predictions/stage_0001/IconQA.jsonl").write_text('{"question_id": "q0"}\n')
    for file in run.checkpoint_folder.glob("objects/*"):
        file.write_bytes(file.read_bytes()[:-1])
    page = page_of(tmp_path, run)
    assert "The data root /nowhere/data is not there, so questions and pictures are not shown" in page.text
    assert "IconQA.jsonl, line 1: no prediction as" in page.text
    assert f"Who holds which data cannot be said: {run.partition_file}" in page.text
    assert "How near the method's tokens are cannot be said:" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert len([1 for _, attrs in page.tags if attrs.get("class") == "card"]) == answers.PER_DATASET
    assert "Score of each task after each stage, %" in page.tables


def test_a_method_without_tokens_or_gates_has_no_such_sections(tmp_path):
    run = make_run(tmp_path / "run", method={"name": "finetune"})
    records = [{**record, "clients": [{**client, "trained": [0]} for client in record.get("clients", ())]}
               for record in run.records()]  # fmt: skip
    for record in records:
        for parts in record.get("datasets", {}).values():
            parts["mean_gate"] = []
    run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    shutil.rmtree(run.checkpoint_folder)
    page = page_of(tmp_path, run)
    assert "ubspace" not in page.text.replace("clients and subspaces from 0", "").replace("method.num_subspaces", "")
    assert "Mean gate weight" not in page.text


def test_the_workers_time_is_told_by_cause_and_adds_up(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    hours = {"compute_s": 5.0, "help_s": 0.5, "exchange_s": 0.5, "starved_s": 0.5, "other_s": 0.5, "answer_s": 1.0,
             "idle_s": 1.5, "server_s": 0.5}  # fmt: skip
    workers = [{"worker": 0, **hours}, {"worker": 1, **hours, "compute_s": 3.0, "idle_s": 3.5}]
    records = [{**record, "workers": workers} if record["kind"] == "round" else record for record in run.records()]
    run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = page_of(tmp_path, run)
    table = page.tables["Where the workers' time went, seconds of workers"]
    names = ["training", "helping", "exchange", "starved", "handing over", "answering", "idle", "server"]
    assert table[0] == ["Stage", *names, "In all"]
    # Of two rounds a stage, 20 seconds of workers each.
    assert table[1] == ["stage 1", "16.00", "2.00", "2.00", "2.00", "2.00", "4.00", "10.00", "2.00", "40 s"]
    shares = "training 40.0 %, helping 5.0 %, exchange 5.0 %, starved 5.0 %, handing over 5.0 %, answering 10.0 %"
    assert f"{shares}, idle 25.0 %, server 5.0 %" in page.text


def test_a_run_that_counted_no_hours_has_no_such_table(tmp_path):
    page = page_of(tmp_path, make_run(tmp_path / "run", finished=False))
    assert "Where the workers' time went, seconds of workers" not in page.tables


def test_what_answering_has_cost_is_told_by_stage(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    assert "Answering by stage" not in page_of(tmp_path, run).tables  # records of older releases do not say it
    costs = {"num_records": 1200, "answer_tokens": 3000, "answer_s": 60.0, "questions_per_s": 20.0}
    costs |= {"tokens_per_s": 50.0, "padding_frac": 0.125, "behind": True}
    records = [{**record, **costs} if record["kind"] == "evaluation" else record for record in run.records()]
    run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    # The run waited for 1 s of answers and half a second of scores.
    row = ["stage 1", "1,200", "3,000", "60.0", "20.0", "50.0", "12.5", "1.5", "yes"]
    assert page_of(tmp_path, run).tables["Answering by stage"][1] == row


def test_several_runs_are_compared_and_told_one_by_one(tmp_path):
    data = write_data(tmp_path / "data")
    runs = [make_run(tmp_path / f"{name}{seed}", name=name, seed=seed, root=data, train={"epochs": epochs})
            for name, seed, epochs in (("One", 0, 1), ("One", 1, 1), ("Two", 0, 2))]  # fmt: skip
    half = make_run(tmp_path / "half", name="Half", finished=False, root=data)
    majority = make_results(
        label="Majority answer", seed=0, tasks=TASKS, num_stages=0, num_records={}, params={},
        records=[{"kind": "evaluation", "stage": -1, "scores": {"ArxivQA": 20.0, "IconQA": 40.0}}],
    )  # fmt: skip
    page = page_of(tmp_path, *runs, half, references=[majority], failed={"half": "CUDA out of memory"})
    table = page.tables["Figures of the finished runs, one row a method or setting"]
    assert [row[:2] for row in table] == [
        ["Method", "Last"], ["Majority answer", "30.0"], ["One", "75.0±0.0"], ["Two", "75.0"],
    ]  # fmt: skip
    assert ["train.epochs", "1", "1", "2", "1"] in page.tables["What differs between the configurations"]
    assert "Failed: half: CUDA out of memory" in page.text
    assert "4 runs, 3 of them finished" in page.text
    titles = [text for text in ("One, seed 0", "One, seed 1", "Two", "Half (unfinished)") if text in page.text]
    assert len(titles) == 4
    assert page.tables["Mean score over the tasks seen, %"][0] == ["After", "One", "Two", "Half (unfinished)"]
    # The same question of the same data is one card, with an answer of every run that was asked it.
    given = [attrs["data-run"] for _, attrs in page.tags if "data-run" in attrs]
    assert given.count("Two") == 2 * answers.PER_DATASET
    assert len([1 for _, attrs in page.tags if attrs.get("class") == "card"]) == 2 * answers.PER_DATASET


def test_of_many_runs_some_are_told_in_full_and_the_page_says_so(tmp_path):
    first = make_run(tmp_path / "runs/0")
    for seed in range(1, RUNS_IN_FULL + 2):
        make_run(tmp_path / f"runs/{seed}", seed=seed)
    page = page_of(tmp_path, first, *(make_run(tmp_path / "other", name="Other"),))
    assert "Tables and curves are of all" not in page.text
    file = write_report([tmp_path / "runs", tmp_path / "other"], tmp_path / "many.html")
    page = read(file.read_text(encoding="utf-8"))
    assert f"Tables and curves are of all {RUNS_IN_FULL + 3} runs" in page.text
    assert len([1 for tag, attrs in page.tags if attrs.get("class") == "run"]) == RUNS_IN_FULL
    assert "Other" in page.text


def test_pictures_stop_at_their_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "BUDGET", 1)
    page = page_of(tmp_path, make_run(tmp_path / "run", root=write_data(tmp_path / "data")))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "taken all the room" in page.text


def test_a_picture_that_does_not_decode_is_named(tmp_path):
    data = write_data(tmp_path / "data")
    (data / "datasets/ArxivQA/one.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    page = page_of(tmp_path, make_run(tmp_path / "run", root=data))
    assert "No picture: datasets/ArxivQA/one.png:" in page.text
    assert len([tag for tag, _ in page.tags if tag == "img"]) == answers.PER_DATASET


def test_a_question_shows_the_first_of_its_pictures_and_says_where_it_has_none(tmp_path):
    data = write_data(tmp_path / "data")
    file = data / "instructions/ArxivQA/test_1w.json"
    items = json.loads(file.read_text())
    for item in items:
        item["image"] = ["ArxivQA/one.png"] * 2
        item["text"] = f"<image> or <image>? {item['text']}"
    file.write_text(json.dumps(items))
    file = data / "instructions/IconQA/val.json"
    file.write_text(json.dumps([{**item, "image": None} for item in json.loads(file.read_text())]))
    page = page_of(tmp_path, make_run(tmp_path / "run", root=data))
    assert "[picture] or [picture]? What is it?" in page.text
    assert "Its first picture, of 2" in page.text
    assert "No picture: the question has none" in page.text
    assert len([tag for tag, _ in page.tags if tag == "img"]) == answers.PER_DATASET


def test_the_same_run_gives_the_same_page(tmp_path):
    run = make_run(tmp_path / "run", root=write_data(tmp_path / "data"))
    pages = [write_report(run.path, tmp_path / f"{n}.html").read_bytes() for n in range(2)]
    assert pages[0] == pages[1]


def test_what_cannot_be_reported_on_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no run in .*empty: there is nothing to report on"):
        write_report(tmp_path / "empty", tmp_path / "page.html")
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run.path, run.results_file / "page.html")
    run.results_file.write_text(run.results_file.read_text().replace("75.0", "99.0"))
    with pytest.raises(UserError, match="edited since it was written"):
        write_report(run.path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_every_line_of_a_view_counts_once(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    lines = [{"question_id": "q0", "view": view, "prediction": view, "answer": "A", "score": 1.0, "gate": []}
             for view in ("client_0", "client_1")]  # fmt: skip
    run.write_predictions("stage_0000", "ArxivQA", lines)
    page = page_of(tmp_path, run)
    assert len([1 for _, attrs in page.tags if attrs.get("class") == "card"]) == 1
    assert "client_0" in page.text


@pytest.mark.parametrize("finished", [True, False])
def test_a_page_says_how_many_updates_are_missing_and_which(tmp_path, one, finished):
    planned, so_far = (9, "") if finished else (5, " so far")
    page = page_of(tmp_path, make_run(tmp_path / "run", failures=FAILURES, finished=finished))
    assert f"1 of {planned} client updates are missing{so_far} (failures.then=drop)" in page.text
    assert page.tables["Client updates that failed"][1:] == [
        ["stage 1, round 1", "7", "ArxivQA", "missing", "2", "its worker died"],
        ["stage 1, round 1", "1", "ArxivQA", "came when tried again", "1", "late"],
    ]
    assert "updates are missing" not in one.text
    assert "Client updates that failed" not in one.tables
