"""One table from any number of run folders; runs that differ in nothing but the seed give mean and spread.

python pipelines/report.py runs/compare/* --markdown table.md
python pipelines/report.py runs/*        # the run folders in these folders too, such as the demo's
"""

import argparse
from pathlib import Path

from fcit_ray.cli.common import console, exit_on_error, tell, write_out
from fcit_ray.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run folders, or folders of them")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    args = parser.parse_intermixed_args()
    with exit_on_error("the run folders were only read"):
        from fcit_ray.results.diagnostics import diagnostics_markdown, diagnostics_table
        from fcit_ray.results.finding import find_runs
        from fcit_ray.results.tables import comparison_table, markdown_table, row_from_results
        from fcit_ray.results.tell_apart import tell_apart

        found = find_runs(args.runs)
        for path in found.without:
            tell(f"{path}: no run folder, nor a folder of them")
        for folder in found.unfinished:
            tell(f"{folder.path}: left out, as its run is not finished")
        if not found.finished:
            raise UserError(
                f"no finished run in {', '.join(map(str, args.runs))}: there is nothing to put into a table"
            )
        results = tell_apart(
            [folder.results_with_config() for folder in found.finished],
            [str(folder.path) for folder in found.finished],
        )
        if twice := len(found.finished) - len(results):
            tell(f"{twice} of {len(found.finished)} run folders are copies of others, and counted once")
        rows = [row_from_results(result) for result in results]
        if args.markdown:
            write_out(args.markdown, markdown_table(rows) + diagnostics_markdown(results))
        console.print(comparison_table(rows))
        if oddities := diagnostics_table(results):
            console.print(oddities)


if __name__ == "__main__":
    main()
