"""A run from a checked configuration to its results: what the command `run` and `fcit_ray.run` do."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fcit_ray.cli.common import console, tell
from fcit_ray.cli.job import check_job
from fcit_ray.importing import swift_imports

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config
    from fcit_ray.experiment.opening import Experiment
    from fcit_ray.results.reading import Results
    from fcit_ray.runtime.starting import RayBeside


def run(
    config: "Config",
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> "Results":
    """Train and evaluate a run on Ray: the cluster of `RAY_ADDRESS` or `ray start`, else one on this machine.

    Everything that needs no model is checked before anything else starts than Ray itself, which does so meanwhile.
    Interrupted (Ctrl-C, a signal) or killed, the run goes on from its last checkpoint with `resume`, to the same bits.

    Args:
        config: of `load_config`.
        out: run folder, or its URI (`s3://bucket/run`); `runs/<name>-seed<seed>` by default.
        resume: go on with the unfinished run in the folder; a finished one is only read.
        overwrite: delete the run in the folder and start anew.
        progress: show on standard error where the run stands.

    Returns:
        The results of the finished run.

    Raises:
        UserError: configuration, data, model or run folder cannot be used as asked; before Ray starts, but for what
            only shows while it runs (a picture that does not decode, a full disk).
        RunFailed: the run cannot go on; says why.
    """
    return carry_out(config, out, resume=resume, overwrite=overwrite, progress=progress, last=False)


def carry_out(
    config: "Config", out: str | Path | None, *, resume: bool, overwrite: bool, progress: bool, last: bool
) -> "Results":
    """As `run`; where this is the `last` thing that the process does on Ray, that ends while the report is written."""
    check_job(out or f"runs/{config.name.lower()}-seed{config.seed}", [config])
    if progress:
        tell(f"{config.name}: checking configuration and data ...")
    from fcit_ray.runtime.starting import RayBeside

    with RayBeside() as beside:
        return _run(config, out, beside, resume=resume, overwrite=overwrite, progress=progress, last=last)


def _run(
    config: "Config",
    out: str | Path | None,
    beside: "RayBeside",
    *,
    resume: bool,
    overwrite: bool,
    progress: bool,
    last: bool,
) -> "Results":
    with swift_imports():
        from fcit_ray.cli.display import Display
        from fcit_ray.cli.page import leave_report
        from fcit_ray.experiment.opening import open_experiment
        from fcit_ray.results.opening import open_run
        from fcit_ray.results.reading import Results
        from fcit_ray.runtime.driver_place import lone_disk
        from fcit_ray.runtime.launch import launch
        from fcit_ray.runtime.room import never_joining
        from fcit_ray.storage.file_names import file_name
        from fcit_ray.storage.location import is_uri
        from fcit_ray.tracking.choose import check_trackers
        from fcit_ray.tracking.following import Following

    check_trackers([config])
    experiment = open_experiment(config)
    if config.runtime.gpu:
        _check_gpu(experiment)
    called = f"{config.name.lower()}-seed{config.seed}"
    path = (out if is_uri(out) else Path(out)) if out else Path("runs") / file_name(called)
    if isinstance(path, Path) and path.name != called and not out:
        tell(f"run folder: {path}, as the name {config.name!r} is none that a file can have")
    folder = open_run(path, config, resume=resume, overwrite=overwrite)
    try:
        beside.ready(folder.log_file)
        for warning in filter(None, (lone_disk(folder), never_joining(config))):
            tell(f"warning: {warning}")
        with Following(config, folder, tell):  # to whose end the report belongs, which trackers keep
            with Display() if progress else nullcontext() as display:
                tell_status = display.update if display else lambda status: None
                values = launch(config, folder, on_status=tell_status, experiment=experiment)
            if last:
                beside.leave()
            if progress:
                tell("writing report.html ...")
            leave_report([folder.place], folder.path)
    finally:
        if why := folder.bring_beside():
            tell(f"warning: {why}")
        folder.release()
    return Results(folder.path, values, folder.mirror.uri if folder.mirror else "")


def _check_gpu(experiment: "Experiment") -> None:
    """Refuse a run whose workers' GPU, taken to be like this machine's, is too small; say so where there is none."""
    from fcit_ray.planning.report import check_memory, make_plan
    from fcit_ray.planning.speed import found_gpu
    from fcit_ray.runtime.data import sample_encoder

    config = experiment.config
    device = found_gpu(dtype=config.model.dtype)
    if device is None:
        console.print("no GPU is seen here, so memory was not checked; --plan --gpu names one")
        return
    plan = make_plan(config, device, config.runtime.num_workers, experiment, sample_encoder(experiment))
    if warning := check_memory(plan):
        console.print(f"warning: {warning}", markup=False)
