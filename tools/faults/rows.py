"""What a row of the table is, the registry of all of them, and the table as Markdown."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class Wrong(Exception):
    """A fault did not end as it must."""


class NotHere(Exception):
    """This machine cannot provoke it (no right to mount, say)."""


@dataclass
class Outcome:
    """One row.

    Attributes:
        name: of the row.
        did: what was done.
        saw: what the user was told, the last line of it.
        exit: the exit code, or several.
        lost_s: seconds that it took more than an undisturbed run, the resumed run included; None where nothing ran on.
        bits: of the run, or of the resumed run: `same`, or what they are compared with instead.
        left: processes of ours or of Ray's that were there 5 s after the end.
        wrong: why the row is not as it must be; empty if it is.
        where: its folder.
        commit: of the code that it was provoked on.
    """

    name: str = ""
    did: str = ""
    saw: str = ""
    exit: str = ""
    lost_s: float | None = None
    bits: str = "-"
    left: int = 0
    wrong: str = ""
    where: str = ""
    commit: str = ""


Fault = Callable[..., Outcome]


@dataclass(frozen=True)
class Row:
    """A fault, as it is registered.

    Attributes:
        name: to ask for it.
        group: heading in the table.
        fault: called with a `Bench`, and with what distinguishes it from other rows of the same function.
        given: this.
    """

    name: str
    group: str
    fault: Fault
    given: dict[str, Any] = field(default_factory=dict)


ROWS: dict[str, Row] = {}


def row(group: str, **variants: dict[str, Any]) -> Callable[[Fault], Fault]:
    """Register a fault by its function's name, or several by it and the names of what they are given."""

    def register(fault: Fault) -> Fault:
        name = fault.__name__.replace("_", "-")
        for variant, given in (variants or {"": {}}).items():
            full = f"{name}-{variant.replace('_', '-')}" if variant else name
            ROWS[full] = Row(full, group, fault, given)
        return fault

    return register


def save(outcome: Outcome, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{outcome.name}.json").write_text(json.dumps(asdict(outcome), indent=1))


def read(folder: Path) -> dict[str, Outcome]:
    """Outcomes that are there, in the order of the registry."""
    found = {file.stem: Outcome(**json.loads(file.read_text())) for file in folder.glob("*.json")}
    return {name: found[name] for name in ROWS if name in found}


def table(outcomes: Iterable[Outcome]) -> str:
    """Markdown, a heading a group."""
    lines: list[str] = []
    group = ""
    for outcome in outcomes:
        if ROWS[outcome.name].group != group:
            group = ROWS[outcome.name].group
            lines += [
                "", f"## {group}", "",
                "| Row | What was done | What the user saw | Exit | Lost, s | Bits | Left |",
                "| --- | --- | --- | --- | ---: | --- | ---: |",
            ]  # fmt: skip
        lost = "-" if outcome.lost_s is None else f"{max(0.0, outcome.lost_s):.0f}"
        saw = outcome.saw.replace("|", "\\|")
        if outcome.wrong:
            saw += f"<br>**WRONG: {outcome.wrong.replace('|', chr(92) + '|')}**"
        cells = [f"`{outcome.name}`", outcome.did, saw, outcome.exit, lost, outcome.bits, str(outcome.left)]
        lines.append("| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines).strip() + "\n"
