"""The display informs in a terminal, stays plain in a file, and gives the terminal back however the run ends."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from repository import ROOT
from rich.console import Console

from fcit_ray.cli.display import Display
from fcit_ray.runtime.status import Line, Status, describe, duration

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\x9b]")


def training(round: int, done: int, **fields: object) -> Status:
    values: dict[str, object] = {
        "label": "disco", "phase": "training", "stage": 1, "num_stages": 8, "task": "ImageNet-R", "round": round,
        "num_rounds": 3, "done": done, "total": 5, "loss": 1.25, "seconds_left": 60.0 * (9 - done),
    }  # fmt: skip
    return Status(**{**values, **fields})  # type: ignore[arg-type]


def test_a_file_gets_one_plain_line_a_change() -> None:
    output = io.StringIO()
    with Display(Console(file=output)) as display:
        display.update(Status(label="disco", phase="preparing"))
        for round in range(2):
            for done in range(6):
                display.update(training(round, done))
        display.update(Status(label="disco", phase="evaluating", stage=1, num_stages=8, task="ArxivQA", total=40))
        display.note("stage 2: mean score 61.0 %")
        display.update(Status(label="disco", phase="done", message="Last 56.2"))
    assert output.getvalue().splitlines() == [
        "disco  preparing",
        "disco  training  stage 2/8  ImageNet-R  round 1/3  loss 1.250  9 min left",
        "disco  training  stage 2/8  ImageNet-R  round 2/3  loss 1.250  9 min left",
        "disco  evaluating  stage 2/8  ArxivQA",
        "stage 2: mean score 61.0 %",
        "disco  done  Last 56.2",
    ]


def test_a_file_gets_every_line_of_a_status_once_however_seldom_it_looks() -> None:
    output = io.StringIO()
    lines = tuple(Line(f"line {number}", lasting=number % 2 == 0) for number in range(6))
    with Display(Console(file=output)) as display:
        display.update(training(0, 0, lines=lines[:1], num_lines=1))
        display.update(training(1, 0, lines=lines[:1], num_lines=1))
        # Of three new ones the first has fallen out of what travels.
        display.update(training(2, 0, lines=lines[2:4], num_lines=4))
        display.update(training(2, 1, lines=lines[2:6], num_lines=6))
    assert output.getvalue().splitlines() == ["line 0", "line 2", "line 3", "line 4", "line 5"]


def test_a_client_that_is_alone_moves_by_its_steps() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Display(console) as display:
        lines = (Line("passing"), Line("scores", lasting=True))
        display.update(training(0, 0, total=1, steps=(240, 960), lines=lines, num_lines=2))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "240/960 steps" in shown
    assert "clients" not in shown
    assert "scores" in shown
    assert "passing" not in shown, "it is redrawn in place in a terminal"


def test_long_lines_are_not_wrapped_and_control_characters_not_passed_on() -> None:
    output = io.StringIO()
    with Display(Console(file=output, width=40)) as display:
        display.update(training(0, 0, label="x" * 100, message="\x1b[31mred\r\x07 [bold]"))
        display.note("two\nlines")
    lines = output.getvalue().splitlines()
    assert len(lines) == 3
    assert not CONTROL.search(output.getvalue())
    assert "[bold]" in lines[0]


def test_names_that_the_output_cannot_spell_do_not_stop_a_run() -> None:
    buffer = io.BytesIO()
    with Display(Console(file=io.TextIOWrapper(buffer, encoding="ascii"))) as display:
        display.update(Status(label="caf\u00e9", phase="training"))
        assert buffer.getvalue() == b"caf?  training\n"


def test_a_failure_says_where() -> None:
    line = describe(training(2, 3, phase="failed", message="worker 1 died"))
    assert line == "disco  failed  stage 2/8  ImageNet-R  round 3/3  worker 1 died"
    assert describe(training(0, 0, phase="evaluating", stage=-1)).startswith("disco  evaluating  zero-shot")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (-3, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 00 min"), (3900, "1 h 05 min"),
        (100 * 3600, "4 d 04 h"), (float("inf"), "unknown time"), (float("nan"), "unknown time"),
    ],
)  # fmt: skip
def test_time_is_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


PROGRAM = """
    import sys, time
    from fcit_ray.cli.display import Display, Status
    with Display() as display:
        display.update(Status(label="disco", phase="training", stage=0, num_stages=8, task="super-CLEVR", round=1,
                              num_rounds=10, done=2, total=5, loss=1.25, seconds_left=7500.0))
        print("a stray print", flush=True)
        display.note("a note")
        time.sleep(0.4)
        {end}
    print("the results", flush=True)
