"""A run goes on whatever becomes of its trackers; every record is told once, in order, over kills and outages."""

import json
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tracked_runs
from repository import ROOT
from tracked_runs import RECORDS

from fcit_ray.errors import ConfigError
from fcit_ray.tracking import following
from fcit_ray.tracking.choose import check_trackers
from fcit_ray.tracking.following import not_told
from fcit_ray.tracking.memory import FILE, Memory
from fcit_ray.tracking.tracker import Tracker

OWN = "test_following:Diary"


class Diary(Tracker):
    """A tracker of a user's own: it remembers what it was told, and can be away."""

    told: ClassVar[list[Any]] = []
    away: ClassVar[bool] = False

    def __init__(self, word: str = ""):
        self.word = word

    def start(self, run, memory, points):
        self._come()
        Diary.told.append(("start", run.name, run.group, memory.done, self.word))
        return memory.done

    def log(self, point):
        self._come()
        Diary.told.append(point.index)

    def finish(self, end):
        self._come()
        Diary.told.append(("finish", end.figures["final/last"]))

    def close(self, outcome):
        Diary.told.append(("close", outcome))

    def _come(self):
        if Diary.away:
            raise ConnectionError("https://me:secret@example.org does not answer\nand more lines")


@pytest.fixture(autouse=True)
def diary(monkeypatch):
    monkeypatch.setattr(Diary, "told", [])
    monkeypatch.setattr(Diary, "away", False)
    monkeypatch.setattr(following, "_POLL_S", 0.01)
    monkeypatch.setattr(following, "_RETRY_S", 0.01)
    yield
    for thread in threading.enumerate():  # one that was not waited for would write into the next test's diary
        if thread.name.startswith("tracking"):
            thread.join()


def wait_for(what: Any, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, Diary.told
        time.sleep(0.01)


def test_records_are_told_while_they_come_and_the_end_when_it_is_there(tmp_path) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=OWN, options={OWN: {"word": "hello"}})
    with tracked_runs.session(folder, config, group="sweep"):
        for index, record in enumerate(RECORDS):
            folder.log(record)
            wait_for(lambda index=index: index in Diary.told)
        tracked_runs.finish(folder)
    assert Diary.told == [
        ("start", "DISCO-seed3", "sweep", 0, "hello"), *range(6), ("finish", 55.0), ("close", "finished"),
    ]  # fmt: skip
    with tracked_runs.session(folder, config):
        pass
    assert len(Diary.told) == 9, "a finished run that is only read again is told to nobody"


def test_a_resumed_run_goes_on_where_it_was_even_if_its_last_record_is_made_again(tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=[OWN])
    tracked_runs.write(folder, RECORDS[:4])
    tracked_runs.abandon(folder, config, monkeypatch)
    assert Diary.told[1:] == [0, 1, 2, 3]
    folder.rewind(1, 0)  # its checkpoint was not written yet: round 0 of stage 1 is trained again
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, RECORDS[3:])
        tracked_runs.finish(folder)
    assert [told for told in Diary.told if isinstance(told, int)] == [*range(6)]
    assert Diary.told[-2:] == [("finish", 55.0), ("close", "finished")]


def test_a_tracker_that_is_away_is_told_of_once_and_caught_up_with(tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=[OWN])
    said: list[str] = []
    with tracked_runs.session(folder, config, said):
        tracked_runs.write(folder, RECORDS[:2])
        wait_for(lambda: 1 in Diary.told)
        monkeypatch.setattr(Diary, "away", True)
        tracked_runs.write(folder, RECORDS[2:4])
        wait_for(lambda: said)
        time.sleep(0.2)  # it is tried again meanwhile
        assert said == [
            f"{OWN}: https://***@example.org does not answer; the run goes on, and it is told later what it missed"
        ]
        monkeypatch.setattr(Diary, "away", False)
        tracked_runs.write(folder, RECORDS[4:])
        tracked_runs.finish(folder)
    assert [told for told in Diary.told if isinstance(told, int)] == [*range(6)]
    assert len(said) == 1


def test_what_was_not_told_is_said_at_the_end_and_a_resumed_finished_run_makes_up_for_it(tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=[OWN])
    said: list[str] = []
    with tracked_runs.session(folder, config, said):
        tracked_runs.write(folder, RECORDS[:4])
        wait_for(lambda: 3 in Diary.told)
        monkeypatch.setattr(Diary, "away", True)
        tracked_runs.write(folder, RECORDS[4:])
        tracked_runs.finish(folder)
    missing = (
        f"{OWN} was not told 2 of 6 records and the final figures and files: https://***@example.org does not answer; "
        "--resume makes up for it"
    )
    assert said[-1] == missing
    assert not_told({folder.path: config}) == [f"{folder.path}: {missing}"]
    monkeypatch.setattr(Diary, "away", False)
    with tracked_runs.session(folder, config, said := []):
        pass
    assert [told for told in Diary.told if isinstance(told, int)] == [*range(6)]
    assert Diary.told[-2:] == [("finish", 55.0), ("close", "finished")]
    assert (said, not_told({folder.path: config})) == ([], [])


