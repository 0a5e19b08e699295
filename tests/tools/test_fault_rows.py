"""The table of faults fails where a fault does not end as it must, and a planted kill hits the write that it names."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.faults import __main__ as program
from tools.faults.bench import PLANTED
from tools.faults.rows import ROWS, Outcome, Row, Wrong
from tools.faults.runs import Command


def test_a_row_that_does_not_end_as_it_must_ends_the_program_with_1_and_is_marked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def good(bench: object) -> Outcome:
        return Outcome(did="nothing", saw="a | b", exit="0", lost_s=-0.4, bits="same")

    def bad(bench: object) -> Outcome:
        raise Wrong("other bits")

    monkeypatch.setitem(ROWS, "good-one", Row("good-one", "Planted", good))
    monkeypatch.setitem(ROWS, "bad-one", Row("bad-one", "Planted", bad))
    call = ["faults", "--folder", str(tmp_path / "f"), "--seed", "3", "--out", str(tmp_path / "table.md")]
    monkeypatch.setattr(sys, "argv", [*call, "good-one"])
    assert program.main() == 0
    monkeypatch.setattr(sys, "argv", [*call, "bad-one"])
    assert program.main() == 1
    said = (tmp_path / "table.md").read_text()
    assert "2 faults provoked on real runs, 1 of them not ending as they must" in said
    assert r"| `good-one` | nothing | a \| b | 0 | 0 | same | 0 |" in said
    assert "**WRONG: other bits (seed 3)**" in said


@pytest.mark.parametrize(
    ("call", "when", "left"),
    [
        ("replace", "before", ["old", "old\n"]),  # the second write of the name is lost, the first stays
        ("replace", "after", ["new", "old\n"]),
        ("fsync", "torn", ["new", "old\nne"]),  # of the second line, four letters with its end, half are kept
    ],
)
def test_a_planted_kill_hits_the_write_that_it_names(tmp_path: Path, call: str, when: str, left: list[str]) -> None:
    whole, lines = tmp_path / "whole.txt", tmp_path / "lines.txt"
    plan = {"call": call, "path": "whole.txt$" if call == "replace" else "lines.txt$", "number": 2, "when": when}
    script = f"""
import os
from pathlib import Path
from fcit_ray.storage.durable import write_text
for text in ("old", "new"):
    write_text(Path({str(whole)!r}), text)
    with open({str(lines)!r}, "a") as file:
        file.write(text + "\\n")
        file.flush()
        os.fsync(file)
"""
    environment = {**os.environ, "PYTHONPATH": str(PLANTED)}
    environment["FAULTS_WRITE"] = json.dumps({**plan, "once": str(tmp_path / "once")})
    run = [sys.executable, "-c", script]
    assert subprocess.run(run, env=environment).returncode == -signal.SIGKILL
    assert [whole.read_text(), lines.read_text()] == left
    # What has killed once leaves the next process alone.
    assert subprocess.run(run, env=environment).returncode == 0


def test_a_command_that_ends_before_what_is_waited_for_is_told_and_what_it_left_is_found(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    leave = f"import subprocess, sys; subprocess.Popen(['sleep', '60'], stdout=open({str(mark)!r}, 'w')); print('bye')"
    command = Command([sys.executable, "-c", leave], tmp_path, dict(os.environ), str(mark))
    with pytest.raises(Wrong, match="ended with 0 before it said 'never'; the last it said: bye"):
        command.line("never", wait_s=30)
    assert command.end() == 0
    assert command.left() == ["sleep 60"]
    command.destroy()
    assert command.left() == []
