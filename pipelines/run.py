"""Train and evaluate one run on Ray.

python pipelines/run.py configs/miniature.yaml configs/methods/disco.yaml
python pipelines/run.py configs/miniature.yaml configs/methods/disco.yaml seed=1 train.epochs=2
"""

import argparse
from pathlib import Path

from fcit_ray.cli import console, exit_on_error, split_overrides
from fcit_ray.config import load_config
from fcit_ray.diagnostics import diagnostics_table
from fcit_ray.display import Display
from fcit_ray.experiment import open_experiment
from fcit_ray.report import comparison_table, row_from_results
from fcit_ray.run_folder import RunFolder
from fcit_ray.runtime.launch import launch, start_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config", nargs="+", metavar="FILE | key.path=value", help="YAML files, merged in order, and overrides"
    )
    parser.add_argument("--out", type=Path, help="run folder (default: runs/<name>-seed<seed>)")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished run in the folder")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in the folder and start anew")
    args = parser.parse_intermixed_args()
    with exit_on_error():
        config = load_config(*split_overrides(args.config))
        experiment = open_experiment(config)
        path = args.out or Path("runs") / f"{config.name.lower()}-seed{config.seed}"
        folder = RunFolder.open(path, config, resume=args.resume, overwrite=args.overwrite)
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


if __name__ == "__main__":
    main()
