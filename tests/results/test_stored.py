"""A run folder in a store: killed between any two operations there, it is whole, and the run goes on from it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs
from run_folders import make_config

from fcit_ray.errors import CheckpointError, RunFolderError
from fcit_ray.results import lock, opening
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.storage import claims, mirror, working_copies
from fcit_ray.types import ServerState

URI = "memory://bucket/runs/x"


class Killed(BaseException):
    """Not an error that anybody handles."""


class Dying:
    """A file system that is killed before its nth change, or fails transiently; counts changes."""

    def __init__(self, system: Any):
        self.system = system
        self.type_name = "s3"  # an object appears when it is closed
        self.changes: list[str] = []
        self.left: int | None = None
        self.fails: list[OSError] = []

    def change(self, what: str) -> None:
        if ".locks/" in what:
            return
        if self.fails:
            raise self.fails.pop()
        if self.left is not None:
            if not self.left:
                raise Killed
            self.left -= 1
        self.changes.append(what)

    def open_output_stream(self, path: str) -> "Whole":
        self.change(f"put {path}")
        return Whole(self.system, path)

    def delete_file(self, path: str) -> None:
        self.change(f"delete {path}")
        self.system.delete_file(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)


class Whole:
    """An object that appears when it is closed."""

    def __init__(self, system: Any, path: str):
        self.system, self.path, self.content = system, path, b""

    def write(self, content: bytes) -> None:
        self.content += content

    def close(self) -> None:
        self.system.create_dir(self.path.rpartition("/")[0], recursive=True)
        with self.system.open_output_stream(self.path) as file:
            file.write(self.content)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dying]:
    """A store that is a folder; each `elsewhere` is another machine."""
    (tmp_path / "store").mkdir()
    dying = Dying(fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem()))
    monkeypatch.setattr(mirror, "file_system", lambda uri: (dying, uri.partition("://")[2]))
    monkeypatch.setattr(opening, "this_session", lambda seed: {"seed": seed, "versions": {}})  # which asks git
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # it is the store that is looked at
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    elsewhere()
    yield dying
    dying.left = None
    elsewhere()


def elsewhere() -> None:
    """From here on this process is another one, on another machine: nothing that it knew or had is there."""
    for held in list(lock._claims.values()):
        held._over.set()
        held._mirror.drop(held.name)  # as if the time had passed after which it is nobody's
    for descriptor in lock._held.values():
        lock.os.close(descriptor)
    lock._claims.clear()
    lock._held.clear()
    for known in mirror._mirrors.values():
        shutil.rmtree(known.path, ignore_errors=True)
    mirror._mirrors.clear()


def resume() -> RunFolder:
    return open_run(URI, make_config(), resume=True, overwrite=False)


def make(round: int, params: dict[str, Any], knowledge: dict[str, Any], memories: dict[str, Any]) -> ServerState:
    return ServerState(stage=0, round=round, params=params, knowledge=knowledge, optimizer={}, memories=memories)


def state_at(round: int) -> ServerState:
    """Part of it changes every round, part never; one client more remembers something."""
    params = {"a": torch.full((40_000,), float(round)), "b": torch.ones(40_000)}
    memories = {str(client): {"m": torch.full((3,), float(client))} for client in range(round)}
    return make(round, params, {"k": torch.tensor([round])}, memories)


def values_of(state: ServerState | None) -> tuple[int, list[float], int] | None:
    if state is None:
        return None
    assert {name: memory["m"].tolist() for name, memory in state.memories.items()} == {
        str(client): [float(client)] * 3 for client in range(state.round)
    }
    return state.round, sorted({*state.params["a"].tolist()}), int(state.knowledge["k"])


def one_round(folder: RunFolder, state: ServerState | None) -> ServerState:
    """As the driver does it: a long update is kept, the record is written, then the checkpoint; older ones go."""
    before = state.round if state else 0
    folder.keep_update(0, make(before, {"a": torch.ones(3)}, {}, {}))
    folder.write_predictions("stage_0000", "IconQA", [{"round": before}])
    folder.log({"kind": "round", "stage": 0, "round": before})
    memories = {**(state.memories if state else {}), str(before): {"m": torch.full((3,), float(before))}}
    after = make(before + 1, state_at(before + 1).params, {"k": torch.tensor([before + 1])}, memories)
    return folder.save_checkpoint(after, keep=1, unit=lambda name: name)


def go_on(rounds: int) -> None:
    folder = resume()
    with folder.writing():
        state = folder.latest_checkpoint()
        folder.rewind(state.stage if state else float("-inf"), state.round if state else 0)
        while (state.round if state else 0) < rounds:
            state = one_round(folder, state)
        folder.drop_checkpoints(keep=1)  # as after the last evaluation
        folder.write_results({"label": "x"})
    folder.release()


def test_killed_before_any_change_of_the_store_the_run_goes_on_elsewhere_from_the_last_round(store: Dying) -> None:
    go_on(2)
    total = len(store.changes)
    assert total > 20
    done_after = [
        sum("checkpoints/stage" in change and change.startswith("put") and "manifest" in change
            for change in store.changes[:number])
        for number in range(total)
    ]  # fmt: skip
    for number in range(total):
        store.delete_dir("bucket")
        elsewhere()
        store.left = number
        with pytest.raises(Killed):
            go_on(2)
        store.left = None
        elsewhere()
        seen = RunFolder.at(URI)
        finished = seen.finished
        found = values_of(seen.latest_checkpoint())
        rounds = done_after[number]
        assert found == ((rounds, [float(rounds)], rounds) if rounds else None), number  # no finished round is lost
        assert len(seen.records()) >= rounds
        elsewhere()
        go_on(2)
        elsewhere()
        whole = RunFolder.at(URI)
        assert whole.results() == {"label": "x"}
        assert [record["round"] for record in whole.records()] == [0, 1]
        assert values_of(whole.latest_checkpoint()) == (2, [2.0], 2)
        assert not finished or number == total
        left = set(mirror.mirror_of(URI).list())
        assert not {name for name in left if name.startswith(("under_way", ".locks"))}, number
        assert len({name for name in left if "/stage_0000_round" in name}) == 2, left  # one checkpoint: two files
        needed = {name for name in left if "/objects/" in name}
        whole.save_checkpoint(state_at(2), keep=1, unit=lambda name: name)
        assert needed == {
            name for name in mirror.mirror_of(URI).list() if "/objects/" in name
        }  # no object is left over


def test_killed_while_a_run_is_overwritten_the_folder_is_ours_and_can_be_overwritten(store: Dying) -> None:
    go_on(2)
    elsewhere()
    kept = {info.path: store.open_input_stream(info.path).read()
            for info in store.get_file_info(fs.FileSelector("bucket", recursive=True)) if info.is_file}  # fmt: skip
    before = len(store.changes)
    open_run(URI, make_config(), resume=False, overwrite=True).release()
    for number in range(len(store.changes) - before):
        elsewhere()
        store.delete_dir("bucket")
        for path, content in kept.items():
            out = Whole(store.system, path)
            out.write(content)
            out.close()
        store.left = number
        with pytest.raises(Killed):
            open_run(URI, make_config(), resume=False, overwrite=True)
        store.left = None
        elsewhere()
        open_run(URI, make_config(), resume=False, overwrite=True).release()
        assert set(mirror.mirror_of(URI).list()) == {"config.yaml", "environment.json"}, number


def test_an_update_under_way_is_gone_on_with_by_another_machine(store: Dying) -> None:
    folder = resume()
    worker = RunFolder.at(URI, fetch=False)
    worker.keep_update(3, make(0, {"a": torch.arange(3.0)}, {}, {}))
    elsewhere()
    assert not (folder.path / "under_way").exists()
    found = RunFolder.at(URI, fetch=False).kept_update(0, 0, 3)
    assert found is not None
    assert found.params["a"].tolist() == [0.0, 1.0, 2.0]
    assert RunFolder.at(URI, fetch=False).kept_update(0, 0, 4) is None
    elsewhere()
    resume()  # it has begun: nothing of it is deleted
    assert RunFolder.at(URI, fetch=False).kept_update(0, 0, 3) is not None


def test_a_store_that_fails_for_a_while_is_asked_again(store: Dying, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(mirror.time, "sleep", waits.append)
    folder = resume()
    store.fails = [OSError("AWS Error SLOW_DOWN during PutObject"), OSError("AWS Error INTERNAL_FAILURE")]
    folder.log({"kind": "round", "stage": 0, "round": 0})
    assert waits == [0.5, 1.0]
    elsewhere()
    assert RunFolder.at(URI).records() == [{"kind": "round", "stage": 0, "round": 0}]


def test_a_store_that_refuses_is_named_at_once_with_what_to_do(store: Dying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror.time, "sleep", lambda s: pytest.fail("asked again"))
    folder = resume()
    store.fails = [OSError("AWS Error ACCESS_DENIED during PutObject operation: no")]
    with pytest.raises(RunFolderError, match=f"^{URI}/metrics.jsonl: cannot be written: .*--resume goes on from it"):
        folder.log({"kind": "round", "stage": 0, "round": 0})


def test_a_store_that_never_answers_is_given_up(store: Dying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "GIVE_UP_S", 0.0)
    folder = resume()
    store.fails = [OSError("timed out")]
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: cannot be written: timed out"):
        folder.log({"kind": "round", "stage": 0, "round": 0})


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:], None])
def test_an_object_that_was_damaged_in_the_store_is_not_taken(store: Dying, damage: Callable[[bytes], bytes]) -> None:
    go_on(1)
    elsewhere()
    [name] = [name for name, size in mirror.mirror_of(URI).list().items() if "/objects/" in name and size > 100_000][:1]
    path = f"bucket/runs/x/{name}"
    content = store.open_input_stream(path).read()
    store.system.delete_file(path)
    if damage is not None:
        with store.system.open_output_stream(path) as file:
            file.write(damage(content))
    with pytest.raises(CheckpointError, match=Path(name).name) as caught:
        RunFolder.at(URI).latest_checkpoint()
    assert f"{URI}/{name}" in working_copies.told(str(caught.value))


def test_a_folder_of_something_else_is_left_alone(store: Dying) -> None:
    other = mirror.mirror_of(URI)
    other.write_text("their/file", "precious")
    elsewhere()
    with pytest.raises(RunFolderError, match="holds files, but none that fcit_ray wrote"):
        open_run(URI, make_config(), resume=False, overwrite=True)
    assert mirror.mirror_of(URI).list() == {"their/file": 8}


def test_two_processes_are_not_let_in_and_a_live_one_is_named(store: Dying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.1)
    resume()
    other = mirror.Mirror(URI)  # of another machine
    with pytest.raises(claims.Claimed, match=r"^process \d+ on \S+, since "):
        claims.claim(other, "run", refuse_live=True)
    assert len(other.list(".locks")) == 1


def test_a_claim_without_signs_of_life_is_waited_for_and_taken(store: Dying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "STALE_S", 1.0)
    monkeypatch.setattr(claims, "_where", lambda: "another machine")
    resume()
    dead = next(iter(lock._claims.values()))
    dead._over.set()  # killed: it says nothing more
    monkeypatch.setattr(claims, "_where", lambda: "here")
    other = mirror.Mirror(URI)
    taken = claims.claim(other, "run", refuse_live=True)
    assert set(other.list(".locks")) == {taken.name}
    dead._over.clear()  # it was only asleep, and writes again
    dead._beat_at -= 60
    with pytest.raises(RunFolderError, match="has lost its hold on the folder"):
        RunFolder.at(URI, fetch=False).log({"kind": "round", "stage": 0, "round": 0})
    assert "metrics.jsonl" not in other.list()
    taken.release()


def test_a_process_of_this_machine_that_is_gone_need_not_be_waited_for(store: Dying) -> None:
    known = mirror.mirror_of(URI)
    said = {**claims._myself(), "holds": True, "beat": 7}
    for number, gone in enumerate(({"started": "1"}, {"pid": 2**22 + 1})):  # the number is another's now; nobody's
        known.write_text(f".locks/run/{number}.json", lock.json.dumps(said | gone))
    claims.claim(known, "run", refuse_live=True).release()
    assert known.list(".locks") == {}


def test_working_copies_of_processes_that_are_gone_are_deleted(store: Dying, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "fcit_ray" / "runs" / f"{'a' * 16}-1-0"
    left.mkdir(parents=True)
    (left / "big").write_bytes(b"x")
    mine = mirror.mirror_of(URI)
    assert not left.exists()
    mirror.mirror_of("memory://bucket/runs/y")
    assert mine.path.is_dir()
