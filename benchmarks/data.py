"""Whether a trainer waits for its records: Ray Data as the runtime uses it, beside a plain `DataLoader`.

    python benchmarks/data.py
    python benchmarks/data.py --records 1500 --clients 6 --rate 22 --processes 2

Pictures of tables, PNG and JPEG, are drawn into a temporary folder and read at 336 pixels, as LLaVA-1.5 does. The
trainer sleeps as long as a GPU would train: one worker of a real driver, in rounds of clients of different sizes.

    streamed    runtime.cache_mb=0: every record is prepared when it is needed, in the order of training
    cached      shards are kept in the object store
    DataLoader  torch's, shuffled, with as many processes; a new one for every client

The share of the trainer's time in which it had a client and no batch; and records a second where nobody trains, once
with processes still to be started and once with those of the time before. See benchmarks/README.md.
"""

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from PIL import Image, ImageDraw
from rich.table import Table
from torch.utils.data import DataLoader

from fcit_ray.cli.common import console
from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.loading.ahead import AheadBatches
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.samples import Sample, SampleEncoder
from fcit_ray.data.loading.shards import training_batches
from fcit_ray.data.records.layout import Record
from fcit_ray.experiment.opening import Experiment, open_experiment
from fcit_ray.models.folder import TINY
from fcit_ray.models.load import load_processor
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.cluster import start_ray
from fcit_ray.runtime.data import RayShards, sample_encoder
from fcit_ray.runtime.driver_actor import RayDriver
from fcit_ray.runtime.forecast import kept_pieces
from fcit_ray.runtime.launch import run_workers
from fcit_ray.runtime.messages import TrainWork
from fcit_ray.runtime.store import RayStore, share_tensors
from fcit_ray.runtime.train_loop import serve
from fcit_ray.types import ClientUpdate, Params

BATCH = 32
PIXELS, PATCH = 336, 14


@dataclass
class Measured:
    """Of one side.

    Attributes:
        wall_s: of the trainer, from its first client to its last.
        starved_s: of these without a batch.
    """

    wall_s: float
    starved_s: float


def write_tables(root: Path, count: int) -> None:
    """Records as TabMWP's: a drawn table of prices and a question of it."""
    draw = random.Random(0)
    folder = root / "datasets" / "TabMWP"
    folder.mkdir(parents=True)
    (root / "instructions" / "TabMWP").mkdir(parents=True)
    records = []
    for number in range(count):
        rows = draw.randrange(3, 9)
        image = Image.new("RGB", (draw.randrange(300, 800), 30 + 40 * rows), "white")
        pen = ImageDraw.Draw(image)
        prices = [draw.randrange(100, 9000) for _ in range(rows)]
        for row, price in enumerate(prices):
            pen.rectangle((5, 10 + 40 * row, image.width - 5, 50 + 40 * row), outline="black", fill=(235, 240, 250))
            pen.text((20, 22 + 40 * row), f"item {row}", fill="black", font_size=20)
            pen.text((image.width - 120, 22 + 40 * row), f"${price / 100:.2f}", fill="black", font_size=20)
        name = f"{number}.{'png' if number % 2 else 'jpg'}"
        image.save(folder / name)
        picked = draw.randrange(rows)
        conversation = [
            {"from": "human", "value": f"<image>\nHow much is item {picked}? Answer with a number."},
            {"from": "gpt", "value": f"{prices[picked] / 100:.2f}"},
        ]
        records.append({"id": str(number), "image": f"./TabMWP/{name}", "conversations": conversation})
    (root / "instructions" / "TabMWP" / "train.json").write_text(json.dumps(records))
    question = {"question_id": "0", "image": "./TabMWP/0.jpg", "text": "How much is item 0?", "answer": "1"}
    (root / "instructions" / "TabMWP" / "test.json").write_text(json.dumps([question]))


