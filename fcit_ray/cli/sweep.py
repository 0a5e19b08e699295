"""`fcit-ray sweep`: methods x seeds x a grid of any keys, as Ray Tune trials."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fcit_ray.cli.arguments import sweeps_like
from fcit_ray.cli.common import console, exit_on_error, tell, usable_folder, write_out


def sweep(
    file: Annotated[
        str, typer.Argument(metavar="SWEEP", help="Shipped sweep by name, or a YAML file.", autocompletion=sweeps_like)
    ],
    override: Annotated[
        list[str] | None,
        typer.Argument(metavar="key.path=value", help="Overrides for all trials.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folders go in here (default: runs/sweep-<name of the file>).")
    ] = None,
) -> None:
    """Run methods x seeds (x a grid of any keys) as Ray Tune trials and show mean and spread over seeds.

    A sweep that was interrupted goes on where it stopped when it is started again: finished trials are kept, unfinished
    ones resume from their last checkpoint. Where a trial fails the table holds the others, and the exit code is 1.

    \b
    fcit-ray sweep sweeps/miniature
    fcit-ray sweep sweeps/miniature benchmark.split=validation --out runs/tuning
    """
    with exit_on_error("start it again to go on: finished trials are kept, others go on from their last checkpoint"):
        from fcit_ray.config.shipped import find_config
        from fcit_ray.config.sweep import load_sweep
        from fcit_ray.experiment.components import check_names

        path = find_config(file, "sweeps")
        described, trials = load_sweep(path, override or ())
        for trial in trials:
            check_names(trial.config)
        tell(f"{len(trials)} trials: checking configurations ...")
        from fcit_ray.experiment.algorithm import make_algorithm

        for trial in trials:
            make_algorithm(trial.config)  # refused now, not when its turn comes
        from fcit_ray.results.diagnostics import diagnostics_markdown, diagnostics_table
        from fcit_ray.results.majority import majority_results
        from fcit_ray.results.tables import comparison_table, markdown_table, row_from_results
        from fcit_ray.results.tell_apart import tell_apart
        from fcit_ray.runtime.cluster import start_ray
        from fcit_ray.runtime.tune import run_sweep
        from fcit_ray.tracking.choose import check_trackers
        from fcit_ray.tracking.following import not_told

        check_trackers(trial.config for trial in trials)
        out = usable_folder(out or Path("runs") / f"sweep-{path.stem}")
        majority = [majority_results(trial.config) for trial in trials[: len(described.seeds)]]
        start_ray(out / "logs" / "ray.log")
        console.print(f"{len(trials)} trials, {described.max_concurrent} at a time")
        done = 0

        def show(results: Mapping[str, Any]) -> None:
            nonlocal done
            done += 1
            console.print(
                f"[{done}/{len(trials)}] {results['label']} seed {results['seed']}: Last {results['last']:.1f}, "
                f"{results['seconds']:.0f} s",
                markup=False,
            )

        finished, failed = run_sweep(described, trials, out, on_result=show)
        results = tell_apart([*majority, *finished])
        rows = [row_from_results(result) for result in results]
        failures = [f"{out / folder}: {why}" for folder, why in failed.items()]
        lost = "".join(f"\n- failed: {line}" for line in failures)
        write_out(
            out / "table.md", markdown_table(rows) + diagnostics_markdown(results) + (f"{lost}\n" if lost else "")
        )
        console.print(comparison_table(rows))
        if oddities := diagnostics_table(results):
            console.print(oddities)
        console.print(f"Table         {out / 'table.md'}")
        console.print(f"Run folders   {out}/<method>-seed<seed>")
        for line in not_told({out / trial.folder: trial.config for trial in trials}):
            tell(line)
        for line in failures:
            tell(f"failed: {line}")
        if failures:
            tell(f"{len(failures)} of {len(trials)} trials failed; started again, the sweep tries them anew")
            sys.exit(1)
