"""Prepare data.

python pipelines/prepare.py miniature                 # generate the twelve datasets in miniature, data/miniature
python pipelines/prepare.py miniature --out /tmp/mini --seed 1
python pipelines/prepare.py partition configs/task_homogeneous.yaml benchmark.beta=0.5 --out data/FCIT/split-0.5
python pipelines/prepare.py check data/fcit           # every file and image of a data root, before anything expensive
python pipelines/prepare.py check data/fcit --model models/llava-1.5-7b-hf --max-length 2048 --quarantine
python pipelines/prepare.py parquet data/fcit s3://bucket/fcit
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fcit_ray.cli.common import console, exit_on_error, split_overrides
from fcit_ray.errors import UserError

# Each command imports what it needs by itself: `check` starts processes, which import this file again.


def add_miniature(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    miniature.set_defaults(run=run_miniature)


def run_miniature(args: argparse.Namespace) -> int:
    from fcit_ray.data.miniature.writing import write_miniature

    with exit_on_error("start it again to complete it"):
        write_miniature(args.out, num_train=args.num_train, seed=args.seed)
        console.print(f"Miniature benchmark: {args.out}")
    return 0


def add_partition(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    partition.set_defaults(run=run_partition)


def run_partition(args: argparse.Namespace) -> int:
    from fcit_ray.config.reading import load_config
    from fcit_ray.data.partition.writing import write_partition
    from fcit_ray.experiment.components import check_names
    from fcit_ray.results.plots import plot_counts

    with exit_on_error("start it again to complete it"):
        config = load_config(*split_overrides(args.config))
        check_names(config)
        manifest = write_partition(config, args.out, plot_counts)
        checked = manifest["checked"]
        console.print(f"Partition     {args.out}: {len(manifest['tasks'])} tasks, {manifest['num_clients']} clients")
        console.print(f"Records       {checked['records']}, none held twice, none missing")
        console.print(f"Picture       {args.out / 'partition.png'}")
    return 0


def add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser(
        "check",
        help="look a data root over before anything expensive starts",
        description="Look at every record and image of a data root in the authors' layout. Exits with 0 if all of it "
        "can be used, with 1 if something cannot (a record twice in a file counts), with 2 if nothing could be looked "
        "at. Odd answers, and test questions that the training data asks too, are only reported.",
    )
    check.add_argument("root", help="data root: a folder with instructions/ and datasets/")
    check.add_argument("--datasets", nargs="+", default=(), metavar="NAME", help="only these (default: all there are)")
    check.add_argument("--model", help="measure records in tokens of this model: `tiny`, a folder or a cached hub name")
    check.add_argument("--max-length", type=int, help="tokens a record may have, image included; as model.max_length")
    check.add_argument(
        "--template",
        default="vicuna_v1",
        choices=("vicuna_v1", "bare", "chat"),
        help="as model.prompt (default: %(default)s)",
    )
    check.add_argument("--decode", action="store_true", help="decode every pixel, instead of header and end marker")
    check.add_argument("--jobs", type=int, help="processes (default: one a CPU)")
    check.add_argument("--show", type=int, default=5, help="offenders to spell out a dataset (default: %(default)s)")
    check.add_argument("--report", type=Path, metavar="FILE.json", help="write every offender to this file")
    check.add_argument(
        "--quarantine", action="store_true", help="set what cannot be used aside, in ROOT/quarantine.json"
    )
    check.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    from fcit_ray.data.checking.check import TokenLimit, check_root, emptied, set_aside
    from fcit_ray.data.checking.check_table import report_lines
    from fcit_ray.data.checking.processes import usable_cpus
    from fcit_ray.data.checking.report import report_file

    with exit_on_error("nothing was written"):
        if (args.model is None) != (args.max_length is None):
            raise UserError("--model and --max-length belong together: give both or neither")
        for name, least in (("max_length", 1), ("jobs", 1), ("show", 0)):
            if (value := getattr(args, name)) is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
        if args.report and (args.report.is_dir() or not args.report.parent.is_dir()):
            raise UserError(f"--report {args.report}: expected a file in a folder that is there")
        limit = TokenLimit(args.model, args.max_length, args.template) if args.model else None
        with _bars() as progress:
            report = check_root(
                args.root,
                args.datasets,
                limit=limit,
                decode=args.decode,
                jobs=args.jobs or usable_cpus(),
                honour_quarantine=not args.quarantine,
                progress=progress,
            )
        for line in report_lines(report, args.show):
            console.print(line)
        if args.report:
            report_file(args.report, report)
        usable = not report.errors
        if args.quarantine:
            console.print(f"Set aside: {set_aside(report)} records, in {Path(args.root) / 'quarantine.json'}")
            # A whole file cannot be set aside, and something must be left of each.
            nothing_left = emptied(report)
            for source in nothing_left:
                console.print(f"Nothing left: all records of {source} are set aside; a run refuses it")
            usable = all(error.index >= 0 for error in report.errors) and not nothing_left
        return 0 if usable else 1


def add_parquet(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parquet = commands.add_parser(
        "parquet",
        help="convert a data root to sharded Parquet, for object stores",
        description="Convert the instruction files, reference captions and images of a data root to sharded Parquet, "
        "which benchmark.root takes like the root itself. Interrupted, it goes on when it is started again.",
    )
    parquet.add_argument("root", help="data root: a folder with instructions/ and datasets/")
    parquet.add_argument("out", help="folder, or URI that pyarrow knows (s3://bucket/fcit, gs://bucket/fcit)")
    parquet.add_argument(
        "--datasets", nargs="+", default=(), metavar="NAME", help="only these (default: all there are)"
    )
    parquet.add_argument(
        "--images",
        choices=("embed", "reference"),
        default="embed",
        help="put the image files into tables, or leave them below ROOT (default: %(default)s)",
    )
    parquet.add_argument("--rows-per-file", type=int, default=5000, help="rows a file (default: %(default)s)")
    parquet.set_defaults(run=run_parquet)


def run_parquet(args: argparse.Namespace) -> int:
    from fcit_ray.data.parquet.writing import write_parquet

    with exit_on_error("start it again to go on"):
        with _bars() as progress:
            told = partial(progress, "files")
            manifest = write_parquet(args.root, args.out, args.datasets, args.images, args.rows_per_file, told)
        files = [file for table in manifest.tables.values() for file in table]
        size = sum(file.bytes for file in files)
        console.print(f"{len(files)} files, {size / 2**20:.1f} MiB: {args.out}")
        if away := sum(manifest.plan.set_aside.values()):
            console.print(f"Left out: {away} records in quarantine")
    return 0


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for every step that is told of; none where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=total)
            progress.update(bars[step], completed=done)

        yield tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (add_miniature, add_partition, add_check, add_parquet):
        add(commands)
    args = parser.parse_args()
    if status := args.run(args):
        sys.exit(status)


if __name__ == "__main__":
    main()
