"""What trackers are told of records, worked out by hand, while the file is still being written."""

import tracked_runs
from tracked_runs import RECORDS

from fcit_ray.config.schema import Config
from fcit_ray.tracking.points import FILES, end_of, points_of


def test_records_become_numbers_at_the_rounds_finished(tmp_path) -> None:
    folder, config = tracked_runs.start(tmp_path / "run")
    tracked_runs.write(folder, RECORDS)
    points = points_of(folder.metrics_file, config)
    assert [(point.index, point.step) for point in points] == [(0, 1), (1, 2), (2, 2), (3, 3), (4, 4), (5, 4)]
    assert points[0].metrics == {
        "train/stage": 0, "train/round": 0, "train/loss": 2.0, "train/bytes_up": 7, "seconds/train/train": 3.0,
        # two clients: 10 and 30 records, losses 1 and 4
        "clients/num_examples/mean": 20, "clients/num_examples/min": 10, "clients/num_examples/max": 30,
        "clients/loss/mean": 2.5, "clients/loss/min": 1.0, "clients/loss/max": 4.0,
    }  # fmt: skip
    assert points[5].metrics == {
        "eval/stage": 1, "eval/mean": 55.0, "eval/task/ArxivQA": 60.0,
        "eval/task/IconQA": 50.0, "transfer/mean": 30.0, "transfer/dataset/DVQA": 30.0, "seconds/eval/answer": 0.5,
    }  # fmt: skip


def test_a_line_that_is_being_written_is_left_for_later(tmp_path) -> None:
    folder, config = tracked_runs.start(tmp_path / "run")
    assert points_of(folder.metrics_file, config) == []
    tracked_runs.write(folder, RECORDS[:2])
    whole = folder.metrics_file.read_bytes()
    for cut in (1, 40, len(whole) - whole.index(b"\n") - 1):
        folder.metrics_file.write_bytes(whole[:-cut])
        assert [point.index for point in points_of(folder.metrics_file, config)] == [0]


def test_zero_shot_is_at_no_round_and_what_is_not_finite_is_not_told(tmp_path) -> None:
    folder, _ = tracked_runs.start(tmp_path / "run")
    folder.log({"kind": "evaluation", "stage": -1, "scores": {"a/b": 4.0, "a:b": 8.0, "c": None}, "seconds": {}})
    config = Config.model_validate({"regime": "zero_shot", "benchmark": {"tasks": ["ArxivQA"]}})
    (point,) = points_of(folder.metrics_file, config)
    assert (point.step, point.metrics["eval/mean"]) == (0, 6.0)
    # no tracker takes a colon, and none may take two tasks for one
    assert {name for name in point.metrics if "task" in name} == {"eval/task/a_b", "eval/task/a_b_"}


def test_the_end_has_the_figures_and_the_files_that_there_are(tmp_path) -> None:
    folder, config = tracked_runs.start(tmp_path / "run")
    tracked_runs.write(folder, RECORDS)
    tracked_runs.finish(folder)
    (folder.path / "report.html").write_text("<html>")
    end = end_of(folder, points_of(folder.metrics_file, config))
    assert (end.step, end.figures["final/last"], end.figures["final/learned"]) == (4, 55.0, 60.0)  # (70 + 50) / 2
    assert (end.figures["final/forgetting"], end.figures["final/bwt"]) == (10.0, -10.0)
    assert end.figures["final/task/IconQA"] == 50.0
    assert {file.name for file in end.files} == {"config.yaml", "metrics.jsonl", "results.json", "report.html"}
    assert {file.name for file in end.files} < set(FILES)
    assert "| DISCO | 55.0 |" in end.table
