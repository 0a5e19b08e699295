"""`fcit-ray run`: one run, or with --plan what it needs."""

from typing import TYPE_CHECKING, Annotated

import typer

from fcit_ray.cli.arguments import Configs, Overwrite, Resume, split_overrides
from fcit_ray.cli.common import console, exit_on_error, tell
from fcit_ray.errors import UserError

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config


def run(
    config: Configs,
    out: Annotated[
        str | None, typer.Option(help="Run folder, or its URI, s3://bucket/run (default: runs/<name>-seed<seed>).")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what the run needs, start nothing; exits with 2 if it cannot fit.")
    ] = False,
    gpus: Annotated[
        int | None,
        typer.Option(help="With --plan: GPUs, a worker on each, or several by runtime.gpus_per_worker."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="With --plan: what each has, such as H100 or A100-40GB (default: this machine's)."),
    ] = None,
    gpu_memory_gb: Annotated[float | None, typer.Option(help="With --plan: memory of each, 10^9 bytes.")] = None,
) -> None:
    """Train and evaluate one run on Ray; its folder holds figures, pictures and a page about them, report.html.

    \b
    fcit-ray run miniature disco
    fcit-ray run miniature disco seed=1 train.epochs=2
    fcit-ray run miniature disco --plan
    fcit-ray run CONFIG... --plan --gpus 4 --gpu H100
    """
    with exit_on_error():
        if gpus is not None and gpus < 1:
            raise UserError(f"--gpus {gpus}: expected at least 1")
        if gpu_memory_gb is not None and not gpu_memory_gb > 0:
            raise UserError(f"--gpu-memory-gb {gpu_memory_gb:g}: expected a number above 0")
        if not plan and (gpus or gpu or gpu_memory_gb):
            raise UserError("--gpus, --gpu and --gpu-memory-gb go with --plan")
        from fcit_ray.experiment.loading import load_config

        names, overrides = split_overrides(config)
        loaded = load_config(*names, overrides=overrides)
        if plan:
            show_plan(loaded, gpus, gpu, gpu_memory_gb)
            return
        from fcit_ray.cli import running

        results = running.carry_out(loaded, out, resume=resume, overwrite=overwrite, progress=True, last=True)
        from fcit_ray.results.diagnostics import diagnostics_table
        from fcit_ray.results.tables import comparison_table, row_from_results
        from fcit_ray.storage.location import child_of

        console.print(comparison_table([row_from_results(results.values)]))
        if oddities := diagnostics_table([results.values]):
            console.print(oddities)
        console.print(f"Run folder    {results.place}")
        if (results.folder / "report.html").is_file():
            console.print(f"Report        {child_of(results.place, 'report.html')}")
        console.print(f"Heat map      {child_of(results.place, 'accuracy_matrix.png')}")
        console.print(f"Curves        {child_of(results.place, 'curves.png')}")
        console.print(f"Predictions   {child_of(results.place, 'predictions/<stage>/<dataset>.jsonl')}")


def show_plan(config: "Config", gpus: int | None, gpu: str | None, memory_gb: float | None) -> None:
    """Print the plan; a run that cannot fit raises ConfigError behind it."""
    tell(f"{config.name}: planning ...")
    from fcit_ray.errors import ConfigError, DataError
    from fcit_ray.experiment.opening import open_experiment
    from fcit_ray.planning.report import check_memory, make_plan, plan_basis, plan_tables
    from fcit_ray.planning.speed import Device, found_gpu, named_gpu, this_cpu, workers_on
    from fcit_ray.runtime.data import sample_encoder

    dtype = config.model.dtype
    try:
        device = named_gpu(gpu, memory_gb, dtype) if gpu else found_gpu(memory_gb, dtype)
    except ValueError as error:
        raise ConfigError(f"--gpu: {error}") from None
    if device is None:
        device = Device("GPU", 0.0, 0.0, memory_gb * 1e9, "--gpu names one") if memory_gb else this_cpu(dtype)
    experiment, encoder = None, None
    missing = ""
    try:
        experiment = open_experiment(config, for_plan=True)
        encoder = sample_encoder(experiment)
    except DataError as error:
        missing = str(error)
    workers = workers_on(gpus, config.runtime) if gpus else config.runtime.num_workers
    plan = make_plan(config, device, workers, experiment, encoder)
    for table in plan_tables(plan):
        console.print(table)
    if missing:
        console.print(f"data: {missing}", markup=False)
    for line in plan_basis(plan):
        console.print(line, markup=False)
    if warning := check_memory(plan):
        console.print(f"warning: {warning}", markup=False)
