"""A checkpoint comes back bit for bit or not at all: a run that resumes from other bits is another run."""

import hashlib
import json
import math
import os
import random
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from fcit_ray.errors import CheckpointError
from fcit_ray.results import checkpoint
from fcit_ray.storage import durable
from fcit_ray.types import ServerState

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
SHAPES = [(), (0,), (1,), (3, 0, 2), (4, 5), (2, 3, 4)]


def make_state(**fields: Any) -> ServerState:
    defaults: dict[str, Any] = {
        "stage": 3, "round": 2, "params": {"layer.0.A": torch.arange(6.0).view(2, 3)},
        "knowledge": {"num_seen": 7}, "optimizer": {}, "memories": {},
    }  # fmt: skip
    return ServerState(**{**defaults, **fields})


def same(left: Any, right: Any) -> bool:
    """Equality of types, order and bits, nan included."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and (left.dtype, left.shape) == (right.dtype, right.shape)
            and bits(left) == bits(right)
        )
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return bool(left == right)


def bits(value: torch.Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(draw: random.Random) -> torch.Tensor:
    dtype, shape = draw.choice(DTYPES), draw.choice(SHAPES)
    size = math.prod(shape) * dtype.itemsize
    raw = bytes(draw.randrange(2) if dtype == torch.bool else draw.randrange(256) for _ in range(size))
    # Any bits at all: nans with payloads, denormals, negative zeros.
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype) if raw else torch.empty(0, dtype=dtype)
    value = flat.reshape(shape)
    return value.transpose(0, -1) if draw.random() < 0.3 and value.dim() > 1 else value


def random_tree(draw: random.Random, depth: int) -> Any:
    kinds = ["tensor", "int", "float", "text", "bool", "none", *(["list", "tuple", "dict"] * 2 if depth else [])]
    match draw.choice(kinds):
        case "tensor":
            return random_tensor(draw)
        case "int":
            return draw.choice([0, -1, 2**63, -(10**40)])
        case "float":
            return draw.choice([0.1, -0.0, 5e-324, 1e308, math.inf, -math.inf, math.nan])
        case "text":
            return draw.choice(["", "$tensor", "a/b~c", "é\n\x00\u2028", "\ud800"])
        case "bool":
            return draw.random() < 0.5
        case "none":
            return None
        case "list":
            return [random_tree(draw, depth - 1) for _ in range(draw.randrange(3))]
        case "tuple":
            return tuple(random_tree(draw, depth - 1) for _ in range(draw.randrange(3)))
    return random_dict(draw, depth - 1)


def random_dict(draw: random.Random, depth: int) -> dict[str, Any]:
    keys = ["a", "a/b", "a~1b", "a~", "", "$tensor", "$$tuple", "$float", ".", "0", "clé"]
    return {key: random_tree(draw, depth) for key in draw.sample(keys, draw.randrange(5))}


def test_any_tree_comes_back_bit_for_bit(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(60):
        state = make_state(
            stage=number,
            params={f"p/{i}~{draw.random()}": random_tensor(draw) for i in range(3)},
            knowledge=random_dict(draw, 3), optimizer=random_dict(draw, 2), memories=random_dict(draw, 3),
        )  # fmt: skip
        checkpoint.save(state, tmp_path / str(number))
        found = checkpoint.load(tmp_path / str(number))
        for name in ("stage", "round", "params", "knowledge", "optimizer", "memories"):
            assert same(getattr(state, name), getattr(found, name)), (number, name)


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    params = {f"{dtype}{shape}": torch.ones(shape).to(dtype) for dtype in DTYPES for shape in SHAPES}
    checkpoint.save(make_state(params=params), tmp_path / "c")
    assert same(params, checkpoint.load(tmp_path / "c").params)


def test_views_of_one_storage_come_back_apart(tmp_path: Path) -> None:
    """safetensors refuses shared memory, and a loaded tensor that moves with another would change a run's bits."""
    base = torch.arange(12.0)
    state = make_state(params={"a": base[:6], "b": base[3:9], "c": base.view(3, 4).t(), "d": base})
    checkpoint.save(state, tmp_path / "c")
    found = checkpoint.load(tmp_path / "c")
    assert same(dict(state.params), found.params)
    found.params["a"].zero_()
    assert found.params["d"].equal(base)


