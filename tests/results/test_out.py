"""The folder of several runs, in a store: what one machine wrote there the next one goes on from, one at a time."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fcit_ray.errors import RunFolderError, UserError
from fcit_ray.experiment.loading import load_config
from fcit_ray.results import lock
from fcit_ray.results.finding import find_runs
from fcit_ray.results.out import Out
from fcit_ray.results.records import read_records
from fcit_ray.storage import mirror
from fcit_ray.storage.durable import write_text


def elsewhere() -> None:
    for known in mirror._mirrors.values():
        shutil.rmtree(known.path, ignore_errors=True)
    mirror._mirrors.clear()


@pytest.fixture(params=["disk", "store"])
def place(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "sweep").mkdir()
    yield str(tmp_path / "sweep") if request.param == "disk" else f"memory://{tmp_path.name}/sweep"
    elsewhere()


def test_what_was_proposed_and_made_is_there_for_the_next_machine(place: str) -> None:
    out = Out(place)
    out.append(out.record_file("proposed.jsonl"), {"number": 0})
    write_text(out.path / "table.md", "a table")
    (out.path / ".hidden").touch()
    out.bring()
    elsewhere()
    again = Out(place)
    assert (again.name, again.child("table.md")) == ("sweep", f"{place}/table.md")
    assert again.has("table.md")
    assert not again.has_now("stopped.jsonl")
    file = again.record_file("proposed.jsonl")
    again.append(file, {"number": 1})
    assert read_records(Out(place).record_file("proposed.jsonl")) == [{"number": 0}, {"number": 1}]


def test_a_run_is_found_whatever_its_name(place: str) -> None:
    out = Out(place)
    name = "50%, #1 a=b"
    folder = out.run(name)
    folder.path.mkdir(exist_ok=True)
    write_text(folder.environment_file, '{"format": "fcit_ray run"}')
    folder.bring("environment.json")
    elsewhere()
    assert Out(place).has_now(f"{name}/environment.json")
    [found] = find_runs([place if "://" in place else Path(place)]).unfinished
    assert found.place == out.run(name).place


def test_a_configuration_is_read_from_where_a_run_left_it(place: str) -> None:
    out = Out(place)
    write_text(out.path / "tuned.yaml", "tuned: {Finetune: {train: {lr: 0.25}}}\n")
    out.bring()
    elsewhere()
    assert load_config("miniature", "finetune", out.child("tuned.yaml")).train.lr == 0.25
    with pytest.raises(UserError, match=r"other\.yaml: no such file"):
        load_config("miniature", out.child("other.yaml"))


def test_two_at_once_are_not_let_in(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcit_ray.storage.claims.BEAT_S", 0.1)
    out = Out(place)
    with out.alone():
        held = dict(lock._held)
        lock._held.clear()  # as another process knows nothing of it
        second = Out(place).alone()
        with pytest.raises(RunFolderError, match=r"another process works in it \(process \d+ on \S+, since "), second:
            pass
        lock._held |= held
    with Out(place).alone():
        pass
