"""The table of runs for a paper: booktabs, everything of the runs escaped, the best of each column bold."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fcit_ray.report.markdown import Grid, Heading, figures_of
from fcit_ray.results.rows import merge_seeds, row_from_results
from fcit_ray.results.tables import UNDEFINED

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "−": "$-$", UNDEFINED: "--", "…": r"\ldots{}",  # noqa: RUF001
    "β": r"$\beta$", "λ": r"$\lambda$", "τ": r"$\tau$", "ε": r"$\epsilon$", "×": r"$\times$",  # noqa: RUF001
}  # fmt: skip
_NUMBER = re.compile(r"-(?=\d)")


def latex_table(results: Iterable[Mapping[str, Any]]) -> str:
    r"""The comparison as LaTeX: a `tabular` per table, to stand inside `table`; needs `\usepackage{booktabs}`.

    Where client updates are missing from a row's figures, a note below the table's last line says how many.

    Args:
        results: of results.json, told apart.
    """
    results = list(results)
    written = figures_of(results)
    missing = [row.failed for row in merge_seeds(map(row_from_results, results)) if row.misses]
    lines = ["% Needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}. Bold: the best of its column."]
    for part in written.parts:
        if isinstance(part, Grid):
            first = part is written.table
            lines += _tabular(part, bold=first, notes=missing if first else ())
        else:
            text = part.text if isinstance(part, Heading) else part
            lines.append(f"% {' '.join(text.split())}")
    return "\n".join(lines).strip() + "\n"


def escape(text: str) -> str:
    """A text that LaTeX prints as it is; on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def _tabular(grid: Grid, bold: bool, notes: Iterable[str] = ()) -> list[str]:
    best = [grid.best(column) if bold else set() for column in range(len(grid.header))]
    lines = [
        "\\begin{tabular}{l" + "r" * (len(grid.header) - 1) + "}",
        "\\toprule",
        " & ".join(map(escape, grid.header)) + r" \\",
        "\\midrule",
    ]
    for index, row in enumerate(grid.rows):
        cells = [escape(row[0]), *(_figure(text, index in best[column + 1]) for column, text in enumerate(row[1:]))]
        lines.append(" & ".join(cells) + r" \\")
    printed = [f"\\multicolumn{{{len(grid.header)}}}{{l}}{{\\footnotesize {escape(note)}}} \\\\" for note in notes]
    return [*lines, "\\bottomrule", *printed, "\\end{tabular}"]


def _figure(text: str, best: bool) -> str:
    """A number with its sign as a minus; the spread is not bold."""
    mean, mark, spread = _NUMBER.sub("−", text).partition("±")  # noqa: RUF001
    shown = escape(mean)
    return (f"\\textbf{{{shown}}}" if best else shown) + (f" $\\pm$ {escape(spread)}" if mark else "")
