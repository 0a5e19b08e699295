"""`fcit-ray prepare`: draw, check, convert and share out data."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from fcit_ray.cli.arguments import Configs, ManyValues, split_overrides
from fcit_ray.cli.common import console, exit_on_error, tell
from fcit_ray.cli.declared import Catalog, Data, declared_data
from fcit_ray.cli.prepare_init import init
from fcit_ray.errors import UserError

prepare = typer.Typer(
    help="Prepare data: declare your own, draw the miniature, look data over, convert or share it out."
)
prepare.command()(init)

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME|KEY=VALUE]...", help="Only these datasets; overrides of a configuration.", show_default=False
    ),
]
Datasets = Annotated[
    list[str] | None, typer.Option(metavar="NAME...", help="Only these (default: all there are).", show_default=False)
]


@prepare.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@prepare.command()
def miniature(
    benchmark: Annotated[
        Literal["fcit", "ucit", "mllm_dcl", "coin"], typer.Option(help="Whose datasets, in the layout of its files.")
    ] = "fcit",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Data root to write (default: data/miniature, or data/miniature_BENCHMARK).", show_default=False
        ),
    ] = None,
    num_train: Annotated[int, typer.Option(help="Training records a dataset.")] = 300,
    seed: Annotated[int, typer.Option(help="Of every picture and question.")] = 0,
) -> None:
    """Draw the twelve FCIT datasets in miniature, in the authors' layout, or those of another benchmark.

    The same arguments give the same bytes; a folder that already holds them is left as it is.

    \b
    fcit-ray prepare miniature
    fcit-ray prepare miniature --benchmark ucit
    """
    with exit_on_error("start it again to complete it"):
        out = out or Path("data") / ("miniature" if benchmark == "fcit" else f"miniature_{benchmark}")
        tell(f"drawing {out} ...")
        from fcit_ray.data.miniature.writing import write_miniature

        write_miniature(out, num_train=num_train, seed=seed, benchmark=benchmark)
        console.print(f"Miniature benchmark: {out}")


@prepare.command()
def partition(
    config: Configs,
    out: Annotated[Path, typer.Option(help="Folder of the partition.", show_default=False)],
) -> None:
    """Share the training data of a configuration out over its clients, once, into files.

    They are Task<k>/client_<i>.json with a manifest and a picture; benchmark.partition=files reads them back. A
    finished one is left alone.

    \b
    fcit-ray prepare partition task_homogeneous benchmark.beta=0.5 --out data/FCIT/split-0.5
    """
    with exit_on_error("start it again to complete it"):
        from fcit_ray.experiment.loading import load_config

        names, overrides = split_overrides(config)
        loaded = load_config(*names, overrides=overrides)
        tell(f"sharing {loaded.benchmark.root} out over {loaded.benchmark.num_clients} clients ...")
        from fcit_ray.data.partition.writing import write_partition
        from fcit_ray.results.plots import plot_counts

        manifest = write_partition(loaded, out, plot_counts)
        checked = manifest["checked"]
        console.print(f"Partition     {out}: {len(manifest['tasks'])} tasks, {manifest['num_clients']} clients")
        console.print(f"Records       {checked['records']}, none held twice, none missing")
        console.print(f"Picture       {out / 'partition.png'}")


@prepare.command(cls=ManyValues)
def check(
    data: Data,
    words: Words = None,
    datasets: Datasets = None,
    catalog: Catalog = None,
    model: Annotated[
        str | None, typer.Option(help="Measure records in tokens of this model: `tiny`, a folder or a cached hub name.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens a record may have, image included; as model.max_length.")
    ] = None,
    template: Annotated[Literal["vicuna_v1", "bare", "chat"], typer.Option(help="As model.prompt.")] = "vicuna_v1",
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every pixel, instead of header and end marker.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes (default: one a CPU).")] = None,
    show: Annotated[int, typer.Option(help="Offenders to spell out a dataset.")] = 5,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write every offender to this file.")] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set what cannot be used aside, in quarantine.json in the root.")
    ] = False,
) -> None:
    """Look at every record and image of declared data, before anything expensive starts.

    DATA is a configuration, whose datasets are looked over, or the root of a known benchmark. Exits with 0 if all of it
    can be used, with 1 if something cannot (a record twice in a file counts), with 2 if nothing could be looked at. Odd
    answers, and test records that are in the training data too, are only reported.

    \b
    fcit-ray prepare check mine.yaml
    fcit-ray prepare check data/FCIT
    fcit-ray prepare check data/FCIT --model models/llava-1.5-7b --max-length 2048 --quarantine
    """
    with exit_on_error("nothing was written"):
        if (model is None) != (max_length is None):
            raise UserError("--model and --max-length belong together: give both or neither")
        for name, value, least in (("max-length", max_length, 1), ("jobs", jobs, 1), ("show", show, 0)):
            if value is not None and value < least:
                raise UserError(f"--{name} {value}: expected at least {least}")
        if report and (report.is_dir() or not report.parent.is_dir()):
            raise UserError(f"--report {report}: expected a file in a folder that is there")
        tell(f"looking over {data} ...")
        from fcit_ray.data.checking.check import TokenLimit, check_data, emptied, set_aside
        from fcit_ray.data.checking.check_table import report_lines
        from fcit_ray.data.checking.processes import usable_cpus
        from fcit_ray.data.checking.report import report_file

        declared = declared_data(data, words or (), datasets or (), catalog)
        limit = TokenLimit(model, max_length, template) if model and max_length else None
        with _bars() as progress:
            found = check_data(
                declared.collection,
                declared.names,
                partition=declared.partition,
                limit=limit,
                decode=decode,
                jobs=jobs or usable_cpus(),
                honour_quarantine=not quarantine,
                progress=progress,
            )
        for line in report_lines(found, show):
            console.print(line)
        if report:
            report_file(report, found)
        usable = not found.errors
        if quarantine:
            console.print(f"Set aside: {set_aside(found)} records, in {Path(found.root) / 'quarantine.json'}")
            # A whole file cannot be set aside, and something must be left of each.
            nothing_left = emptied(found)
            for source in nothing_left:
                console.print(f"Nothing left: all records of {source} are set aside; a run refuses it")
            usable = all(error.index >= 0 for error in found.errors) and not nothing_left
    if not usable:
        sys.exit(1)


@prepare.command(cls=ManyValues)
def parquet(
    data: Data,
    target: Annotated[
        str, typer.Argument(help="Folder, or URI that pyarrow knows (s3://bucket/fcit, gs://bucket/fcit).")
    ],
    words: Words = None,
    datasets: Datasets = None,
    catalog: Catalog = None,
    images: Annotated[
        Literal["embed", "reference"],
        typer.Option(help="Put the image files into tables, or leave them where they are."),
    ] = "embed",
    rows_per_file: Annotated[int, typer.Option(help="Rows a file.")] = 5000,
) -> None:
    """Convert declared data to sharded Parquet, for object stores.

    Files of records, reference captions and images become what benchmark.root takes like the root itself.
    Interrupted, it goes on when it is started again.

    \b
    fcit-ray prepare parquet mine.yaml data/mine-parquet
    fcit-ray prepare parquet data/FCIT s3://bucket/fcit
    """
    with exit_on_error("start it again to go on"):
        tell(f"converting {data} ...")
        from fcit_ray.data.parquet.writing import write_parquet

        declared = declared_data(data, words or (), datasets or (), catalog)
        with _bars() as progress:
            told = partial(progress, "files")
            manifest = write_parquet(declared.collection, target, declared.names, images, rows_per_file, told)
        files = [file for table in manifest.tables.values() for file in table]
        size = sum(file.bytes for file in files)
        console.print(f"{len(files)} files, {size / 2**20:.1f} MiB: {target}")
        if away := sum(manifest.plan.set_aside.values()):
            console.print(f"Left out: {away} records in quarantine")


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for every step that is told of; none where there is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=total)
            progress.update(bars[step], completed=done)

        yield show
