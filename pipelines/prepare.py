"""Prepare data.

python pipelines/prepare.py miniature                 # generate the twelve datasets in miniature, data/miniature
python pipelines/prepare.py miniature --out /tmp/mini --seed 1
python pipelines/prepare.py partition configs/task_homogeneous.yaml benchmark.beta=0.5 --out data/FCIT/split-0.5
"""

import argparse
from pathlib import Path

from fcit_ray.cli import console, exit_on_error, split_overrides
from fcit_ray.config import load_config
from fcit_ray.data.miniature import write_miniature
from fcit_ray.data.partition_writing import write_partition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    miniature = commands.add_parser(
        "miniature",
        help="draw the twelve FCIT datasets in miniature, in the authors' layout",
        description="Draw the twelve FCIT datasets in miniature, in the authors' layout. The same arguments give the "
        "same bytes; a folder that already holds them is left as it is.",
    )
    miniature.add_argument("--out", type=Path, default=Path("data/miniature"), help="data root (default: %(default)s)")
    miniature.add_argument(
        "--num-train", type=int, default=300, help="training records a dataset (default: %(default)s)"
    )
    miniature.add_argument("--seed", type=int, default=0, help="of every picture and question (default: %(default)s)")
    partition = commands.add_parser(
        "partition",
        help="share the training data out over the clients once, into files",
        description="Share the training data of a configuration out over its clients, into Task<k>/client_<i>.json "
        "with a manifest and a picture; benchmark.partition=files reads them back. A finished one is left alone.",
    )
    partition.add_argument(
        "config", nargs="+", metavar="FILE | key.path=value", help="YAML files, merged in order, and overrides"
    )
    partition.add_argument("--out", type=Path, required=True, help="folder of the partition")
    args = parser.parse_args()
    with exit_on_error():
        if args.command == "partition":
            manifest = write_partition(load_config(*split_overrides(args.config)), args.out)
            checked = manifest["checked"]
            console.print(
                f"Partition     {args.out}: {len(manifest['tasks'])} tasks, {manifest['num_clients']} clients"
            )
            console.print(f"Records       {checked['records']}, none held twice, none missing")
            console.print(f"Picture       {args.out / 'partition.png'}")
            return
        write_miniature(args.out, num_train=args.num_train, seed=args.seed)
        console.print(f"Miniature benchmark: {args.out}")


if __name__ == "__main__":
    main()
