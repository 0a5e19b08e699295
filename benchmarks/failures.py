"""A round of a thousand clients of which one in twenty fails at random, through the failure policy, beside one of none.

    python benchmarks/failures.py
    python benchmarks/failures.py --clients 40 --tasks 1

Whole runs on Ray, one after the other in one cluster: a generated miniature shared out equally, so that a client has
two records, one step each; two workers of the tiny model; a round a stage.

    none     no client fails
    once     those that fail do so once: their updates come at the second attempt
    always   they fail at every attempt: after `failures.retries` the round goes on without them

See benchmarks/README.md for figures.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from fcit_ray.cli.common import console
from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.tables import comparison_table, row_from_results
from fcit_ray.runtime.cluster import start_ray
from fcit_ray.runtime.launch import launch

RECORDS = 2  # of a client
TASKS = ("IconQA", "CLEVR-Math")


def configuration(name: str, root: Path, args: argparse.Namespace, **method: Any) -> Config:
    return parse_config(
        {
            "name": name,
            "method": {"name": "unreliable:Unreliable", "frac": args.frac, **method},
            "benchmark": {
                "root": str(root), "tasks": list(TASKS[: args.tasks]), "partition": "equal", "min_samples": 1,
                "num_clients": args.clients, "clients_per_round": args.clients, "num_rounds": 1,
            },
            "model": {"path": "tiny", "max_length": 256, "rank": 8, "alpha": 16, "dropout": 0.0},
            "train": {"lr": 5e-3, "projector_lr": 2e-4},
            "evaluation": {"batch_size": 12, "max_new_tokens": 4, "every_stage": False},
            "runtime": {"num_workers": 2, "cpus_per_worker": 0.5, "keep_checkpoints": 1},
            "failures": {"then": "drop", "retries": 2},
        }
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000, help="of a round")
    parser.add_argument("--tasks", type=int, choices=[1, 2], default=2)
    parser.add_argument("--frac", type=float, default=0.05, help="of the clients that fail")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_miniature(place / "data", num_train=RECORDS * args.clients, num_validation=2, num_test=48)
        (place / "once").mkdir()
        start_ray(num_cpus=2, address="local")
        kinds: dict[str, dict[str, Any]] = {
            "none": {"frac": 0.0}, "once": {"once": str(place / "once")}, "always": {},
        }  # fmt: skip
        rows = []
        for name, method in kinds.items():
            config = configuration(name, place / "data", args, **method)
            began = time.monotonic()
            results = launch(config, open_run(place / name, config, resume=False, overwrite=False))
            rounds = [record for record in RunFolder(place / name).records() if record["kind"] == "round"]
            train_s = [round(record["seconds"]["train"], 1) for record in rounds]
            loss = [round(record["loss"], 4) for record in rounds]
            console.print(
                f"{name:7}{time.monotonic() - began:6.1f} s in all; rounds {train_s} s, loss {loss}; "
                f"{results.get('failures', {})}; adapters {results['adapters_sha256'][:8]}"
            )
            rows.append(row_from_results(results))
        console.print(comparison_table(rows))


if __name__ == "__main__":
    main()
