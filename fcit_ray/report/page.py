"""One self-contained HTML page: no file beside it, nothing fetched, every text of a run escaped."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fcit_ray.report.answers import sample_answers
from fcit_ray.report.blocks import Block, RunPart, Section, Text
from fcit_ray.report.bundle import javascript_bundle
from fcit_ray.report.comparison import comparison_sections
from fcit_ray.report.failures import failed_section, missing_updates
from fcit_ray.report.pictures import Pictures
from fcit_ray.report.reading import Told
from fcit_ray.report.scores import headline, score_sections, unfinished
from fcit_ray.report.setup import diagnostics_blocks, gaps, setup_sections
from fcit_ray.report.training import training_sections
from fcit_ray.version import __version__

RUNS_IN_FULL = 12
"""Runs of which a page tells everything; of more it has the figures and curves of all, and the rest of so many."""


@dataclass(frozen=True)
class Page:
    """What a page says, before it is laid out.

    Attributes:
        title: of the page.
        told: a line below it.
        lead: what stands before the sections.
        sections: of the run, or of all runs together.
        runs: what is said of each run by itself; empty where there is one alone.
    """

    title: str
    told: str
    lead: Sequence[Block]
    sections: Sequence[Section]
    runs: Sequence[RunPart] = ()


def make_page(
    runs: Sequence[Told], references: Iterable[Mapping[str, Any]] = (), failed: Mapping[str, str] | None = None
) -> str:  # fmt: skip
    """The page of one run, or of several.

    Args:
        runs: finished or not, at least one.
        references: results that no run folder holds, for the table of several runs.
        failed: why runs failed, by what they are called.

    Returns:
        The HTML.
    """
    references = list(references)
    said: list[Block] = [Text(f"Failed: {name}: {why}", warns=True) for name, why in (failed or {}).items()]
    alone = len(runs) == 1 and not references
    page = _of_one(runs[0], said) if alone else _of_several(runs, references, said)
    return lay_out(page)


def lay_out(page: Page) -> str:
    """The HTML of a page. Scripts are admitted by their digest, so that no text can become one."""
    scripts = [javascript_bundle(), _file("page.js")]
    # No eval: Vega's own interpreter reads the expressions. Its SVG sets styles, so these are admitted inline.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; script-src "
        + " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    )
    assert not any("</script" in script.lower() or "\r" in script for script in scripts), "would end, or change, there"
    environment = Environment(
        loader=PackageLoader("fcit_ray", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("page.jinja").render(
        page=page, policy=policy, style=Markup(_file("page.css")), scripts=[Markup(script) for script in scripts],
        version=__version__,
    )  # fmt: skip
    return html.strip() + "\n"


def names_of(runs: Sequence[Told]) -> list[str]:
    """A name for each run by which readers tell them apart: its label, with the seed where others share it."""
    labels = [run.label for run in runs]
    names = [f"{run.label}, seed {run.seed}" if labels.count(run.label) > 1 else run.label for run in runs]
    names = [name if run.finished else f"{name} (unfinished)" for name, run in zip(names, runs, strict=True)]
    return [
        f"{name} #{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _of_one(run: Told, said: Sequence[Block]) -> Page:
    answers = sample_answers([run], [run.label], Pictures())
    sections = [
        *score_sections(run, ""),
        *training_sections(run, ""),
        *failed_section(run, ""),
        *([Section("answers", "Answers", answers)] if answers else []),
        *([Section("diagnostics", "Diagnostics", odd)] if (odd := diagnostics_blocks([run])) else []),
        *setup_sections(run, ""),
    ]
    return Page(run.label, told_of(run), [*said, *missing_updates(run), *headline(run), *gaps(run)], sections)


def _of_several(runs: Sequence[Told], references: Sequence[Mapping[str, Any]], said: Sequence[Block]) -> Page:
    names = names_of(runs)
    full = _in_full(runs)
    lead = [*said, *(Text(f"{names[place]}: {unfinished(run)}", warns=True)
                     for place, run in enumerate(runs) if not run.finished)]  # fmt: skip
    if len(full) < len(runs):
        lead.append(
            Text(
                f"Tables and curves are of all {len(runs)} runs; answers and the details below of {len(full)}, one a "
                "row of the table first. `fcit-ray report RUN --html FILE` makes a page of any other."
            )
        )
    sections = comparison_sections(runs, references, names)
    answers = sample_answers([runs[place] for place in full], [names[place] for place in full], Pictures())
    if answers:
        sections.append(Section("answers", "Answers", answers))
    parts = []
    for number, place in enumerate(full, start=1):
        run, anchor = runs[place], f"run-{number}-"
        own = [
            Section(f"{anchor}figures", "Figures", [*missing_updates(run), *headline(run), *gaps(run)]),
            *score_sections(run, anchor),
            *training_sections(run, anchor),
            *failed_section(run, anchor),
            *setup_sections(run, anchor),
        ]
        parts.append(RunPart(f"run-{number}", names[place], told_of(run), own))
    count = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    done = sum(run.finished for run in runs)
    told = count if done == len(runs) else f"{count}, {done} of them finished"
    shown = list(dict.fromkeys(run.label for run in runs))
    title = ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if shown[4:] else "")
    return Page(title, told, lead, sections, parts)


def _in_full(runs: Sequence[Told]) -> list[int]:
    """The runs that are told of in full, by place: first one of every label, then others, up to the most."""
    first = list({run.label: place for place, run in reversed(list(enumerate(runs)))}.values())
    others = [place for place in range(len(runs)) if place not in first]
    return sorted([*sorted(first), *others][:RUNS_IN_FULL])


def told_of(run: Told) -> str:
    """A run in one line: method, regime, seed, data, where it lies."""
    method = run.config.get("method")
    regime = str(run.config.get("regime", "")).replace("_", "-")
    parts = [
        f"method {method['name']}" if isinstance(method, Mapping) and method.get("name") else "",
        regime,
        f"seed {run.seed}",
        f"{len(run.tasks)} tasks",
        f"β {run.benchmark['beta']:g}" if run.benchmark.get("partition") == "dirichlet" and run.rounds else "",
        "finished" if run.finished else "not finished",
        run.folder.shown,
    ]
    return " · ".join(part for part in parts if part)


def _file(name: str) -> str:
    return resources.files("fcit_ray.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
