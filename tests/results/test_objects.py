"""What a checkpoint shares with others: written once, never taken for what it is not, gone when nothing needs it."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import make_state, start

from fcit_ray.errors import CheckpointError
from fcit_ray.results import checkpoint, objects
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.storage import durable
from fcit_ray.types import ServerState

LARGE = 2**15  # floats: twice the bytes up to which tensors share an object


def unit(name: str) -> str | None:
    """`s0.w` belongs to `s0`; what has no dot to all."""
    return name.partition(".")[0] if "." in name else None


def state_of(round: int, **changes: float) -> ServerState:
    """Three adapters, a projector, a teacher of each, moments and a client's memory, each filled with a number."""
    names = ["s0.w", "s1.w", "s2.w", "projector"]
    values = {name: torch.full((LARGE,), changes.get(name.replace(".", "_"), 1.0)) for name in names}
    return replace(
        make_state(0, round),
        params=values,
        knowledge={"teacher": {name: torch.full((LARGE,), -1.0 - i) for i, name in enumerate(names)}, "count": 3},
        optimizer={name: {"m": torch.full((LARGE,), changes.get("m", 7.0) + i)} for i, name in enumerate(names)},
        memories={"4": {"local": {"c": {"s0.w": torch.full((LARGE,), changes.get("memory", 9.0))}}}},
    )


def names_in(folder: RunFolder) -> set[str]:
    return {path.name for path in (folder.checkpoint_folder / "objects").iterdir()}


