"""The tutorial on one's own data runs, command by command, as it stands, and shows what a reader will see."""

import re
import runpy
import shlex
import sys

import pytest
from repository import ROOT

from fcit_ray.cli import app as cli

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow]

PAGE = (ROOT / "docs/tutorial-own-data.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DRAWN_OR_TIMED = re.compile(r"[─ ]+|.*loss .*|.* left\b.*|.*\d\.\d.*")
"""Lines that another kind of CPU, or a quicker one, says otherwise, and rules of tables."""


def said_by(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What a command prints; fails unless it exits with 0."""
    tool, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    if tool == "python":
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    else:
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert not exit.value.code, capsys.readouterr().err
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_the_tutorial_runs_as_it_stands_and_shows_what_is_printed(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(PAGE)
    printed = ""
    commands = 0
    for language, text in blocks:
        if language == "bash":
            for command in text.splitlines():
                printed = said_by(monkeypatch, capsys, command)
                commands += 1
        elif language == "text":
            lines = {line.rstrip() for line in printed.splitlines()}
            shown = [line for line in map(str.rstrip, text.splitlines()) if line and line.strip() != "..."]
            told = [line for line in shown if not DRAWN_OR_TIMED.fullmatch(line)]
            assert [line for line in told if line not in lines] == []
            assert told
    assert commands == 6
    (declared,) = [text for language, text in blocks if language == "yaml"]
    written = (tmp_path / "signs.yaml").read_text()
    assert [line for line in declared.splitlines() if line not in written.splitlines()] == []
    (record,) = [text.strip() for language, text in blocks if language == "json"]
    assert re.sub(r"\s+", "", record) in re.sub(r"\s+", "", (tmp_path / "signs/colours.json").read_text())
    # `printed` is the last command's, the table: what the page says of who forgot is so.
    score = {name: [float(x) for x in cells.split()] for name, cells in re.findall(r"^ (DISCO|Finetune) +([\d. ]+)$",
             printed, re.MULTILINE)}  # fmt: skip
    assert score["Finetune"][4] < 50 < score["DISCO"][4]  # colours, after shapes were learned
    assert score["DISCO"][3] < 20 < score["Finetune"][3]  # forgetting
