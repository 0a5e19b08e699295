"""`fcit-ray compare`: several methods on one configuration, in one table."""

import sys
from typing import Annotated

import typer

from fcit_ray.cli.arguments import Configs, Overwrite, methods_like, split_overrides
from fcit_ray.cli.common import console, exit_on_error, tell, write_out
from fcit_ray.importing import swift_imports


def compare(
    config: Configs,
    methods: Annotated[
        list[str],
        typer.Option(
            metavar="NAME...",
            help="Configurations that go on top, one a run: shipped methods by name, or YAML files.",
            autocompletion=methods_like,
        ),
    ] = ["zero_shot", "finetune", "disco", "centralised"],  # noqa: B006  # Typer reads it, nobody writes it
    out: Annotated[
        str, typer.Option(help="One run folder a method goes in here: a folder, or a URI (s3://bucket/runs).")
    ] = "runs/compare",
    resume: Annotated[bool, typer.Option("--resume", help="Keep finished runs, go on with unfinished ones.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run several methods on one configuration and show them in one table, and on one page, report.html.

    \b
    fcit-ray compare miniature
    fcit-ray compare miniature seed=1 --methods finetune disco --out runs/two-methods
    """
    with exit_on_error():
        from fcit_ray.config.shipped import find_config
        from fcit_ray.experiment.loading import load_config
        from fcit_ray.storage.file_names import file_name

        names, overrides = split_overrides(config)
        paths = {file_name(path.stem): path for path in (find_config(name, "methods") for name in methods)}
        configs = {name: load_config(*names, path, overrides=overrides) for name, path in paths.items()}
        tell(f"{', '.join(config.name for config in configs.values())}: checking configurations and data ...")
        from fcit_ray.cli.comparing import carry_out
        from fcit_ray.results.out import Out

        into = Out(out)
        folders, results, failed = carry_out(configs, into, resume=resume, overwrite=overwrite)
        with swift_imports():
            from fcit_ray.cli.page import leave_report
            from fcit_ray.results.diagnostics import diagnostics_markdown, diagnostics_table
            from fcit_ray.results.figures import matrix_from_results
            from fcit_ray.results.majority import majority_results
            from fcit_ray.results.plots import plot_comparison, plot_curves
            from fcit_ray.results.tables import comparison_table, markdown_table, row_from_results

        failures = [f"{folders[name].shown}: {why}" for name, why in failed.items()]
        majority = majority_results(next(iter(configs.values())))
        labelled = [result["label"] for result in results.values()]
        labels = {
            n: f"{r['label']} ({n})" if labelled.count(r["label"]) > 1 else r["label"] for n, r in results.items()
        }
        told = [{**result, "label": labels[name]} for name, result in results.items()]
        rows = [row_from_results(result) for result in [majority, *told]]
        tasks = [task.name for task in next(iter(configs.values())).benchmark.tasks]
        streams = {labels[n]: matrix_from_results(r) for n, r in results.items() if len(r["matrix"]) > 1}
        if streams:
            plot_comparison(streams, tasks, into.path / "accuracy_matrix.png")
            records = {labels[n]: folders[n].records() for n in results if labels[n] in streams}
            plot_curves(records, into.path / "curves.png")
        lost = "".join(f"\n- failed: {line}\n" for line in failures)
        write_out(into.path / "comparison.md", markdown_table(rows) + diagnostics_markdown(told) + lost)
        console.print(comparison_table(rows))
        if oddities := diagnostics_table(told):
            console.print(oddities)
        console.print(f"Run folders   {', '.join(folder.shown for folder in folders.values())}")
        if streams:
            console.print(f"Heat maps     {into.child('accuracy_matrix.png')}")
            console.print(f"Curves        {into.child('curves.png')}")
        console.print(f"Table         {into.child('comparison.md')}")
        places = [each.place if each.mirror else each.path for each in folders.values()]
        if page := leave_report(places, into.path, references=[majority], failed=failed):
            console.print(f"Report        {into.child(page.name)}")
        into.bring()
        console.print(f"Predictions   {into.child('<method>/predictions/<stage>/<dataset>.jsonl')}")
        if failures:
            tell(f"{len(failures)} of {len(configs)} methods failed (see above); --resume tries them again")
            sys.exit(1)
