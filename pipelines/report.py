"""One table from any number of run folders; runs of one name and several seeds give mean and spread.

python pipelines/report.py runs/compare/* --markdown table.md
"""

import argparse
from pathlib import Path

from fcit_ray.cli import console, exit_on_error
from fcit_ray.diagnostics import diagnostics_markdown, diagnostics_table
from fcit_ray.durable import write_text
from fcit_ray.report import comparison_table, markdown_table, row_from_results
from fcit_ray.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run folders; anything else is passed over")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    args = parser.parse_intermixed_args()
    with exit_on_error("the run folders were only read"):
        folders = [RunFolder(path) for path in args.runs if path.is_dir()]
        results = [folder.results() for folder in folders if folder.finished]
        rows = [row_from_results(result) for result in results]
        if skipped := len(args.runs) - len(rows):
            console.print(f"{skipped} of {len(args.runs)} are no finished run folders")
        if args.markdown:
            write_text(args.markdown, markdown_table(rows) + diagnostics_markdown(results))
    console.print(comparison_table(rows))
    if oddities := diagnostics_table(results):
        console.print(oddities)


if __name__ == "__main__":
    main()