def test_a_tracker_that_never_answers_does_not_hold_the_end_up(tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=[OWN])
    released = threading.Event()
    monkeypatch.setattr(Diary, "log", lambda self, point: released.wait(10))
    said: list[str] = []
    began = time.monotonic()
    with tracked_runs.session(folder, config, said, end_s=0.2):
        tracked_runs.write(folder, RECORDS[:1])
    released.set()
    assert time.monotonic() - began < 5
    assert said == [f"{OWN} was not told 1 of 1 records: no answer within 0.2 s; --resume makes up for it"]


def test_a_session_that_hung_tells_nothing_more_once_the_run_is_resumed(tmp_path, monkeypatch) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=[OWN])
    tracked_runs.write(folder, RECORDS)
    released, log = threading.Event(), Diary.log
    monkeypatch.setattr(Diary, "log", lambda self, point: (released.wait(10), log(self, point)))
    with tracked_runs.session(folder, config, end_s=0.05):
        wait_for(lambda: Diary.told)  # it hangs in the first point
    tracked_runs.finish(folder)
    with tracked_runs.session(folder, config):
        time.sleep(0.05)
        assert len(Diary.told) == 1, "the new session waits for the old one"
        released.set()
    assert [told for told in Diary.told if isinstance(told, int)] == [*range(6)]
    assert Diary.told[-2:] == [("finish", 55.0), ("close", "finished")]


@pytest.mark.parametrize(("error", "outcome"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_run_that_did_not_finish_is_closed_as_such(tmp_path, error, outcome) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=[OWN])
    tracked_runs.write(folder, RECORDS[:1])
    with pytest.raises(error), tracked_runs.session(folder, config):
        raise error
    assert Diary.told[1:] == [0, ("close", outcome)]


def test_a_run_that_never_came_to_a_record_is_none(tmp_path) -> None:
    folder, config = tracked_runs.start(tmp_path / "run", report_to=[OWN])
    with pytest.raises(RuntimeError), tracked_runs.session(folder, config):
        raise RuntimeError
    assert Diary.told == []


def test_what_is_kept_between_sessions_survives_and_a_damaged_file_begins_anew(tmp_path: Path, caplog) -> None:
    one, other = Memory(tmp_path, "one"), Memory(tmp_path, "other")
    one.keep(id="a")
    one.tell(done=3)
    other.tell(finished=True)
    again = Memory(tmp_path, "one")
    assert (again.values, again.done, again.finished, Memory(tmp_path, "other").finished) == (
        {"id": "a"},
        3,
        False,
        True,
    )
    (tmp_path / FILE).write_text("{")
    assert (again.values, again.done) == ({}, 0)
    assert "trackers are told everything anew" in caplog.text


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        ({"report_to": ["tensorbord"]}, "tracking.report_to: unknown 'tensorbord'; one of tensorboard, wandb, mlflow, "
         "or module:Class of your own; did you mean 'tensorboard'?"),
        ({"report_to": ["nowhere:Mine"]}, "tracking.report_to: cannot import 'nowhere:Mine': No module named"),
        ({"report_to": ["pathlib:Path"]},
         "tracking.report_to: 'pathlib:Path' is not derived from fcit_ray.tracking.tracker.Tracker"),
        ({"report_to": [OWN], "options": {OWN: {"wrod": 1}}}, f"tracking.options.{OWN}: "),
    ],
)  # fmt: skip
def test_a_tracker_that_cannot_be_made_is_refused_before_the_run(tmp_path, tracking, message) -> None:
    _, config = tracked_runs.start(tmp_path / "run", **tracking)
    with pytest.raises(ConfigError) as error:
        check_trackers([config, config])
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 1, "said once for all runs"


def test_the_tracker_that_the_page_shows_works(tmp_path, monkeypatch, capsys) -> None:
    page = (ROOT / "docs/how-to/track.md").read_text()
    (tmp_path / "my_module.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, config = tracked_runs.start(tmp_path / "run", report_to="my_module:Lines")
    with tracked_runs.session(folder, config):
        tracked_runs.write(folder, RECORDS)
        tracked_runs.finish(folder)
    lines = [json.loads(line) for line in (folder.path / "lines.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    assert capsys.readouterr().out == "55.0\n"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_with_the_command(tmp_path, name, monkeypatch) -> None:
    (tmp_path / name).mkdir()  # such as the folder that wandb makes where it is run: no package
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    _, config = tracked_runs.start(tmp_path / "run", report_to=[name])
    with pytest.raises(ConfigError) as error:
        check_trackers([config])
    assert str(error.value) == (
        f"tracking.report_to: {name} needs the package {name}, which is not installed; pip install 'fcit_ray[{name}]'"
    )
