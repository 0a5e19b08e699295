"""The table for a paper and for other programs: what LaTeX would choke on is escaped, no digit is lost."""

import csv
import io
import re

from made import FAILURES, make_run

from fcit_ray.report.csv_table import csv_table
from fcit_ray.report.latex import escape, latex_table
from fcit_ray.report.markdown import Heading, leading, read_markdown
from fcit_ray.report.reading import read_runs


def told(*runs):
    return read_runs(runs)


def test_latex_prints_every_special_letter_as_it_is():
    assert escape(r"50% & #1 a_b $x$ {c}~^\d") == (
        r"50\% \& \#1 a\_b \$x\$ \{c\}\textasciitilde{}\textasciicircum{}\textbackslash{}d"
    )
    assert escape("two\nlines") == "two lines"


def test_latex_has_means_with_spread_and_the_best_bold(tmp_path):
    runs = [make_run(tmp_path / f"{seed}", name="A_1 & 50%", seed=seed) for seed in (0, 1)]
    worse = make_run(tmp_path / "worse", name="B")
    runs_told = told(*runs, worse)
    results = [{**run.results} for run in runs_told]
    results[1] |= {"last": 77.0, "bwt": -27.0}
    results[2] |= {"last": 60.0}
    text = latex_table(results)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    # (75 + 77) / 2 = 76, deviation 2 / sqrt(2) = 1.41; -(25 + 27) / 2
    assert rows[1].startswith(r"A\_1 \& 50\% & \textbf{76.0} $\pm$ 1.4 & ")
    assert "$-$26.0 $\\pm$ 1.4" in rows[1]
    assert rows[2].startswith(r"B & 60.0 & ")
    assert [line for line in text.splitlines() if line.startswith("\\") and line.endswith("rule")] == [
        "\\toprule", "\\midrule", "\\bottomrule",
    ]  # fmt: skip
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1  # as many cells in every row
    columns = re.search(r"\\begin\{tabular\}\{(lr+)\}", text)
    assert len(columns[1]) == 1 + len(re.findall(r"(?<!\\)&", rows[0]))
    assert not re.search(r"(?<!\\)[%#_]", "\n".join(rows))


def test_markdown_is_read_back_as_it_was_meant():
    text = "| M | Last | Forgetting |\n|---|---:|---:|\n| a\\|b | **9.5±0.1** | 2.0 |\n| c | \u2013 | -1.0 |\n\nNote.\n"
    written = read_markdown(f"{text}\n## Next\n\n| M | p |\n|---|---:|\n| d | <0.001 |\n")
    table, note, heading, more = written.parts
    assert table.header == ("M", "Last", "Forgetting")
    assert table.rows == (("a|b", "9.5±0.1", "2.0"), ("c", "\u2013", "-1.0"))
    assert [table.best(column) for column in range(3)] == [set(), set(), {1}]  # less forgetting is better
    assert (note, heading, more.rows) == ("Note.", Heading("Next"), (("d", "<0.001"),))
    assert [leading(cell) for cell in ("9.5±0.1", "-1.0", "+2.5", "<0.001", "\u2013", "")] == [
        9.5, -1.0, 2.5, 0.001, None, None,
    ]  # fmt: skip


def test_csv_comes_back_with_every_digit_and_what_differs(tmp_path):
    first = make_run(tmp_path / "first", name='Odd, "quoted" name', train={"lr": 0.1})
    second = make_run(tmp_path / "second", name="Two", seed=3, train={"lr": 0.2})
    runs = told(first, second)
    third = 100 / 3
    runs[0].results["last"] = third
    rows = list(csv.DictReader(io.StringIO(csv_table(runs))))
    assert [row["folder"] for row in rows] == [str(first.path), str(second.path)]
    assert rows[0]["label"] == 'Odd, "quoted" name'
    assert float(rows[0]["last"]) == third
    assert [(row["seed"], row["config.train.lr"]) for row in rows] == [("0", "0.1"), ("3", "0.2")]
    assert [float(rows[1][name]) for name in ("avg", "forgetting", "bwt", "score.ArxivQA", "score.IconQA")] == [
        75.0, 25.0, -25.0, 50.0, 100.0,
    ]  # fmt: skip
    assert (float(rows[1]["seconds"]), float(rows[1]["moved_bytes"])) == (22.0, 12e6)


def test_csv_is_empty_where_a_run_has_no_such_figure(tmp_path):
    run = make_run(tmp_path / "run")
    (one,) = told(run)
    one.results["avg"] = None
    (row,) = csv.DictReader(io.StringIO(csv_table([one])))
    assert "avg" not in row  # no run has one
    assert "epsilon" not in row


def test_where_updates_are_missing_the_tables_say_how_many_of_how_many_and_else_nothing(tmp_path):
    runs = told(make_run(tmp_path / "holes", name="A_1", failures=FAILURES), make_run(tmp_path / "whole", name="B"))
    text = latex_table([run.results for run in runs])
    columns = len(re.search(r"\\begin\{tabular\}\{(lr+)\}", text)[1])
    after = text.partition("\\bottomrule")[2].splitlines()
    assert after[1] == (
        rf"\multicolumn{{{columns}}}{{l}}{{\footnotesize A\_1: 1 of 9 updates missing, 1 tried again.}} \\"
    )
    assert after[2] == r"\end{tabular}"
    rows = list(csv.DictReader(io.StringIO(csv_table(runs))))
    names = ("failures.updates", "failures.missing", "failures.retried")
    assert [[row[name] for name in names] for row in rows] == [["9", "1", "1"], ["", "0", "0"]]
    whole = runs[1:]
    assert "multicolumn" not in latex_table([run.results for run in whole])
    assert "failures" not in csv_table(whole)