def test_a_checkpoint_writes_what_has_changed_and_no_more(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    folder.save_checkpoint(state_of(1), 9, unit)
    # Of params, teacher and moments the three adapters and what is shared, and the memory.
    before = names_in(folder)
    assert len(before) == 3 * 4 + 1
    folder.save_checkpoint(state_of(2, s1_w=2.0), 9, unit)
    [new] = names_in(folder) - before
    assert 0 < (folder.checkpoint_folder / "objects" / new).stat().st_size - 4 * LARGE < 1000, "one adapter"
    folder.save_checkpoint(state_of(3, s1_w=2.0, memory=10.0), 9, unit)
    assert len(names_in(folder)) == 3 * 4 + 3


def test_what_is_changed_in_place_is_written(tmp_path: Path) -> None:
    """A hook may: the tensor is the same object, its bytes are not."""
    folder = start(tmp_path / "run")
    state = state_of(1)
    folder.save_checkpoint(state, 9, unit)
    state.params["s0.w"][5] = 3.0
    folder.save_checkpoint(replace(state, round=2), 9, unit)
    found = folder.latest_checkpoint()
    assert found is not None
    assert found.params["s0.w"][5] == 3.0


def test_small_tensors_share_an_object(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    params = {f"s{k}.w": torch.ones(3) for k in range(20)}
    folder.save_checkpoint(replace(make_state(0, 1), params=params, knowledge={"a": torch.ones(2)}), 1, unit)
    assert len(names_in(folder)) == 2


def test_memories_stay_on_the_disk_until_a_client_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path / "run")
    memories = {str(k): {"local": {"c": torch.full((LARGE,), float(k))}} for k in range(5)}
    state = folder.save_checkpoint(replace(make_state(0, 1), memories=memories), 1)
    read: list[str] = []
    whole = objects.check

    def watch(path: Path, written: Any) -> None:
        read.append(path.name)
        whole(path, written)

    monkeypatch.setattr(objects, "check", watch)
    assert set(state.memories) == set(memories)
    assert state.memories["3"]["local"]["c"][0] == 3.0
    assert len(read) == 1
    after = folder.save_checkpoint(replace(state, round=2, memories={**state.memories, "3": {"x": 1}}), 1)
    assert len(read) == 1, "those that have not changed are not read either"
    assert after.memories["4"]["local"]["c"][0] == 4.0


def test_a_memory_damaged_meanwhile_is_told_when_it_is_wanted(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    state = folder.save_checkpoint(state_of(1), 1, unit)
    path = state.memories["4"].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=rf"{path.name}: damaged, expected sha256 .* found .* copy it again or"):
        dict(state.memories["4"])


def test_what_two_checkpoints_share_is_damaged_in_both(tmp_path: Path) -> None:
    """The remedy must hold: the run resumes from the last one that is whole."""
    folder = start(tmp_path / "run")
    folder.save_checkpoint(state_of(1, s0_w=0.0), 9, unit)
    for round in (2, 3):
        folder.save_checkpoint(state_of(round, s1_w=float(round)), 9, unit)
    first, second, third = folder.checkpoints()
    [shared] = (checkpoint.needed(second) & checkpoint.needed(third)) - checkpoint.needed(first)
    (folder.checkpoint_folder / "objects" / shared).unlink()
    with pytest.raises(CheckpointError) as caught:
        folder.latest_checkpoint()
    assert f"objects/{shared}: missing" in str(caught.value)
    assert f"Delete the folders {third} and {second} and the run resumes from {first.name}" in str(caught.value)


def test_while_a_checkpoint_cannot_be_read_nothing_is_collected(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    folder.save_checkpoint(state_of(1), 2, unit)
    manifest = folder.checkpoints()[0] / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole[:-5])
    before = names_in(folder)
    folder.save_checkpoint(state_of(2, s0_w=2.0), 2, unit)
    assert before <= names_in(folder)
    manifest.write_text(whole)
    folder.save_checkpoint(state_of(3, s0_w=3.0), 2, unit)
    assert names_in(folder) == {name for kept in folder.checkpoints() for name in checkpoint.needed(kept)}


def test_a_strangers_file_among_the_objects_stays(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    folder.save_checkpoint(state_of(1), 1, unit)
    (folder.checkpoint_folder / "objects" / "notes.txt").write_text("mine")
    folder.save_checkpoint(state_of(2, m=8.0), 1, unit)
    assert "notes.txt" in names_in(folder)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_moment_costs_no_checkpoint_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Random states, numbers kept and moments of death; every step that touches the disk may be the last."""
    draw = random.Random(seed)
    folder = start(tmp_path / "run")
    last: ServerState | None = None
    kinds = ("s0_w", "s1_w", "s2_w", "projector", "m", "memory")
    for round in range(1, 25):
        after = state_of(round, **{kind: float(draw.randrange(3)) for kind in draw.sample(kinds, 3)})
        if last is not None and draw.random() < 0.5:  # as a run that goes on: memories are where they were
            found = folder.latest_checkpoint()
            assert found is not None
            after = replace(after, memories=found.memories)
        steps = draw.choice([None, *range(40)])

        def mortal(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                nonlocal steps
                if steps is not None:
                    steps -= 1
                    if steps < 0:
                        raise Killed
                return real(*args, **kwargs)

            return step

        killed = False
        with monkeypatch.context() as patch:
            for module, name in [
                (os, "replace"), (os, "fsync"), (os, "rmdir"), (Path, "unlink"), (Path, "mkdir"), (Path, "write_text"),
                (durable, "sync"),
            ]:  # fmt: skip
                patch.setattr(module, name, mortal(getattr(module, name)))
            try:
                folder.save_checkpoint(after, draw.choice([1, 2, 3]), unit)
            except Killed:
                killed = True
        kept = folder.checkpoints()
        needed = {name for one in kept for name in checkpoint.needed(one)}
        assert needed <= names_in(folder) if kept else True
        for one in kept:
            checkpoint.load(one)
        found = folder.latest_checkpoint()
        if not killed:
            assert needed == names_in(folder), "garbage of earlier kills is gone"
            last = after
        if found is not None and found.round == round:
            last = after  # killed while tidying up
        assert (found is None) == (last is None)
        if found is not None and last is not None:
            assert found.round == last.round
            assert all(found.params[name].equal(value) for name, value in last.params.items())
            memory = found.memories["4"]["local"]["c"]["s0.w"]
            assert memory.equal(last.memories["4"]["local"]["c"]["s0.w"])
