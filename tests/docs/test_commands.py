"""Every command that README and docs show is one: read by the real parser, every name and key in it known."""

import argparse
import functools
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pages import Command, commands
from repository import ROOT

from fcit_ray.config.schema import Config
from fcit_ray.config.trials import load_sweep
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import make_algorithm

COMMANDS = commands()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
HARMLESS = ("list", "show", "copy", "schema", "--version")  # they are really run
ELSEWHERE = {  # other tools' commands: the words that may begin them
    "git": ("clone",), "cd": ("fcit_ray",), ".": (".venv/bin/activate",),
    "ray": ("start", "job", "up", "dashboard", "get-auth-token"),
    "pip": ("install",), "pre-commit": ("install",), ".venv/bin/pre-commit": ("install",),
    "docker": ("build", "run"), "kubectl": ("apply",),
    "sbatch": ("--nodes=4",),  # what stands behind it is read by the tests of deploy/
}  # fmt: skip


OWN = ("signs.yaml", "mine.yaml")
"""Configurations that the pages have their readers write by `fcit-ray prepare init`."""


class _Parsed(Exception):
    """The real parser has taken the arguments; what they would start does not start."""


def taken_by_argparse(monkeypatch: pytest.MonkeyPatch, file: Path, arguments: list[str]) -> None:
    """Run a script up to the point where its arguments are read."""
    for name in ("parse_args", "parse_intermixed_args"):
        real: Callable[..., Any] = getattr(argparse.ArgumentParser, name)

        def stop(self: Any, *args: Any, real: Callable[..., Any] = real, **keywords: Any) -> None:
            raise _Parsed(real(self, *args, **keywords))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    with pytest.raises(_Parsed):
        runpy.run_path(str(file), run_name="__main__")


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """How `fcit-ray` ends when it is called so."""
    from fcit_ray.cli import app as cli

    monkeypatch.setattr(sys, "argv", ["fcit-ray", *arguments])
    try:
        cli.main()
    except SystemExit as exit:
        return exit.code or 0
    return 0


@pytest.fixture(scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `prepare init` writes of the data that the tutorial draws."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["draw.py", "signs", "--num", "20"])
        runpy.run_path(str(ROOT / "examples/own_data/draw.py"), run_name="__main__")
        for name in OWN:
            assert exit_code(patch, "prepare", "init", "signs", "--out", name) == 0
    return folder


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], dict[str, Any]]:
    """Have `fcit-ray` read arguments by its real parser; gives the values by parameter instead of starting anything."""
    from fcit_ray.cli import app as cli

    got: list[dict[str, Any]] = []

    def instead(info: Any) -> None:
        real = info.callback

        @functools.wraps(real)
        def keep(**values: Any) -> None:
            got.append(values)

        monkeypatch.setattr(info, "callback", keep)

    def leaves(application: Any) -> Iterator[Any]:
        yield from application.registered_commands
        for group in application.registered_groups:
            yield from leaves(group.typer_instance)

    for info in leaves(cli.app):
        instead(info)

    def read(arguments: list[str]) -> dict[str, Any]:
        assert exit_code(monkeypatch, *arguments) == 0
        (values,) = got
        return values

    return read


def configured(words: list[str], more: tuple[str, ...] = ()) -> Config:
    """The configuration that a command names, as `run` loads it."""
    import fcit_ray

    overrides = [word for word in words if "=" in word and "/" not in word.partition("=")[0]]
    return fcit_ray.load_config(*[word for word in words if word not in overrides], *more, overrides=overrides)


