"""Converting a checkpoint: original LLaVA-1.5 to the Hugging Face format, CLIP's pytorch_model.bin to safetensors.

Everything is checked by name and shape before a byte is written. Tensors are then copied about 2 GB at a time, each in
the type it has in its file. The result is complete or absent: it is prepared in a hidden folder and renamed at the end.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fcit_ray.errors import ModelError
from fcit_ray.models.conversion.tensor_files import reading
from fcit_ray.models.folder import weight_files
from fcit_ray.storage import durable
from fcit_ray.storage.safe_tensors import save_tensors

SHARD_NUMBERS = 10**9
"""Numbers in a file of the result, unless one tensor has more: 2 GB in half precision."""

NUM_SHOWN = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a conversion takes from where.

    Attributes:
        origin: name in the result to (file, name there).
        shapes: of those tensors as they are there.
        num_rows: of tensors that get more rows than they have there: how many in all.
        write_rest: writes everything but the tensors into a folder: configuration, tokenizer, processor.
    """

    origin: Mapping[str, tuple[Path, str]]
    shapes: Mapping[str, tuple[int, ...]]
    write_rest: Callable[[Path], None]
    num_rows: Mapping[str, int] = field(default_factory=dict)


def convert(plan: Plan, out: Path, say: Say = lambda line: None) -> None:
    """Carry out a plan. Whatever an interrupted run left is removed first.

    Args:
        plan: complete and checked.
        out: folder to write; must not exist.
        say: told of every file.

    Raises:
        ModelError: `out` exists.
    """
    if out.exists():
        raise ModelError(f"{out}: exists already; name another folder, or see with --check whether it is whole")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = durable.partial(out)
    if partial.exists():
        say(f"starting anew: {partial} was left by an interrupted conversion")
        shutil.rmtree(partial)
    partial.mkdir()
    plan.write_rest(partial)
    groups = list(_groups(plan))
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors" if len(groups) > 1 else "model.safetensors"
        say(f"{file}: {len(names)} tensors of {plan.origin[names[0]][0].name}")
        tensors = dict(_tensors(plan, names))
        save_tensors(tensors, partial / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        durable.write_text(partial / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    for path in partial.iterdir():
        durable.sync(path)
    durable.sync(partial)
    durable.rename(partial, out)


def check(plan: Plan, out: Path) -> int:
    """Compare a finished conversion with its source, tensor by tensor and bit by bit; return the number of tensors.

    Raises:
        ModelError: names what is missing, unexpected or different.
    """
    files = weight_files(out)
    report(out, missing=plan.origin.keys() - files.keys(), unexpected=files.keys() - plan.origin.keys())
    different = []
    for names in _groups(plan):
        for name, expected in _tensors(plan, names):
            with safe_open(out / files[name], framework="pt") as tensors:
                found = tensors.get_tensor(name)
            if found.dtype != expected.dtype or not torch.equal(found, expected):
                different.append(name)
    report(out, different=different)
    return len(plan.origin)


def report(where: Path, **problems: Iterable[str]) -> None:
    """Raise a ModelError that counts the problems of every kind and spells out the first."""
    lines = []
    for kind, found in problems.items():
        if names := sorted(found):
            more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
            lines.append(f"\n  {len(names)} {kind.replace('_', ' ')}: {', '.join(names[:NUM_SHOWN])}{more}")
    if lines:
        raise ModelError(f"{where}: not the tensors expected" + "".join(lines))


def _groups(plan: Plan) -> Iterator[list[str]]:
    """Names that are written to one file: all of one source file, and no more than make a shard."""
    by_file: dict[Path, list[str]] = {}
    for name, (file, _) in plan.origin.items():
        by_file.setdefault(file, []).append(name)
    for file in sorted(by_file):
        group: list[str] = []
        size = 0
        for name in sorted(by_file[file]):
            numbers = prod(plan.shapes[name])
            if group and size + numbers > SHARD_NUMBERS:
                yield group
                group, size = [], 0
            group.append(name)
            size += numbers
        yield group


def _tensors(plan: Plan, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the result; all the names are of one source file."""
    with reading(plan.origin[names[0]][0]) as file:
        for name in names:
            tensor = file.tensor(plan.origin[name][1])
            if name in plan.num_rows:
                tensor = fill_up(tensor, plan.num_rows[name])
            yield name, tensor.contiguous()


def fill_up(rows: Tensor, num_rows: int) -> Tensor:
    """Rows (V, D) and as many times their mean as make (num_rows, D)."""
    mean = rows.float().mean(0).to(rows.dtype)
    return torch.cat([rows, mean.expand(num_rows - len(rows), -1)])
