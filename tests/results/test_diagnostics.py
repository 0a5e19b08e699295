"""The table of oddities: worked out by hand, worst first, nothing invented."""

from typing import Any

from rich.console import Console

from fcit_ray.results.diagnostics import NUM_SHOWN, diagnostics_markdown, diagnostics_table, oddities


def run(label: str, **datasets: dict[str, float]) -> dict[str, Any]:
    return {"label": label, "diagnostics": datasets}


def shown(results: list[dict[str, Any]]) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    table = diagnostics_table(results)
    assert table is not None
    console.print(table)
    return console.export_text()


def test_shares_are_means_over_seeds_in_percent():
    # Blank 10 and 30: 20. Of the right form 80 and 60, so of another form 10 and 10. Off by one unknown.
    results = [
        run("disco", DVQA={"percent": 50.0, "blank_frac": 0.1, "format_frac": 0.8, "near_frac": 0.0}),
        run("disco", DVQA={"percent": 40.0, "blank_frac": 0.3, "format_frac": 0.6, "near_frac": 0.02}),
    ]
    assert diagnostics_markdown(results).splitlines()[-1] == "| disco | DVQA | 45.0 | **20.0** | **10.0** | 1.0 | – |"  # noqa: RUF001


def test_the_terminal_shows_the_worst_first_and_counts_the_rest():
    datasets = {f"d{n:02}": {"percent": 0.0, "blank_frac": 0.06 + n / 100} for n in range(NUM_SHOWN + 2)}
    text = shown([run("disco", **datasets, fine={"percent": 90.0, "blank_frac": 0.04})])
    assert text.index("d11") < text.index("d10") < text.index("d02")
    assert "d01" not in text
    assert "fine" not in text
    assert "2 more lines, all below 8.0" in " ".join(text.split())  # d02: 6 + 2 percent


def test_nothing_odd_is_no_table_but_the_report_lists_it():
    results = [run("disco", DVQA={"percent": 50.0, "blank_frac": 0.0})]
    assert diagnostics_table(results) is None
    assert "| disco | DVQA | 50.0 | 0.0 |" in diagnostics_markdown(results)


def test_runs_of_older_releases_have_no_diagnostics():
    assert oddities([{"label": "old"}]) == []
    assert diagnostics_markdown([{"label": "old"}]) == ""


def test_the_note_wraps_between_words_also_on_the_pipelines_console():
    """That one wraps nothing by itself: a terminal would, in the middle of words."""
    from fcit_ray.cli.common import console

    table = diagnostics_table([run("disco", DVQA={"percent": 50.0, "blank_frac": 0.5})])
    with console.capture() as capture:
        console.print(table)
    note = capture.get().split("Percent of")[1]
    lines = [line.strip() for line in note.splitlines() if line.strip()]
    assert len(lines) > 3
    assert max(map(len, lines)) <= 100
    words = set(diagnostics_markdown([run("disco", DVQA={"percent": 50.0, "blank_frac": 0.5})]).split())
    assert {word for line in lines for word in line.split()} <= words