def check_meaning(arguments: list[str], values: dict[str, Any], refused: bool) -> None:
    """That configurations, methods and sweeps that the values name exist and are taken, or refused as the page says."""
    first = arguments[1] if arguments[0] == "prepare" else arguments[0]
    lists = [list(value) for value in values.values() if isinstance(value, list | tuple) and value]
    if first in ("run", "compare", "partition"):
        words = next(found for found in lists if found[0] in arguments and found != values.get("methods"))
        for more in [(method,) for method in values.get("methods") or ()] or [()]:
            with pytest.raises(ConfigError) if refused else nullcontext():
                make_algorithm(configured(words, more))
    if first == "sweep":
        overrides = [word for word in arguments if "=" in word]
        file = Path(arguments[1])
        load_sweep(file if file.suffix else ROOT / "configs" / f"{file}.yaml", overrides)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "fcit-ray"], ids=str)
def test_a_command_is_taken(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path, request) -> None:
    arguments = list(command.words[1:])
    if path := command.environment.get("PYTHONPATH"):
        monkeypatch.syspath_prepend(str(ROOT / path))
    if arguments[0] in HARMLESS:
        monkeypatch.chdir(tmp_path)
        assert exit_code(monkeypatch, *arguments) == 0
        return
    own = any(word in OWN for word in arguments)
    monkeypatch.chdir(request.getfixturevalue("own_data") if own else ROOT)
    values = request.getfixturevalue("taken")(arguments)
    check_meaning(arguments, values, "refused" in command.comment)


def scripts() -> Iterator[Command]:
    """Commands that run a file by Python, also those that Ray is to run."""
    for command in COMMANDS:
        if "python" in command.words:
            words = command.words[command.words.index("python") :]
            yield Command(command.page, words, command.environment, command.comment)


@pytest.mark.parametrize("command", list(scripts()), ids=str)
def test_a_script_takes_its_arguments(command: Command, monkeypatch: pytest.MonkeyPatch, request) -> None:
    file, arguments = ROOT / command.words[1], list(command.words[2:])
    assert file.is_file()
    monkeypatch.chdir(ROOT)
    if "argparse" in file.read_text():
        monkeypatch.syspath_prepend(file.parent)  # as where it is run
        taken_by_argparse(monkeypatch, file, arguments)
    else:  # it hands them to the command of its name
        arguments = [file.stem, *arguments]
        check_meaning(arguments, request.getfixturevalue("taken")(arguments), "refused" in command.comment)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] not in ("fcit-ray", "python")], ids=str)
def test_no_other_command_is_shown_but_known_ones(command: Command) -> None:
    tool, first, *rest = command.words
    if tool == "make":
        assert first in TARGETS
        return
    assert first in ELSEWHERE[tool]
    for extra in re.findall(r"fcit_ray\[(\w+)\]", " ".join(rest)):
        assert extra in EXTRAS
    for file in rest:
        if file.endswith(".yaml"):
            assert (ROOT / file).is_file()


def test_commands_are_found() -> None:
    assert sum(command.words[0] == "fcit-ray" for command in COMMANDS) > 40
    assert {command.page for command in COMMANDS} >= {"README.md", "docs/tutorial.md", "docs/how-to/cluster.md"}


# A chain that is really run, at a size that takes seconds and without Ray (tests/runtime/test_notebook.py has it).


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `fcit-ray` prints; fails unless it exits with 0."""
    code = exit_code(monkeypatch, *arguments)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def test_data_are_drawn_looked_over_and_shared_out_as_the_pages_say(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "data/miniature" in call(monkeypatch, capsys, "prepare", "miniature", "--num-train", "24")
    call(monkeypatch, capsys, "prepare", "check", "data/miniature", "--jobs", "1")
    tiny = ["benchmark.tasks=[ArxivQA, ImageNet-R]", "benchmark.num_clients=5", "benchmark.min_samples=2"]
    call(monkeypatch, capsys, "prepare", "partition", "miniature", *tiny, "--out", "data/miniature/split")
    assert (tmp_path / "data/miniature/split/Task1/client_0.json").is_file()
    split = ["benchmark.partition=files", "benchmark.partition_files=split", "benchmark.num_clients=5"]
    plan = call(monkeypatch, capsys, "run", "miniature", "disco", *tiny[:1], *split, "--plan")
    assert "Memory of one worker" in plan
