"""Train and evaluate one run on Ray.

python pipelines/run.py configs/miniature.yaml configs/methods/disco.yaml
python pipelines/run.py configs/miniature.yaml configs/methods/disco.yaml seed=1 train.epochs=2
python pipelines/run.py configs/miniature.yaml configs/methods/disco.yaml --plan
python pipelines/run.py CONFIG... --plan --gpus 4 --gpu H100
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fcit_ray.cli.common import console, exit_on_error, split_overrides, tell

if TYPE_CHECKING:
    from fcit_ray.config.schema import Config
    from fcit_ray.experiment.opening import Experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config", nargs="+", metavar="FILE | key.path=value", help="YAML files, merged in order, and overrides"
    )
    parser.add_argument("--out", type=Path, help="run folder (default: runs/<name>-seed<seed>)")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished run in the folder")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in the folder and start anew")
    parser.add_argument("--plan", action="store_true", help="say what the run needs, start nothing; 2 if it cannot fit")
    parser.add_argument("--gpus", type=int, help="with --plan: workers of a GPU each (default: runtime.num_workers)")
    parser.add_argument("--gpu", help="with --plan: what each has, such as H100 or A100-40GB (default: this machine's)")
    parser.add_argument("--gpu-memory-gb", type=float, help="with --plan: memory of each, 10^9 bytes")
    args = parser.parse_intermixed_args()
    if args.gpus is not None and args.gpus < 1:
        parser.error(f"argument --gpus: expected at least 1, got {args.gpus}")
    if args.gpu_memory_gb is not None and not args.gpu_memory_gb > 0:
        parser.error(f"argument --gpu-memory-gb: expected a number above 0, got {args.gpu_memory_gb}")
    if not args.plan and (args.gpus or args.gpu or args.gpu_memory_gb):
        parser.error("--gpus, --gpu and --gpu-memory-gb go with --plan")
    with exit_on_error():
        from fcit_ray.config.reading import load_config
        from fcit_ray.experiment.components import check_names

        config = load_config(*split_overrides(args.config))
        check_names(config)
        if args.plan:
            show_plan(config, args.gpus, args.gpu, args.gpu_memory_gb)
            return
        from fcit_ray.cli.display import Display
        from fcit_ray.experiment.opening import open_experiment
        from fcit_ray.results.diagnostics import diagnostics_table
        from fcit_ray.results.opening import open_run
        from fcit_ray.results.tables import comparison_table, row_from_results
        from fcit_ray.runtime.cluster import start_ray
        from fcit_ray.runtime.launch import launch
        from fcit_ray.storage.file_names import file_name

        experiment = open_experiment(config)
        if config.runtime.gpu:
            check_gpu(experiment)
        called = f"{config.name.lower()}-seed{config.seed}"
        path = args.out or Path("runs") / file_name(called)
        if path.name != called and not args.out:
            tell(f"run folder: {path}, as the name {config.name!r} is none that a file can have")
        folder = open_run(path, config, resume=args.resume, overwrite=args.overwrite)
        start_ray(folder.log_file)
        with Display() as display:
            results = launch(config, folder, on_status=display.update, experiment=experiment)
        console.print(comparison_table([row_from_results(results)]))
        if oddities := diagnostics_table([results]):
            console.print(oddities)
        console.print(f"Run folder    {folder.path}")
        console.print(f"Heat map      {folder.path / 'accuracy_matrix.png'}")
        console.print(f"Curves        {folder.path / 'curves.png'}")
        console.print(f"Predictions   {folder.path}/predictions/<stage>/<dataset>.jsonl")


def show_plan(config: "Config", gpus: int | None, gpu: str | None, memory_gb: float | None) -> None:
    """Print the plan; a run that cannot fit raises ConfigError behind it."""
    from fcit_ray.errors import ConfigError, DataError
    from fcit_ray.experiment.opening import open_experiment
    from fcit_ray.planning.report import check_memory, make_plan, plan_basis, plan_tables
    from fcit_ray.planning.speed import Device, found_gpu, named_gpu, this_cpu
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
    workers = gpus or config.runtime.num_workers
    plan = make_plan(config, device, workers, experiment, encoder)
    for table in plan_tables(plan):
        console.print(table)
    if missing:
        console.print(f"data: {missing}", markup=False)
    for line in plan_basis(plan):
        console.print(line, markup=False)
    if warning := check_memory(plan):
        console.print(f"warning: {warning}", markup=False)


def check_gpu(experiment: "Experiment") -> None:
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


if __name__ == "__main__":
    main()