def test_names_keep_their_order(tmp_path: Path) -> None:
    """A norm sums over the parameters in their order: another order, another last bit."""
    names = ["z", "a", "m", "b"]
    checkpoint.save(make_state(params={name: torch.ones(1) for name in names}), tmp_path / "c")
    assert list(checkpoint.load(tmp_path / "c").params) == names


def test_paths_that_look_alike_do_not_meet(tmp_path: Path) -> None:
    knowledge = {"a": {"b": torch.tensor(1)}, "a/b": torch.tensor(2), "a~1b": torch.tensor(3), "a~0": torch.tensor(4)}
    checkpoint.save(make_state(knowledge=knowledge), tmp_path / "c")
    assert same(knowledge, checkpoint.load(tmp_path / "c").knowledge)


@pytest.mark.parametrize(
    ("leaf", "word"),
    [
        (object(), "object"), ({1: 2}, "keys are texts"), ({1, 2}, "set"), (b"x", "bytes"),
        (torch.ones(2).numpy()[0], "float32"), (torch.eye(2).to_sparse(), "dense"),
        (torch.ones(1, device="meta"), "dense"),
    ],
)  # fmt: skip
def test_what_cannot_come_back_is_refused_by_path(tmp_path: Path, leaf: Any, word: str) -> None:
    with pytest.raises(CheckpointError, match=f"knowledge/deep.*{word}"):
        checkpoint.save(make_state(knowledge={"deep": leaf}), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_flipped_bit_in_any_file_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoint.save(make_state(knowledge={"w": torch.ones(3), "n": 1.5}), folder, {"metrics": {"bytes": 7}})
    draw = random.Random(0)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        places = range(len(whole)) if file.name == "manifest.json" else draw.sample(range(len(whole)), 15)
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                checkpoint.load(folder)
        file.write_bytes(whole)
    checkpoint.load(folder)


def test_the_damage_report_names_file_digests_and_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoint.save(make_state(), folder)
    entry = json.loads((folder / "manifest.json").read_text())["files"]["params.safetensors"]
    file = folder / "params.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    for part in (str(file), f"expected sha256 {entry['sha256']}", f"found {found}", "use another checkpoint"):
        assert part in str(caught.value)


def test_a_missing_or_cut_file_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoint.save(make_state(), folder)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=file.name):
            checkpoint.load(folder)
        file.unlink()
        with pytest.raises(CheckpointError, match=f"{file.name}: missing"):
            checkpoint.load(folder)
        file.write_bytes(b"[" * 100_000)  # JSON nested beyond what Python reads
        with pytest.raises(CheckpointError, match=rf"{file.name}: damaged"):
            checkpoint.load(folder)
        file.write_bytes(whole)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "absent")


def test_a_newer_format_is_refused_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "VERSION", 5)
        checkpoint.save(make_state(), tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"format version 5, this program reads version 4.*release"):
        checkpoint.load(tmp_path / "c")


@pytest.mark.parametrize("step", ["sync", "rename"])
def test_killed_while_saving_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, step, die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(make_state(), tmp_path / "c")
    assert [child.name for child in tmp_path.iterdir()] == [".c.partial"]
    checkpoint.save(make_state(), tmp_path / "c")
    assert [child.name for child in tmp_path.iterdir()] == ["c"], "the next save clears what the kill left"
    checkpoint.load(tmp_path / "c")


