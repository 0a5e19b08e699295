"""What of a whole run is client compute and answering; beside a plain process, and beside Flower's simulation.

    python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py benchmark.num_rounds=1 train.epochs=1
    python benchmarks/end_to_end.py --flower /tmp/flower/bin/python

Runs `fcit-ray run miniature disco` (with overrides, if there are any) as its user would, the same run in a worker group
that another run has used before, and the same clients, in the same batches, one after another by stock PEFT in one
process that starts, trains, answers and ends. `--flower` names the Python of an environment with
`flwr[simulation]`, torch, transformers and peft, where the same client code runs on as many slots as there are workers.

    busy    seconds in which workers trained and answered, of the workers' seconds from start to end
    phases  seconds in which somebody trained or answered, of all from start to end (what is not is start, stop, waits)

See benchmarks/README.md for figures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.shards import LocalShard, training_batches
from fcit_ray.experiment.loading import load_config
from fcit_ray.experiment.opening import Experiment, local_training, open_experiment
from fcit_ray.models.folder import model_folder
from fcit_ray.models.load import load_base, load_processor
from fcit_ray.models.structure import find_structure, language_targets
from fcit_ray.results.opening import open_run
from fcit_ray.runtime.cluster import start_ray
from fcit_ray.runtime.data import sample_encoder
from fcit_ray.runtime.starting import stop_ray
from fcit_ray.runtime.together import Planned, launch_together
from fcit_ray.seeds import derive_seed

HERE = Path(__file__).parent
INPUTS = {"input_ids", "attention_mask", "labels", "pixel_values"}


def shares(name: str, folder: Path, seconds: float, workers: int) -> str:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rounds = [record for record in records if record["kind"] == "round"]
    answers = [record for record in records if record["kind"] == "evaluation"]
    training = sum(client["seconds"] for record in rounds for client in record["clients"])
    answering = sum(record["answer_s"] for record in answers)
    phases = sum(record["seconds"]["train"] for record in rounds) + sum(r["seconds"]["answer"] for r in answers)
    busy = (training + answering) / (workers * seconds)
    return (
        f"{name}: {seconds:.1f} s; training {training:.1f} s and answering {answering:.1f} s of {workers} workers: "
        f"busy {busy:.0%}; phases {phases / seconds:.0%}, so {1 - phases / seconds:.0%} is neither"
    )


def cold(arguments: list[str], folder: Path) -> float:
    """The command, from its start to its end."""
    began = time.monotonic()
    command = [sys.executable, "-m", "fcit_ray", "run", *arguments, "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def warm(config: Config, folder: Path) -> float:
    """The same run in a group that has served another; from when its turn comes to its results."""
    first = config.model_copy(update={"name": "first", "train": config.train.model_copy(update={"epochs": 1})})
    first = first.model_copy(update={"benchmark": config.benchmark.model_copy(update={"num_rounds": 1})})
    experiment, began = open_experiment(config), 0.0

    def planned(config: Config, experiment: Experiment, name: str) -> Planned:
        return Planned(config, open_run(folder / name, config, resume=False, overwrite=False), experiment)

    def around(name: str, once: Any) -> Any:
        nonlocal began
        began = time.monotonic()
        return once()

    def ended(name: str, end: "Future[Any]") -> None:
        nonlocal began
        end.result()
        began = time.monotonic() - began

    start_ray(folder / "ray.log")
    runs = {"first": planned(first, open_experiment(first), "first"), "second": planned(config, experiment, "second")}
    launch_together(runs, folder / "logs", around, on_status=lambda name, status: None, on_end=ended, most=1)
    stop_ray()
    return began


def write_work(config: Config, experiment: Experiment, folder: Path, file: Path) -> None:
    """Clients as batches, in the order in which a run's records have them, and the questions after its stages."""
    encoder, train = sample_encoder(experiment), local_training(config)
    collator = Collator.from_processor(load_processor(config.model.path))
    names = [task.name for task in config.benchmark.tasks]
    rounds: list[Any] = []
    questions: dict[int, Any] = {}

    def inputs(batch: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in batch.items() if key in INPUTS}

    for record in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if record["kind"] == "round":
            clients = []
            for client in record["clients"]:
                records = experiment.stream.shard(names.index(client["task"]), client["client"])
                shard = LocalShard(tuple(map(encoder.encode_train, records)))
                seed = derive_seed(config.seed, "client", record["stage"], record["round"], client["client"])
                batches = training_batches(shard, collator, train.batch_size, seed, train.epochs)
                clients.append({"batches": list(map(inputs, batches())), "num_examples": len(records)})
            rounds.append(clients)
            questions[len(rounds) - 1] = []
        if record["kind"] == "round" and record["round"] == config.benchmark.num_rounds - 1:
            samples = [
                encoder.encode_test(r) for n in experiment.evaluated(record["stage"]) for r in experiment.tests[n]
            ]
            size = config.evaluation.batch_size
            starts = range(0, len(samples), size)
            questions[len(rounds) - 1] = [inputs(collator.prompts(samples[start : start + size])) for start in starts]
    base = load_base(config.model.path, config.model.dtype, config.model.attention, config.model.quantize, False)
    language = find_structure(base, config.model.projector).language
    work = {
        "model": str(model_folder(config.model.path)),
        "targets": language_targets(base, language, config.model.targets),
        "rank": config.model.rank // 8,
        "lr": train.lr,
        "max_new_tokens": config.evaluation.max_new_tokens,
        "rounds": rounds,
        "questions": questions,
    }
    torch.save(work, file)


def timed(command: list[str], **environment: str) -> tuple[float, str]:
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr[-2000:]}")
    return time.monotonic() - began, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="of the miniature's DISCO")
    parser.add_argument("--flower", metavar="PYTHON", help="an environment's, with Flower")
    args = parser.parse_args()
    config = load_config("miniature", "disco", overrides=args.overrides)
    workers = config.runtime.num_workers
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds = cold(["miniature", "disco", *args.overrides], folder / "cold")
        print(shares("cold", folder / "cold", seconds, workers), flush=True)
        print(shares("warm", folder / "second", warm(config, folder), workers), flush=True)
        write_work(config, open_experiment(config), folder / "cold", folder / "work.pt")
        plain, said = timed([sys.executable, str(HERE / "plain_clients.py"), str(folder / "work.pt")])
        training, answering, _ = map(float, said.split()[-3:])
        print(
            f"plain process: {plain:.1f} s; training {training:.1f} s, answering {answering:.1f} s; the cold run takes "
            f"{seconds / plain:.2f} of it",
            flush=True,
        )
        if not args.flower:
            print("Flower: not run, as --flower names no environment that has it")
            return
        flower, _ = timed(
            [args.flower, str(HERE / "flower_clients.py"), str(workers)], FLOWER_WORK=str(folder / "work.pt")
        )
        print(f"Flower's simulation, {workers} slots: {flower:.1f} s; the cold run takes {seconds / flower:.2f} of it")


if __name__ == "__main__":
    main()