def write_model(folder: Path) -> None:
    """The shipped model, its pictures as large as LLaVA-1.5's; nothing is computed with it."""
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    side = {"height": PIXELS, "width": PIXELS}
    processor = json.loads((TINY / "processor_config.json").read_text())
    processor["image_processor"] |= {"size": side, "crop_size": side}
    processor["patch_size"] = PATCH
    config = json.loads((TINY / "config.json").read_text())
    config["vision_config"] |= {"image_size": PIXELS, "patch_size": PATCH}
    config["image_seq_length"] = (PIXELS // PATCH) ** 2
    for name, settings in (("processor_config.json", processor), ("config.json", config)):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(settings))


def bench_config(root: Path, clients: int, cache_mb: int) -> Config:
    return parse_config(
        {
            "name": "data",
            "benchmark": {
                "root": str(root / "data"),
                "tasks": ["TabMWP"],
                "num_clients": clients,
                "clients_per_round": clients,
                "num_rounds": 1,
            },
            "model": {"path": str(root / "model"), "max_length": 1024},
            "train": {"epochs": 1, "batch_size": BATCH},
            "runtime": {"num_workers": 1, "cpus_per_worker": 0.5, "cache_mb": cache_mb},
        }
    )


class BenchDriver(RayDriver):
    """The real driver, for one round instead of a run; like a run it prepares while the workers start."""

    def __init__(self, experiment: Experiment, folder: RunFolder):
        torch.set_num_threads(1)
        super().__init__(experiment, folder, None)
        self._shards.prepare(0, 0)

    def measure(self) -> list[dict[str, Any]]:
        """Train every client once; where the workers' time went."""
        self._begun.wait()
        state = self._federation.start({"layer_0": torch.ones(1)})
        self._round(state)
        self._queue.finish()
        workers: list[dict[str, Any]] = self._folder.records()[-1]["workers"]
        self._ray_shards.close()
        return workers


class SleepingWorker:
    """Stands where `Worker` stands and trains at a given pace, by doing nothing."""

    attention = ""  # it has no model
    frozen: frozenset[str] = frozenset()

    def __init__(self, store: RayStore, model: str, rate: float):
        self._store = store
        self._collator = Collator.from_processor(load_processor(model))
        self._rate = rate

    def initial_params(self) -> Params:
        return {}

    def perform(self, work: TrainWork, tell: Any, partners: Any = None) -> ClientUpdate:
        job, shard = work.job, work.shard
        params = self._store.get(work.params)
        batches = training_batches(shard, self._collator, BATCH, job.seed, 1)
        began = time.perf_counter()
        with AheadBatches(batches, at_hand=shard.at_hand) as ahead:
            train(ahead(), self._rate)
        spent = time.perf_counter() - began
        return ClientUpdate(
            stage=job.stage,
            round=job.round,
            client=job.client,
            assignment=job.assignment,
            delta={name: value for part in params for name, value in part.items()},
            metrics={"loss": 0.0, "compute_s": spent - ahead.starved_s, "starved_s": ahead.starved_s},
        )


def train(batches: Iterator[dict[str, torch.Tensor]], rate: float) -> None:
    for batch in batches:
        if rate:
            time.sleep(len(batch["input_ids"]) / rate)


def sleeping_loop(context: dict[str, Any]) -> None:
    """What a Ray Train worker runs."""
    torch.set_num_threads(1)
    share_tensors()
    config = context["config"]
    worker = SleepingWorker(RayStore(), config["model"]["path"], context["rate"])
    serve(context["driver"], worker, ray.train.get_context().get_world_rank())


def ours(root: Path, clients: int, cache_mb: int, rate: float) -> Measured:
    config = bench_config(root, clients, cache_mb)
    with tempfile.TemporaryDirectory() as temporary:
        folder = open_run(Path(temporary) / "run", config, resume=False, overwrite=True)
        remote: Callable[..., Any] = ray.remote
        driver = remote(BenchDriver).options(num_cpus=0, max_concurrency=16).remote(open_experiment(config), folder)

        def loop(context: dict[str, Any]) -> None:
            sleeping_loop({**context, "rate": rate})

        training = threading.Thread(target=run_workers, args=(config, folder, driver, loop), daemon=True)
        training.start()
        [worker] = ray.get(driver.measure.remote())
        training.join(timeout=30.0)
        ray.kill(driver)
        folder.release()
    wall = sum(worker[cause] for cause in ("compute_s", "starved_s", "other_s", "idle_s"))
    return Measured(wall, worker["starved_s"])


