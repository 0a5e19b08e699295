"""Run several methods on one configuration and show them in one table: the main job.

python pipelines/compare.py configs/miniature.yaml
python pipelines/compare.py configs/miniature.yaml seed=1 --methods finetune disco --out runs/two-methods
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from fcit_ray.cli.common import console, exit_on_error, split_overrides, tell, usable_folder, write_out

METHODS = Path(__file__).resolve().parent.parent / "configs" / "methods"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config", nargs="+", metavar="FILE | key.path=value", help="YAML files, merged in order, and overrides"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        default=["zero_shot", "finetune", "disco", "centralised"],
        help="files of configs/methods, or paths of your own (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="one run folder a method goes in here")
    parser.add_argument("--resume", action="store_true", help="keep finished runs, go on with unfinished ones")
    parser.add_argument("--overwrite", action="store_true", help="delete the runs there and start anew")
    args = parser.parse_intermixed_args()
    with exit_on_error():
        from fcit_ray.config.reading import load_config
        from fcit_ray.experiment.components import check_names
        from fcit_ray.storage.file_names import file_name

        files, overrides = split_overrides(args.config)
        paths = {
            file_name(Path(name).stem): METHODS / f"{name}.yaml" if "." not in name else Path(name)
            for name in args.methods
        }
        configs = {name: load_config([*files, path], overrides) for name, path in paths.items()}
        for config in configs.values():
            check_names(config)
        from fcit_ray.cli.display import Display
        from fcit_ray.errors import ClusterLost, RunFailed
        from fcit_ray.experiment.opening import open_experiment
        from fcit_ray.results.diagnostics import diagnostics_markdown, diagnostics_table
        from fcit_ray.results.figures import matrix_from_results
        from fcit_ray.results.majority import majority_results
        from fcit_ray.results.opening import open_run
        from fcit_ray.results.plots import plot_comparison, plot_curves
        from fcit_ray.results.tables import comparison_table, markdown_table, row_from_results
        from fcit_ray.runtime.cluster import start_ray
        from fcit_ray.runtime.launch import launch

        experiments = {name: open_experiment(config) for name, config in configs.items()}
        usable_folder(args.out)
        folders = {
            name: open_run(args.out / name, config, resume=args.resume, overwrite=args.overwrite)
            for name, config in configs.items()
        }
        results: dict[str, dict[str, Any]] = {}
        failures: list[str] = []
        majority = majority_results(next(iter(configs.values())))
        if not all(folder.finished for folder in folders.values()):
            start_ray(args.out / "logs" / "ray.log")
        for name, config in configs.items():
            try:
                with Display() as display:
                    results[name] = launch(
                        config, folders[name], on_status=display.update, experiment=experiments[name]
                    )
            except ClusterLost:
                raise
            except RunFailed as error:  # the other methods are not to blame
                failures.append(f"{folders[name].path}: {error}")
                tell(f"failed: {failures[-1]}")
        names = [result["label"] for result in results.values()]
        labels = {n: f"{r['label']} ({n})" if names.count(r["label"]) > 1 else r["label"] for n, r in results.items()}
        told = [{**result, "label": labels[name]} for name, result in results.items()]
        rows = [row_from_results(result) for result in [majority, *told]]
        tasks = [task.name for task in next(iter(configs.values())).benchmark.tasks]
        streams = {labels[n]: matrix_from_results(r) for n, r in results.items() if len(r["matrix"]) > 1}
        if streams:
            plot_comparison(streams, tasks, args.out / "accuracy_matrix.png")
            plot_curves(
                {labels[n]: folders[n].records() for n in results if labels[n] in streams}, args.out / "curves.png"
            )
        lost = "".join(f"\n- failed: {line}\n" for line in failures)
        write_out(args.out / "comparison.md", markdown_table(rows) + diagnostics_markdown(told) + lost)
        console.print(comparison_table(rows))
        if oddities := diagnostics_table(told):
            console.print(oddities)
        console.print(f"Run folders   {', '.join(str(folder.path) for folder in folders.values())}")
        if streams:
            console.print(f"Heat maps     {args.out / 'accuracy_matrix.png'}")
            console.print(f"Curves        {args.out / 'curves.png'}")
        console.print(f"Table         {args.out / 'comparison.md'}")
        console.print(f"Predictions   {args.out}/<method>/predictions/<stage>/<dataset>.jsonl")
        if failures:
            tell(f"{len(failures)} of {len(configs)} methods failed (see above); --resume tries them again")
            sys.exit(1)


if __name__ == "__main__":
    main()
