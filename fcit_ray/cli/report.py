"""`fcit-ray report`: one table from run folders."""

from pathlib import Path
from typing import Annotated

import typer

from fcit_ray.cli.common import console, exit_on_error, tell, write_out
from fcit_ray.errors import UserError


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Finished run folders, or folders of them.", show_default=False),
    ],
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table there too.")] = None,
) -> None:
    """Show any number of runs in one table; runs that differ in nothing but the seed give mean and spread.

    \b
    fcit-ray report runs/compare --markdown table.md
    fcit-ray report runs/*      # the run folders in these folders too
    """
    with exit_on_error("the run folders were only read"):
        tell(f"reading {', '.join(map(str, runs))} ...")
        from fcit_ray.results.diagnostics import diagnostics_markdown, diagnostics_table
        from fcit_ray.results.finding import find_runs
        from fcit_ray.results.tables import comparison_table, markdown_table, row_from_results
        from fcit_ray.results.tell_apart import tell_apart

        found = find_runs(runs)
        for path in found.without:
            tell(f"{path}: no run folder, nor a folder of them")
        for folder in found.unfinished:
            tell(f"{folder.path}: left out, as its run is not finished")
        if not found.finished:
            raise UserError(f"no finished run in {', '.join(map(str, runs))}: there is nothing to put into a table")
        results = tell_apart(
            [folder.results_with_config() for folder in found.finished],
            [str(folder.path) for folder in found.finished],
        )
        if twice := len(found.finished) - len(results):
            tell(f"{twice} of {len(found.finished)} run folders are copies of others, and counted once")
        rows = [row_from_results(result) for result in results]
        if markdown:
            write_out(markdown, markdown_table(rows) + diagnostics_markdown(results))
        console.print(comparison_table(rows))
        if oddities := diagnostics_table(results):
            console.print(oddities)
