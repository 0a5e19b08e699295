"""Pre-train the tiny base model and put it where the library ships it: `python pipelines/pretrain_tiny.py`."""

import argparse
import json
import logging
from dataclasses import fields
from pathlib import Path

import torch

from fcit_ray.models.pretrain_tiny import Recipe, pretrain
from fcit_ray.models.tiny import ASSET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSET, help="folder to write (checkpoints, too)")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # one thread: two spinning OpenMP threads on a busy two-core box are many times slower
    torch.set_num_threads(1)
    out = arguments.pop("out")
    print(json.dumps(pretrain(Recipe(**arguments), out), indent=1))


if __name__ == "__main__":
    main()
