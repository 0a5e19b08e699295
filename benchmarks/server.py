"""What the server of a round costs: memory and time a client, and what a round's checkpoint writes.

    python benchmarks/server.py memory --clients 10 100 1000
    python benchmarks/server.py memory --clients 10 100 --rule trimmed_mean --order longest
    python benchmarks/server.py checkpoint --scratch /tmp

`memory`: updates of 65 MB come in one after another, out of shared memory, are admitted, folded or left to wait, and
the round is closed, as the driver does it. All updates are one payload: a round of 1,000 needs no 65 GB to come from.
Beside it what the driver did before: every update copied into its heap, and combined at the end. Each number of
clients is a process of its own; memory is its largest resident set beyond what it had before the round, shared pages
included.

`checkpoint`: states of LLaVA-1.5-7B's shapes: DISCO in its eighth stage, and SCAFFOLD with a memory of each of fifty
clients. Bytes that the checkpoint after a round writes, beside the same state written as a whole, as before.

See benchmarks/README.md for figures.
"""

import argparse
import json
import mmap
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from fcit_ray.cli.common import console
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.federation import Federation
from fcit_ray.federated.robust import Mean, Median, Rule, TrimmedMean
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.disco import Disco
from fcit_ray.models.names import adapter_index
from fcit_ray.results import checkpoint
from fcit_ray.results.objects import Objects
from fcit_ray.runtime.arrivals import Arrivals
from fcit_ray.runtime.waiting import WaitingRoom
from fcit_ray.types import Client, ClientUpdate, Params, ServerState, Setting

RULES: Mapping[str, Rule] = {"mean": Mean(), "median": Median(), "trimmed_mean": TrimmedMean()}
MEGABYTES, TENSORS = 65, 40
HIDDEN, FFN, LAYERS, VISION, RANK, SUBSPACES = 4096, 11008, 32, 1024, 8, 8  # LLaVA-1.5-7B, DISCO's eight of rank 8
CLIENTS, SELECTED = 50, 5


class Everybody:
    """All clients in every round."""

    def __init__(self, count: int):
        draw = random.Random(0)
        self._clients = [Client(index, 0, draw.randint(10, 3000), torch.ones(4)) for index in range(count)]

    def select(self, stage: int, round: int) -> Sequence[Client]:
        return self._clients


def shared_payload() -> Params:
    """An update in shared memory, as Ray's object store hands it over."""
    entries = MEGABYTES * 1_000_000 // 4 // TENSORS
    memory = mmap.mmap(-1, entries * 4 * TENSORS)
    whole = torch.frombuffer(memory, dtype=torch.float32)
    whole.copy_(torch.linspace(-1, 1, len(whole)))
    return {f"layer_{number}": whole[number * entries : (number + 1) * entries] for number in range(TENSORS)}


def before(run: Federation, state: ServerState, updates: list[ClientUpdate]) -> Params:
    """What the server made of a list of updates: per name all senders' values, then the rule."""
    items, weights = [u.delta for u in updates], [run.aggregation.weight(u.client) for u in updates]
    if isinstance(run.aggregation.rule, Mean):
        mean = {}
        for name in items[0]:
            senders = [(item[name], weight) for item, weight in zip(items, weights, strict=True)]
            total = sum(weight for _, weight in senders)
            mean[name] = torch.zeros_like(senders[0][0])
            for value, weight in senders:
                mean[name].add_(value, alpha=weight / total)
        return mean
    return run.aggregation.rule.combine(items, weights)


def one_round(side: str, count: int, rule: str, order: str, scratch: Path) -> dict[str, float]:
    """Peak memory, seconds a client and bytes of the waiting file of one round, in this process."""
    torch.set_num_threads(1)
    setting = Setting(num_stages=1, num_rounds=1, num_clients=count, clients_per_round=count, seed=0)
    run = Federation(Disco(), FedAvg(), Everybody(count), setting, aggregation=Aggregation(rule=RULES[rule]))
    payload = shared_payload()
    state = run.start({name: torch.zeros_like(value) for name, value in payload.items()})
    jobs = run.plan(state)
    came = list(jobs) if order == "plan" else sorted(jobs, key=lambda job: -job.client.num_examples)
    start, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with WaitingRoom(scratch) as room:
        arrivals = Arrivals(run, jobs, room)
        updates: dict[int, ClientUpdate] = {}
        for job in came:
            update = ClientUpdate(
                stage=0, round=0, client=job.client, assignment=job.assignment, delta=payload, metrics={"loss": 1.0}
            )
            if side == "old":
                run.admit(job, update)
                updates[job.client.index] = replace(update, delta={n: v.clone() for n, v in payload.items()})
            else:
                updates[job.client.index] = arrivals.take(job, update, frozenset())
        ordered = [updates[job.client.index] for job in jobs]
        run.close(state, ordered, before(run, state, ordered) if side == "old" else arrivals.mean())
        seconds, waited = time.perf_counter() - began, room.file_bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    return {"peak_mb": peak * 1024 / 1e6, "seconds": seconds / count, "file_gb": waited / 1e9}