def test_saving_again_replaces_the_whole_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(make_state(params={"old": torch.ones(1)}), tmp_path / "c")
    checkpoint.save(make_state(params={"new": torch.ones(1)}), tmp_path / "c")
    assert list(checkpoint.load(tmp_path / "c").params) == ["new"]
    assert [child.name for child in tmp_path.iterdir()] == ["c"]


def test_gradients_and_the_saved_tensors_stay_untouched(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    checkpoint.save(make_state(params={"w": weight, "conj": torch.tensor([1 + 2j]).conj()}), tmp_path / "c")
    found = checkpoint.load(tmp_path / "c").params
    assert weight.requires_grad
    assert not found["w"].requires_grad
    assert found["conj"].tolist() == [1 - 2j]


def test_what_lies_beside_a_checkpoint_is_said_and_said_anew(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoint.save(make_state(), folder, {"metrics": {"bytes": 7}})
    assert checkpoint.beside(folder) == {"metrics": {"bytes": 7}}
    checkpoint.write_beside(folder, {"metrics": {"bytes": 9}})
    assert checkpoint.beside(folder) == {"metrics": {"bytes": 9}}
    assert same(dict(checkpoint.load(folder).params), dict(make_state().params))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664)])
def test_whoever_may_read_the_folder_may_read_its_files(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        checkpoint.save(make_state(), tmp_path / "c")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "c").iterdir()}
    assert modes == dict.fromkeys(modes, mode)


def test_a_checkpoint_of_an_older_format_says_what_to_do(tmp_path: Path) -> None:
    """Format 2 vouched for nothing beside itself."""
    folder = tmp_path / "c"
    checkpoint.save(make_state(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    old = {"format": manifest["format"], "version": 2, "files": manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(old, indent=1) + "\n")
    for read in (checkpoint.load, checkpoint.beside):
        with pytest.raises(
            CheckpointError, match=r"format version 2, .* the release .* that wrote it, or .*--overwrite"
        ):
            read(folder)


def test_the_format_before_is_read(tmp_path: Path) -> None:
    """Format 3 had two files of tensors in every checkpoint, as one by itself has them now."""
    folder = tmp_path / "c"
    state = make_state(memories={"3": {"local": {"c": torch.ones(2)}}})
    checkpoint.save(state, folder, {"metrics": {"bytes": 7}})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 3}, indent=1) + "\n")
    found = checkpoint.load(folder)
    assert same(dict(state.params), found.params)
    assert same(state.memories, found.memories)
    assert checkpoint.beside(folder) == {"metrics": {"bytes": 7}}
    checkpoint.write_beside(folder, {"metrics": {"bytes": 9}})  # a run of the release before goes on
    assert same(dict(state.params), checkpoint.load(folder).params)


def test_knowledge_is_read_alone_by_name(tmp_path: Path) -> None:
    tokens = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    odd = torch.tensor([1 + 2j], dtype=torch.complex128)
    state = ServerState(
        stage=1, round=0, params={"w": torch.ones(3)}, optimizer={}, memories={},
        knowledge={"tokens": tokens, "odd": odd, "stages": 2, "deep": {"tokens": tokens + 1}},
    )  # fmt: skip
    checkpoint.save(state, tmp_path / "saved")
    found = checkpoint.load_knowledge(tmp_path / "saved", ("odd", "tokens", "stages", "deep", "absent"))
    assert found.keys() == {"odd", "tokens"}
    assert torch.equal(found["tokens"], tokens)
    assert torch.equal(found["odd"], odd)
    (tmp_path / "saved/params.safetensors").unlink()  # not needed
    checkpoint.load_knowledge(tmp_path / "saved", ["tokens"])
    (tmp_path / "saved/state.safetensors").write_bytes(b"x")
    assert checkpoint.load_knowledge(tmp_path / "saved", ["absent"]) == {}
    with pytest.raises(CheckpointError, match=r"state\.safetensors: damaged"):
        checkpoint.load_knowledge(tmp_path / "saved", ["tokens"])
