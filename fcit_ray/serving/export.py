"""A finished run as something that other programs load: a PEFT adapter with its gate, or a merged model.

Legend: K adapters.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fcit_ray.errors import ExportError, disk_reason
from fcit_ray.federated.gates import PortableGate, RouterGate, SimilarityGate
from fcit_ray.results import checkpoint
from fcit_ray.serving.adapter import write_adapter
from fcit_ray.serving.base_files import copy_base
from fcit_ray.serving.card import Card, write_card
from fcit_ray.serving.exported import BASE, STATE
from fcit_ray.serving.gate_files import constant_scale, folded, gate_of, write_gate
from fcit_ray.serving.manifest import ADAPTER, MERGED, is_export, write_manifest
from fcit_ray.serving.merging import write_merged
from fcit_ray.serving.packing import PREFIX, all_one, unpack
from fcit_ray.serving.source import Source, open_source
from fcit_ray.storage.durable import whole_folder
from fcit_ray.storage.file_names import file_name
from fcit_ray.storage.location import is_uri
from fcit_ray.types import ServerState
from fcit_ray.version import __version__

Say = Callable[[str], None]
TASKS: Final = "tasks"
_LICENCE: Final = re.compile(r"[a-z0-9][a-z0-9.\-]*")


def export(
    run: str | Path,
    out: str | Path,
    *,
    license: str | None = None,
    with_base: bool = False,
    per_task: bool = False,
    merge: bool = False,
    task: str | None = None,
    client: int | None = None,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> Path:
    """Make of a finished run what stock PEFT loads, or with `merge` what stock transformers loads.

    Args:
        run: folder of a finished run, or its URI.
        out: folder to write, complete or absent; empty or not there yet.
        license: the hub's identifier of the licence that the adapter is given, for the model card.
        with_base: copy the frozen base into `out` too (the shipped `tiny` always is).
        per_task: write beside the adapter one for each task, with the mean weights of the task's questions folded in.
        merge: add the adapters into the base's weights, and write the whole model instead.
        task: whose mean weights are merged, where the method weighs adapters by sample.
        client: whose model, where every client has one of its own (FedSA).
        overwrite: replace an earlier export in `out`.
        say: told what is done.

    Returns:
        The folder.

    Raises:
        ExportError: what is asked for cannot be made of this run, or `out` is in use.
        RunFolderError, CheckpointError: no finished run, or a damaged one.
        ConfigError, ModelError: its parts or its base are not here.
        OSError: the disk is full, or the like; `out` is as it was.
    """
    run, out = run if is_uri(run) else Path(run), Path(out)
    _check_out(out, run, overwrite)
    if license is not None and not _LICENCE.fullmatch(license):
        raise ExportError(
            f"--license {license!r}: expected one of the hub's identifiers, such as apache-2.0, cc-by-nc-4.0 or other "
            "(https://huggingface.co/docs/hub/repositories-licenses)"
        )
    source = open_source(run, client)
    gate = gate_of(source)
    _check_asked(source, gate, with_base=with_base, per_task=per_task, merge=merge, task=task)
    with_base = not merge and (with_base or source.config.model.path == "tiny")
    means = {name: _mean_gate(source, name) for name in ([task] if task else _tasks(source) if per_task else [])}
    with whole_folder(out.resolve()) as folder:
        kind = MERGED if merge else ADAPTER
        said: dict[str, Any] = {}
        if merge:
            say(f"merging {len(source.layers)} layers into {source.config.model.path} ...")
            write_merged(folder, source, folded(gate, means[task] if task else None))
        else:
            if with_base:
                copy_base(source.base, folder / BASE)
            said = _write_parts(folder, source, gate, _base_name(source, out, with_base), means)
        card = Card(source, gate, license=license, task=task, folded=means, with_base=with_base, merged=merge)
        write_card(folder, card)
        write_manifest(folder, {"fcit_ray": __version__, "kind": kind, **_provenance(source, gate, task), **said})
    return out


def _check_out(out: Path, run: Path | str, overwrite: bool) -> None:
    try:
        there = out.exists() or out.is_symlink()
        if there and not out.is_dir():
            raise ExportError(f"{out}: is a file; give another folder")
        full = there and any(out.iterdir())
    except OSError as error:
        raise ExportError(f"{out}: {disk_reason(error, out)}; give another folder") from None
    if isinstance(run, Path) and out.resolve() == run.resolve():
        raise ExportError(f"{out}: is the run itself; give another folder")
    if full and not is_export(out):
        raise ExportError(f"{out}: holds something else than an export; give another folder")
    if full and not overwrite:
        raise ExportError(f"{out}: holds an export already; --overwrite replaces it, or give another folder")


def _check_asked(
    source: Source, gate: PortableGate | None, *, with_base: bool, per_task: bool, merge: bool, task: str | None
) -> None:
    """Refuse what cannot be true of this run.

    Raises:
        ExportError: says why, and what would do.
    """
    method, run = source.name(), source.trained.source
    if merge and per_task:
        raise ExportError("--merge makes one model: merge one task's weights with --task NAME, or leave one out")
    if merge and with_base:
        raise ExportError("--merge: a merged model holds its base; leave --with-base out")
    if task is not None and not merge:
        raise ExportError("--task: says whose weights --merge takes; for adapters of all tasks there is --per-task")
    if task is not None and task not in _tasks(source):
        raise ExportError(f"--task {task!r}: no task of this run; there are {', '.join(_tasks(source))}")
    if source.residuals and not merge:
        raise ExportError(
            f"{run}: lora.name={source.config.lora['name']} has put part of what was learned into a matrix beside each "
            "layer's frozen weight, which no LoRA adapter holds; --merge exports the whole model, which does"
        )
    if merge and source.config.model.quantize != "none":
        raise ExportError(
            f"{run}: model.quantize={source.config.model.quantize}: the adapters were trained beside weights of four "
            "bits, and merged into whole ones they would meet others; export the adapter (without --merge) and load "
            "its base in four bits"
        )
    if merge and isinstance(gate, RouterGate):
        raise ExportError(
            f"{run}: method.name={method} weighs its {source.bank.num_adapters} adapters for every token anew, and "
            "merged weights are the same for all; export the adapter with its router (without --merge)"
        )
    if merge and isinstance(gate, SimilarityGate) and task is None:
        raise ExportError(
            f"{run}: method.name={method} weighs its {source.bank.num_adapters} adapters for every question anew, and "
            "merged weights are the same for all; export the adapter with its gate (without --merge), or merge the "
            f"mean weights of one task: --task with one of {', '.join(_tasks(source))}"
        )
    if (per_task or task is not None) and not isinstance(gate, SimilarityGate):
        option = "--task" if merge else "--per-task"
        why = (
            "weighs every token by itself, so there is no one set of weights to fold"
            if isinstance(gate, RouterGate)
            else "answers all tasks with the same weights: the export without it is every task's"
        )
        raise ExportError(f"{option}: method.name={method} {why}; leave it out")


def _tasks(source: Source) -> list[str]:
    return [task.name for task in source.config.benchmark.tasks]


def _mean_gate(source: Source, task: str) -> list[float]:
    """The mean weights of a task's questions in the last evaluation; every dataset of the task counts alike. (K,)."""
    [datasets] = [t.datasets for t in source.config.benchmark.tasks if t.name == task]
    rows = [source.mean_gates[name] for name in datasets if name in source.mean_gates]
    if len(rows) < len(datasets):
        raise ExportError(f"{source.trained.source}: no weights of {task} in its last evaluation (metrics.jsonl)")
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _write_parts(
    folder: Path, source: Source, gate: PortableGate | None, base: str, means: dict[str, list[float]]
) -> dict[str, Any]:
    """The adapter, its gate, those of the tasks, and the rest of the state; what the manifest says of them."""
    scale = constant_scale(gate)
    if isinstance(gate, SimilarityGate | RouterGate):
        packed = write_adapter(folder, source, base)
        write_gate(folder, source, gate)
    elif scale is not None:
        packed = write_adapter(folder, source, base, all_one, scale)
    else:
        packed = write_adapter(folder, source, base, folded(gate))
    for task, mean in means.items():
        target = folder / TASKS / file_name(task)
        target.mkdir(parents=True)
        write_adapter(target, source, base, folded(gate, mean))
    return {"layers": source.layers, "projector": source.projector, **_write_state(folder, source, packed)}