@dataclass
class Records:
    """What a `DataLoader` reads from."""

    records: list[Record]
    encoder: SampleEncoder

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        torch.set_num_threads(1)
        return self.encoder.encode_train(self.records[index])


def loader(experiment: Experiment, records: list[Record], processes: int) -> Iterator[dict[str, torch.Tensor]]:
    encoder = sample_encoder(experiment)
    collator = Collator.from_processor(load_processor(experiment.config.model.path))
    source: Any = Records(records, encoder)
    return iter(DataLoader(source, BATCH, shuffle=True, num_workers=processes, collate_fn=collator.train))


def plain(root: Path, clients: int, processes: int, rate: float) -> Measured:
    experiment = open_experiment(bench_config(root, clients, 0))
    began = time.perf_counter()
    waited = 0.0
    for client in range(clients):
        begun = time.perf_counter()
        batches = loader(experiment, list(experiment.stream.shard(0, client)), processes)
        while True:
            batch = next(batches, None)
            waited += time.perf_counter() - begun
            if batch is None:
                break
            train(iter([batch]), rate)
            begun = time.perf_counter()
    return Measured(time.perf_counter() - began, waited)


def ours_prepares(root: Path, clients: int, megabytes: int) -> float:
    """Seconds in which Ray Data prepares all records, nobody training."""
    experiment = open_experiment(bench_config(root, clients, megabytes))
    shards = RayShards(experiment, megabytes * 2**20)
    began = time.perf_counter()
    shards.prepare(0, 0)
    sizes = [experiment.stream.num_examples(0, client) for client in range(clients)]
    for client, size in enumerate(sizes):
        while shards.blocks(kept_pieces("train", 0, client, size), 30.0) is None:
            pass
    spent = time.perf_counter() - began
    shards.close()
    return spent


def plain_prepares(root: Path, clients: int, processes: int) -> float:
    experiment = open_experiment(bench_config(root, clients, 0))
    began = time.perf_counter()
    records = [record for client in range(clients) for record in experiment.stream.shard(0, client)]
    for _ in loader(experiment, records, processes):
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1500)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--rate", type=float, default=22.0, help="samples a second that the trainer takes")
    parser.add_argument("--processes", type=int, default=2, help="of the DataLoader; the runtime has what Ray gives it")
    parser.add_argument("--turns", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tables(root / "data", args.records)
        write_model(root / "model")
        start_ray(root / "ray.log", num_cpus=2, address="local")
        megabytes = args.records * PIXELS * PIXELS * 3 * 4 // 2**20  # each of two shards in hand at most half of it all
        dataloader = f"DataLoader, {args.processes} processes"
        sides: dict[str, Callable[[], Measured]] = {
            "streamed": lambda: ours(root, args.clients, 0, args.rate),
            "cached": lambda: ours(root, args.clients, megabytes, args.rate),
            dataloader: lambda: plain(root, args.clients, args.processes, args.rate),
        }
        makes: dict[str, Callable[[], float]] = {
            "Ray Data": lambda: ours_prepares(root, args.clients, megabytes),
            dataloader: lambda: plain_prepares(root, args.clients, args.processes),
        }
        for turn in range(args.turns):
            console.print(f"Turn {turn + 1}: {args.records} records of {args.clients} clients")
            table = Table("records/s, nobody training", "the first time", "again")
            for name, make in makes.items():
                table.add_row(name, *(f"{args.records / make():.0f}" for _ in range(2)))
            console.print(table)
            table = Table(f"{args.rate:g} samples/s", "starved", "starved, s", "trainer, s")
            for name, side in sides.items():
                paced = side()
                share = 100 * paced.starved_s / paced.wall_s
                table.add_row(name, f"{share:.1f} %", f"{paced.starved_s:.2f}", f"{paced.wall_s:.1f}")
            console.print(table)
        ray.shutdown()


if __name__ == "__main__":
    main()
