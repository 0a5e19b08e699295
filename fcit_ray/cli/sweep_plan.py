"""`fcit-ray sweep --plan`: what a whole sweep needs, nothing started."""

from typing import TYPE_CHECKING

from fcit_ray.cli.common import console, tell

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config
    from fcit_ray.config.sweep import Sweep
    from fcit_ray.config.trials import Study
    from fcit_ray.planning.sweep import Opened


def show_sweep_plan(
    described: "Sweep", studies: "list[Study]", gpus: int, gpu: str | None, records: int | None
) -> None:
    """Print the plan.

    Args:
        described: the sweep.
        studies: of it.
        gpus: in all; each trial at a time has its share.
        gpu: what each is; None is this machine's.
        records: of every task where the data is not here; None plans no time then.

    Raises:
        ConfigError: a GPU that is not known, or a method that does not fit it.
    """
    from fcit_ray.errors import ConfigError, DataError
    from fcit_ray.experiment.opening import open_experiment
    from fcit_ray.planning.plan import assumed_experiment
    from fcit_ray.planning.report import plan_basis
    from fcit_ray.planning.speed import found_gpu, named_gpu, this_cpu, workers_on
    from fcit_ray.planning.sweep import plan_sweep, refusals, sweep_plan_table
    from fcit_ray.runtime.data import sample_encoder

    first = studies[0].trial(studies[0].point(0)).config
    dtype = first.model.dtype
    try:
        device = named_gpu(gpu, None, dtype) if gpu else found_gpu(None, dtype) or this_cpu(dtype)
    except ValueError as error:
        raise ConfigError(f"--gpu: {error}") from None
    workers = workers_on(max(1, gpus // described.max_concurrent), first.runtime)
    missing: dict[str, None] = {}

    def opened(config: "Config") -> "Opened":
        try:
            experiment = open_experiment(config, for_plan=True)
            return experiment, sample_encoder(experiment)
        except DataError as error:
            missing[str(error).splitlines()[0]] = None
            return (assumed_experiment(config, records) if records else None), None

    items = []
    group = None
    for item in plan_sweep(studies, device, workers, opened):
        items.append(item)
        if item.group != group:
            group = item.group
            tell(f"planning{f' {group}' if group else ''} ...")
    console.print(sweep_plan_table(items, described))
    console.print(f"{gpus} x {device.name}, {described.max_concurrent} trial(s) at a time with {workers} each")
    for line in plan_basis(items[0].plan):
        console.print(line, markup=False)
    for line in missing:
        taken = f"{records:,} records a task are taken instead" if records else "--records N plans with N a task"
        console.print(f"data: {line}; {taken}", markup=False)
    if described.stop_early or described.search:
        console.print("trials that stop early are counted in full")
    if found := refusals(items):
        raise ConfigError("memory: " + "\n".join(found))