def measure_memory(args: argparse.Namespace) -> None:
    table = Table("clients", "before: peak, MB", "s a client", "now: peak, MB", "s a client", "waited in the file, GB")
    for count in args.clients:
        cells = [str(count)]
        for side in ("old", "new"):
            if side == "old" and count * MEGABYTES / 1e3 > args.most_gb:
                cells += ["(does not fit)", ""]
                continue
            command = [sys.executable, __file__, "one", side, str(count), args.rule, args.order, str(args.scratch)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            cells += [f"{found['peak_mb']:.0f}", f"{found['seconds']:.3f}"]
        table.add_row(*cells, f"{found['file_gb']:.1f}")
    console.print(f"Updates of {MEGABYTES} MB, {args.rule}, in the order of {args.order}")
    console.print(table)


def shapes() -> dict[str, tuple[int, ...]]:
    """Trainable parameters of DISCO on LLaVA-1.5-7B: adapters on the FFN, and the projector."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        for module, (inputs, outputs) in {
            "gate_proj": (HIDDEN, FFN),
            "up_proj": (HIDDEN, FFN),
            "down_proj": (FFN, HIDDEN),
        }.items():
            for adapter in range(SUBSPACES):
                path = f"model.language_model.layers.{layer}.mlp.{module}"
                found[f"{path}.lora_A.s{adapter}.weight"] = (RANK, inputs)
                found[f"{path}.lora_B.s{adapter}.weight"] = (outputs, RANK)
    for number, inputs in ((1, VISION), (2, HIDDEN)):
        found[f"model.multi_modal_projector.linear_{number}.weight"] = (HIDDEN, inputs)
        found[f"model.multi_modal_projector.linear_{number}.bias"] = (HIDDEN,)
    return found


def drawn(names: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=draw) for name, shape in names.items()}


def measure_checkpoint(args: argparse.Namespace) -> None:
    names = shapes()
    trained = {name: shape for name, shape in names.items() if adapter_index(name) in (None, SUBSPACES - 1)}
    tokens = {"tokens": torch.rand(SUBSPACES, 768), "mass": torch.ones(SUBSPACES)}
    disco = ServerState(stage=7, round=0, params=drawn(names, 0), knowledge=tokens, optimizer={}, memories={})
    own = drawn(trained, 1)

    def memory(value: float) -> dict[str, Any]:
        """A client's own, different from all others in one number: the rest of the memory is theirs together."""
        name = next(iter(own))
        return {"local": {"c": {**own, name: own[name] + value}}}

    variates = replace(disco, local={"c": own}, memories={str(k): memory(k) for k in range(CLIENTS)})
    table = Table("state", "before: MB written", "s", "now: MB written", "s")
    for label, state in {"DISCO, eighth stage": disco, f"SCAFFOLD, {CLIENTS} clients": variates}.items():
        changed = {"params": {**state.params, **drawn(trained, 2)}}
        if state.local:
            changed["local"] = {"c": drawn(trained, 3)}
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            folder = Path(scratch)
            objects = Objects(folder / "objects")
            kept, _, _ = saved(state, folder / "first", objects)
            if state.local:
                changed["memories"] = {**kept.memories, **{str(k): memory(100.0 + k) for k in range(SELECTED)}}
            _, now_bytes, now = saved(replace(kept, round=1, **changed), folder / "second", objects)
            shutil.rmtree(folder / "objects")
            _, before_bytes, before = saved(state, folder / "whole", None)
            table.add_row(label, f"{before_bytes / 1e6:.0f}", f"{before:.1f}", f"{now_bytes / 1e6:.0f}", f"{now:.1f}")
    trained_mb = sum(4 * torch.Size(shape).numel() for shape in trained.values()) / 1e6
    console.print(f"7B shapes; a client trains {trained_mb:.0f} MB, {SELECTED} of {CLIENTS} are selected")
    console.print(table)


def saved(state: ServerState, folder: Path, objects: Objects | None) -> tuple[ServerState, int, float]:
    """A checkpoint: the state as it is kept, bytes written, seconds."""
    there, began = size_of(folder.parent), time.perf_counter()
    kept = checkpoint.save(state, folder, None, objects, adapter_index)
    seconds = time.perf_counter() - began
    return kept, size_of(folder.parent) - there, seconds


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    memory = commands.add_parser("memory")
    memory.add_argument("--clients", type=int, nargs="+", default=[10, 30, 100, 300, 1000], help="of a round")
    memory.add_argument("--rule", choices=RULES, default="mean", help="over clients")
    memory.add_argument("--order", choices=("plan", "longest"), default="plan", help="in which they come in")
    memory.add_argument("--most-gb", type=float, default=10.0, help="of updates that the old way is tried with")
    memory.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="disk of the waiting file")
    writing = commands.add_parser("checkpoint")
    writing.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="8 GB must be free there")
    one = commands.add_parser("one")
    for name, kind in (("side", str), ("count", int), ("rule", str), ("order", str), ("scratch", Path)):
        one.add_argument(name, type=kind)
    args = parser.parse_args()
    if args.command == "one":
        print(json.dumps(one_round(args.side, args.count, args.rule, args.order, args.scratch)))
    elif args.command == "memory":
        measure_memory(args)
    else:
        measure_checkpoint(args)


if __name__ == "__main__":
    main()
