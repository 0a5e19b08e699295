"""TensorBoard's own reader finds every point once, also after a session that was killed in the middle of one."""

import numpy as np
import pytest
import tracked_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tracked_runs import RECORDS

from fcit_ray.results.run_folder import RunFolder
from fcit_ray.tracking.points import points_of
from fcit_ray.tracking.tensorboard import TensorBoard


def read(folder: RunFolder) -> EventAccumulator:
    events = EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    return events.Reload()


def scalars(folder: RunFolder, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def test_a_run_is_there_with_its_curves_configuration_figures_and_pictures(tmp_path) -> None:
    from PIL import Image

    folder, config = tracked_runs.start(tmp_path / "run", report_to=["tensorboard"])
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, RECORDS)
        Image.fromarray(np.full((2, 3, 3), 7, dtype=np.uint8)).save(folder.path / "accuracy_matrix.png")
        tracked_runs.finish(folder)
    assert scalars(folder, "train/loss") == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.5)]
    assert scalars(folder, "eval/mean") == [(2, 70.0), (4, 55.0)]
    assert scalars(folder, "final/last") == [(4, 55.0)]
    events = read(folder)
    assert "name: DISCO" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| DISCO | 55.0 |" in events.Tensors("figures/text_summary")[0].tensor_proto.string_val[0].decode()
    (picture,) = events.Images("accuracy_matrix")
    assert (picture.width, picture.height) == (3, 2)
    assert any("hparams" in tag for tag in events.summary_metadata)


@pytest.mark.parametrize("told", range(1, 7))
def test_a_killed_session_is_gone_on_with_and_no_point_is_there_twice(tmp_path, monkeypatch, told) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=["tensorboard"])
    tracked_runs.write(folder, RECORDS[:told])
    tracked_runs.abandon(folder, config, monkeypatch)
    if told < 6:  # killed in the middle of the next point, which arrived but was not counted
        tracked_runs.write(folder, RECORDS[told : told + 1])
        with monkeypatch.context() as patch:
            patch.setattr("fcit_ray.tracking.memory.Memory.tell", lambda self, **values: None)
            tracked_runs.abandon(folder, config, patch)
    folder.rewind(0, 1)  # all but the first round is made again
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, RECORDS[1:])
        tracked_runs.finish(folder)
    assert scalars(folder, "train/loss") == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.5)]
    assert scalars(folder, "eval/mean") == [(2, 70.0), (4, 55.0)]
    assert len(list((folder.path / "tensorboard").iterdir())) == (3 if told < 6 else 2), "one file a session"
    assert len(read(folder).Tensors("config/text_summary")) == 1


@pytest.mark.parametrize("told", range(1, 8))
def test_an_evaluation_that_came_after_rounds_of_the_next_stage_is_there_once(tmp_path, monkeypatch, told) -> None:
    first, second, evaluation, third, fourth, last = RECORDS
    late = [first, second, third, evaluation, fourth, last]
    folder, config = tracked_runs.start(tmp_path / "run", report_to=["tensorboard"])
    tracked_runs.write(folder, late[:told])
    tracked_runs.abandon(folder, config, monkeypatch)
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, late[told:])
        tracked_runs.finish(folder)
    assert sorted(scalars(folder, "train/loss")) == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.5)]
    assert sorted(scalars(folder, "eval/mean")) == [(2, 70.0), (4, 55.0)]


def test_files_that_were_deleted_are_written_anew(tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=["tensorboard"])
    tracked_runs.write(folder, RECORDS[:4])
    tracked_runs.abandon(folder, config, monkeypatch)
    for file in (folder.path / "tensorboard").iterdir():
        file.unlink()
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, RECORDS[4:])
        tracked_runs.finish(folder)
    assert scalars(folder, "train/loss") == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.5)]


def test_a_run_that_was_not_tracked_is_by_resuming_it_once_it_is_finished(tmp_path) -> None:
    folder, _ = tracked_runs.start(tmp_path / "run")
    tracked_runs.write(folder, RECORDS)
    tracked_runs.finish(folder)
    _, config = tracked_runs.start(tmp_path / "other", report_to=["tensorboard"])
    with tracked_runs.session(folder, config):
        pass
    assert scalars(folder, "eval/task/ArxivQA") == [(2, 70.0), (4, 60.0)]
    assert TensorBoard.__doc__  # its restart mark is what the tests above rest on
    assert len(points_of(folder.metrics_file, config)) == 6
