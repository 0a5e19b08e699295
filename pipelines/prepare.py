"""Prepare data.

python pipelines/prepare.py miniature                 # generate the twelve datasets in miniature, data/miniature
python pipelines/prepare.py miniature --out /tmp/mini --seed 1
"""

import argparse
from pathlib import Path

from fcit_ray.cli import console, exit_on_error
from fcit_ray.data.miniature import write_miniature


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
    args = parser.parse_args()
    with exit_on_error():
        write_miniature(args.out, num_train=args.num_train, seed=args.seed)
        console.print(f"Miniature benchmark: {args.out}")


if __name__ == "__main__":
    main()
