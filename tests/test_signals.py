"""Signals: one sentence, the code that a shell expects, and an end in bounded time, whatever the process is doing."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from fcit_ray import signals
from fcit_ray.cli.common import exit_on_error
signals.GRACE_S, signals.SAY_S = 1.0, 0.3
signals.heed(leave=True)
with exit_on_error("start it again"):
    try:
        print("there", flush=True)
        time.sleep(30)
    finally:
        {last}
"""


def start(last: str = "pass", program: str = PROGRAM, **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program.format(last=last)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # type: ignore[call-overload]  # fmt: skip
    assert process.stdout.readline() == "there\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_with_its_name_what_to_do_and_128_and_its_number(number: signal.Signals, code: int) -> None:
    process = start()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, f"interrupted ({number.name}); start it again\n")


def test_who_does_not_get_out_is_put_out_after_the_grace_and_has_said_why_long_before() -> None:
    process = start("time.sleep(30)")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    first = process.stderr.readline()
    assert time.monotonic() - began < 0.9, "the sentence is for who is killed before the grace is over"
    _, rest = process.communicate(timeout=60)
    assert 0.9 < time.monotonic() - began < 5.0
    assert first == "interrupted (SIGTERM); start it again\n"
    assert rest == "not out after 1 s: left without waiting any longer\n"
    assert process.returncode == 143


def test_a_second_signal_ends_at_once() -> None:
    process = start("print('leaving', flush=True); time.sleep(30)")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "leaving\n"
    began = time.monotonic()
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 0.9
    assert process.returncode == 129
    assert said.endswith("SIGHUP again: left at once\n")


@pytest.mark.parametrize(
    ("within", "said"), [("exit_on_error('go on')", "go on"), ("nullcontext()", "nothing was begun")]
)
def test_what_the_interpreter_would_do_at_its_end_does_not_change_the_exit_code(within: str, said: str) -> None:
    """Ray ends a process that asks it for something after its own end: at once, with 1."""
    program = f"""
import atexit, os, time
from contextlib import nullcontext
from fcit_ray.cli import app
from fcit_ray.cli.common import exit_on_error
atexit.register(os._exit, 1)
def run(command):
    with {within}:
        print("there", flush=True)
        time.sleep(30)
app._run = run
app.main()
"""
    process = start(program=program)
    process.send_signal(signal.SIGTERM)
    _, heard = process.communicate(timeout=10)
    assert (process.returncode, heard) == (143, f"interrupted (SIGTERM); {said}\n")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """`nohup`."""
    process = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_in_somebody_elses_process_there_is_an_exception_alone() -> None:
    """`fcit_ray.run` in a notebook: Ctrl-C is Python's own, and nobody ends the process."""
    program = """
import os, signal
from fcit_ray import signals
signals.heed()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt as interrupt:
        assert interrupt.number == number
    else:
        raise SystemExit("not heeded")
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60).stderr == b""
