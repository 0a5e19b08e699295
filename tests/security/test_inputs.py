"""What each file may do: every line of the page on security names a test, and here are those that fit nowhere else."""

import ast
import re
from pathlib import Path

import pytest
from repository import ROOT

from fcit_ray.errors import ConfigError
from fcit_ray.models.chat import render_chat
from fcit_ray.models.load import load_processor
from fcit_ray.models.prompt import Turn

PAGE = ROOT / "docs/explanation/security.md"
LINES = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| File |"))
]


def _tests_in(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_table_is_read() -> None:
    assert len(LINES) >= 25
    assert {len(line) for line in LINES} == {4}


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_a_line_names_a_test_that_there_is(line: list[str]) -> None:
    named = re.fullmatch(r"`(tests/\S+\.py)::(test_\w+)`", line[3])
    assert named, line
    assert named[2] in _tests_in(ROOT / named[1])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__' of 'list' object"),
        ("{{ ''.join.__globals__.os }}", "cannot be rendered"),
        ("{% for number in range(10**9) %}x{% endfor %}", "cannot be rendered: Range too big"),
        ("{% include '/etc/passwd' %}", "cannot be rendered"),
        ("{{ messages.append(1) }}", "cannot be rendered"),
    ],
)
def test_a_chat_template_does_not_reach_python(template: str, said: str) -> None:
    processor = load_processor("tiny")
    before = processor.chat_template
    processor.chat_template = template
    try:
        with pytest.raises(ConfigError, match=r"the chat template of .* cannot be rendered: ") as caught:
            render_chat([Turn("<image>\nwhich ?", "red")], processor)
    finally:
        processor.chat_template = before
    assert said in str(caught.value)