def _write_state(folder: Path, source: Source, packed: dict[str, Tensor]) -> dict[str, Any]:
    """What of the run's state the adapter's file does not give back bit for bit."""
    state, number = source.trained.state, source.bank.num_adapters
    held = unpack(packed, source.layers, number) | {name: packed[PREFIX + name] for name in source.projector}
    # A projector that was not trained is the base's own, and matrices beside weights start at zero.
    left = source.bank.frozen(with_projector=source.config.train.projector_lr > 0)
    params = {name: v for name, v in source.params.items() if name not in left}
    kept = {name: v for name, v in params.items() if name not in held or not same_bits(v, held[name])}
    rest = ServerState(
        stage=state.stage, round=state.round, params=kept, knowledge=source.knowledge, optimizer={}, memories={}
    )
    checkpoint.save(rest, folder / STATE)
    return {"num_adapters": number, "params": list(params)}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes, zeros' signs and what is no number included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(*(value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))


def _base_name(source: Source, out: Path, copied: bool) -> str:
    """What the adapter calls its base: the copy beside it, a folder of this machine, or a name of the hub."""
    if copied:
        return str((out / BASE).resolve())
    path = Path(source.config.model.path).expanduser()
    return str(path.resolve()) if path.exists() else source.config.model.path


def _provenance(source: Source, gate: PortableGate | None, task: str | None) -> dict[str, Any]:
    figures = ("tasks", "matrix", "last", "avg", "forgetting", "bwt", "num_records", "transfer", "scoring", "captions")
    return {
        "run": source.results["label"],
        "config": source.config.model_dump(mode="json"),
        "gate": type(gate).__name__ if gate else None,
        "client": source.client,
        "task": task,
        "adapters_sha256": source.results.get("adapters_sha256"),
        "figures": {key: source.results[key] for key in figures if key in source.results},
    }
