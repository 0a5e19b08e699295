"""The pages that are read as they lie in the repository, and the commands that they show."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from repository import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command as a page shows it.

    Attributes:
        page: where, relative to the repository.
        words: as the shell would split it, variables filled in.
        environment: set for this command alone.
        comment: what stands behind it.
    """

    page: str
    words: tuple[str, ...]
    environment: dict[str, str]
    comment: str

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(text: str, language: str) -> list[str]:
    """The contents of a page's fenced blocks of a language."""
    return [content for _, named, content in _BLOCK.findall(text) if named == language]


def commands() -> list[Command]:
    """All commands in `bash` blocks of all pages, in order."""
    return [command for page in PAGES for command in _read(page)]


def _read(page: Path) -> Iterator[Command]:
    block = "\n".join(blocks(page.read_text(), "bash"))
    variables: dict[str, str] = {}
    for line in block.replace("\\\n", " ").splitlines():
        code, _, comment = line.partition(" #") if not line.startswith("#") else ("", "", line)
        for part in code.split("&&"):
            filled = Template(part).substitute(variables)
            words = shlex.split(filled)
            environment: dict[str, str] = {}
            while words and re.fullmatch(r"[A-Z]\w*=.*", words[0], re.DOTALL):
                name, _, value = words.pop(0).partition("=")
                environment[name] = value
            if words:
                yield Command(str(page.relative_to(ROOT)), tuple(words), environment, comment.strip())
            else:
                variables |= environment