"""


def run_in_terminal(end: str, *, stdout: Path | None = None, term: str = "xterm") -> str:
    """What a terminal of 80 columns received from a program that shows one status."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "80", "LINES": "24", "PYTHONUTF8": "1"}
    environment["PYTHON_COLORS"] = "0"  # of tracebacks, from Python 3.13 on
    environment.pop("NO_COLOR", None)
    with stdout.open("w") if stdout else os.fdopen(os.dup(slave), "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM).format(end=end)],
            stdin=slave, stdout=output, stderr=slave, env=environment, cwd=ROOT,
        )  # fmt: skip
    os.close(slave)
    received = b""
    while select.select([master], [], [], 30)[0]:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not chunk:
            break
        received += chunk
    process.wait(timeout=30)
    os.close(master)
    return received.decode()


def plain(received: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received)


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ('display.update(Status(label="disco", phase="done", message="Last 56.2"))', "the results"),
        ('raise RuntimeError("boom")', "RuntimeError: boom"),
        (
            # A shell's background jobs ignore SIGINT, and with them a test run started as one.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "signal.raise_signal(signal.SIGINT); time.sleep(5)",
            "KeyboardInterrupt",
        ),
    ],
    ids=["done", "exception", "ctrl-c"],
)
def test_the_terminal_is_given_back(end: str, last: str) -> None:
    received = run_in_terminal(end)
    assert "\x1b[?25l" in received, "the cursor was hidden, so this was a live display"
    assert received.rindex("\x1b[?25h") > received.rindex("\x1b[?25l"), "and it is shown again"
    after = received[received.rindex("\x1b[?25h") + len("\x1b[?25h") :]
    assert not CONTROL.search(after.replace("\r\n", "\n")), "nothing but text follows"
    assert last in after
    assert ("interrupted: disco  training  stage 1/8" in after) == (last != "the results")
    text = plain(received)
    for part in ("stage 1/8", "super-CLEVR", "round 2/10", "2/5 clients", "loss 1.250", "2 h 05 min left", "a note"):
        assert part in text
    assert "a stray print\r\n" in text
    assert max(len(line) for line in re.split(r"[\r\n]+", text) if "clients" in line) <= 80


def test_redirected_standard_output_gets_its_own_and_nothing_else(tmp_path: Path) -> None:
    received = run_in_terminal("pass", stdout=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a stray print\nthe results\n"
    assert "a stray print" not in plain(received)
    assert "2/5 clients" in plain(received)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    received = run_in_terminal("pass", term="dumb")
    assert not CONTROL.search(received.replace("\r\n", "\n"))
    assert "disco  training  stage 1/8" in received


def test_several_runs_have_their_lines_each_and_the_same_words_twice_are_told_of_both() -> None:
    output = io.StringIO()
    with Display(Console(file=output)) as display:
        for label in ("DISCO", "Finetune"):
            line = Line(f"{label}  preparing", lasting=False)
            display.update(Status(label=label, phase="preparing", num_stages=2, lines=(line,), num_lines=1), label)
        more = (Line("DISCO  preparing", lasting=False), Line("DISCO  training", lasting=False))
        display.update(Status(label="DISCO", phase="training", num_stages=2, lines=more, num_lines=2), "DISCO")
        display.end("Finetune")
    assert output.getvalue().splitlines() == ["DISCO  preparing", "Finetune  preparing", "DISCO  training"]


def test_in_a_terminal_each_run_has_two_lines_until_it_ends() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Display(console) as display:
        for label in ("DISCO", "Finetune"):
            display.update(Status(label=label, phase="training", num_stages=2), label)
        with console.capture() as both:
            console.print(display._render())
        display.end("DISCO", failed=True)
        with console.capture() as one:
            console.print(display._render())
    assert [name in both.get() for name in ("DISCO", "Finetune")] == [True, True]
    assert [name in one.get() for name in ("DISCO", "Finetune")] == [False, True]
