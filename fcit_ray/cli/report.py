"""`fcit-ray report`: one table from run folders, for the terminal, a paper, other programs or a browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcit_ray.cli.common import as_place, console, exit_on_error, tell, write_out
from fcit_ray.errors import UserError
from fcit_ray.storage.location import refuse_uri

if TYPE_CHECKING:
    from fcit_ray.results.finding import Found


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER", help="Run folders, or folders of them; or URIs.", show_default=False),
    ],
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table there too.")] = None,
    latex: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table there for a paper (booktabs).")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all figures there, a row a run, in full precision.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page for a browser there; it holds unfinished runs too."),
    ] = None,
) -> None:
    """Show any number of runs in one table; runs that differ in nothing but the seed give mean and spread.

    \b
    fcit-ray report runs/compare --markdown table.md --latex table.tex --csv figures.csv
    fcit-ray report runs/compare --html report.html
    fcit-ray report runs/*      # the run folders in these folders too
    """
    with exit_on_error("the run folders were only read"):
        for file in filter(None, (markdown, latex, csv, html)):
            refuse_uri(file)
        tell(f"reading {', '.join(map(str, runs))} ...")
        from fcit_ray.results.diagnostics import diagnostics_markdown, diagnostics_table
        from fcit_ray.results.finding import find_runs
        from fcit_ray.results.tables import comparison_table, markdown_table, row_from_results
        from fcit_ray.results.tell_apart import tell_apart

        places = [as_place(run) for run in runs]
        found = find_runs(places)
        _tell_what_is_left_out(found, in_page=html is not None)
        if not found.finished and not (html and found.unfinished):
            remedy = "; --html FILE shows what is there so far" if found.unfinished else ""
            raise UserError(
                f"no finished run in {', '.join(map(str, runs))}: there is nothing to put into a table{remedy}"
            )
        if files := [file for file in (markdown, latex, csv) if file and not found.finished]:
            raise UserError(f"{files[0]}: a table holds finished runs alone, and there is none; --html FILE shows all")
        results = tell_apart(
            [folder.results_with_config() for folder in found.finished],
            [folder.shown for folder in found.finished],
        )
        if twice := len(found.finished) - len(results):
            tell(f"{twice} of {len(found.finished)} run folders are copies of others, and counted once")
        rows = [row_from_results(result) for result in results]
        if markdown:
            write_out(markdown, markdown_table(rows) + diagnostics_markdown(results))
        if latex:
            from fcit_ray.report.latex import latex_table

            write_out(latex, latex_table(results))
        if csv:
            from fcit_ray.report.csv_table import csv_table
            from fcit_ray.report.reading import read_runs

            write_out(csv, csv_table(read_runs(found.finished)))
        if html:
            from fcit_ray.report.writing import write_report

            tell(f"wrote {write_report(places, html)}")
        if not rows:
            return
        console.print(comparison_table(rows))
        if oddities := diagnostics_table(results):
            console.print(oddities)


def _tell_what_is_left_out(found: "Found", in_page: bool) -> None:
    for path in found.without:
        tell(f"{path}: no run folder, nor a folder of them")
    for folder in found.unfinished:
        also = "; the page shows it as far as it is" if in_page else ""
        tell(f"{folder.shown}: left out, as its run is not finished{also}")
