"""What a page names is there: links, files, and blocks that a test can read."""

import re

import pytest
from pages import PAGES
from repository import ROOT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_tree_that_a_page_names_exist(page):
    for name in re.findall(
        r"`((?:fcit_ray|pipelines|benchmarks|configs|tools|tests|docs)/[\w/.-]+)`", page.read_text()
    ):
        # What a CHANGELOG tells of may be gone by now.
        assert (ROOT / name).exists() or page.name == "CHANGELOG.md", name


NAMING = [
    *(file for folder in ("fcit_ray", "pipelines", "benchmarks", "tools", "configs", "tests")
      for file in sorted((ROOT / folder).rglob("*")) if file.suffix in (".py", ".yaml")),
    *(ROOT / name for name in ("Makefile", "pyproject.toml", "mkdocs.yml", "cluster.yaml", ".pre-commit-config.yaml")),
]  # fmt: skip
NAMED = re.compile(r"(?<![\w./-])(?:fcit_ray|pipelines|benchmarks|configs|tools|tests|docs)/[\w./-]+\.(?:py|yaml|md)\b")


def test_files_of_the_tree_that_a_message_a_string_or_a_comment_names_exist():
    named = [(file, name) for file in NAMING for name in NAMED.findall(file.read_text())]
    assert len(named) > 50
    # Tests make up configurations that there are not.
    made_up = [(file, name) for file, name in named if ROOT / "tests" in file.parents and name.endswith(".yaml")]
    assert [str(file.relative_to(ROOT)) + ": " + name for file, name in named
            if (file, name) not in made_up and not (ROOT / name).exists()] == []  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_says_what_it_is(page):
    opened = re.findall(r"^ *```(\S*)", page.read_text(), re.MULTILINE)
    assert set(opened[::2]) <= {"bash", "text", "python", "yaml", "json"}, (
        "commands go into bash blocks, which are tried"
    )
    assert set(opened[1::2]) <= {""}


def test_a_file_that_a_page_shows_is_shown_as_it_is():
    shown = [
        (ROOT / name, text)
        for page in PAGES
        for name, text in re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    assert len(shown) >= 3
    for file, text in shown:
        assert file.read_text().strip() == text.strip(), file


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
